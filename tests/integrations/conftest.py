"""One database and one sidecar for all suites of a process, since a suite's tests only want an empty store each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

import pgmeaning
from pgmeaning import Client
from pgmeaning.database.loopback import ensure_loopback
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def shared_dsn(server_dsn: str, template: str) -> Iterator[str]:
    """A migrated database whose default model is the synthetic one."""
    name = f"{template}_integrations"
    with psycopg.connect(server_dsn, autocommit=True) as server:
        named = (sql.Identifier(name), sql.Identifier(template))
        server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*named))
    dsn = make_conninfo(server_dsn, dbname=name)
    with psycopg.connect(dsn, autocommit=True) as connection:
        ensure_loopback(connection)
    yield dsn
    with psycopg.connect(server_dsn, autocommit=True) as server:
        server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def shared_sidecar(shared_dsn: str) -> Iterator[Sidecar]:
    """A sidecar that embeds what the tests of that database write."""
    with running(Sidecar(shared_dsn, Settings(maintenance=0.1))) as started:
        yield started


@pytest.fixture(scope="session")
def shared_client(shared_dsn: str) -> Iterator[Client]:
    """A client of that database, which tests use one after the other."""
    with pgmeaning.connect(shared_dsn) as opened:
        yield opened


@pytest.fixture
def table(shared_client: Client) -> Iterator[str]:
    """A name for a table that does not exist yet; the table and its collections are gone afterwards."""
    name = f"texts_{next(_numbers)}"
    yield name
    connection = shared_client.connection
    for (collection,) in connection.execute(
        "SELECT name FROM pgmeaning.collection WHERE source = to_regclass(%s)", (name,)
    ).fetchall():
        shared_client.detach(collection)
    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(name)))


@pytest.fixture
def anyio_backend() -> str:
    """What runs asynchronous tests."""
    return "asyncio"
