"""Fixtures for pytest: a PostgreSQL with pgmeaning, a database for each test, and a sidecar for tests that commit.

Nothing is imported or started before a test asks for it. To fill each test's database, override `pgmeaning_prepare`.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import psycopg

SERVER = "PGMEANING_TEST_DSN"
_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The model, as a setting of the project's."""
    parser.addini(
        "pgmeaning_model", "default model of the tests' databases: synthetic-384 costs nothing and knows no meaning",
        default="synthetic-384",
    )  # fmt: skip


@pytest.fixture(scope="session")
def pgmeaning_server() -> Iterator[str]:
    """A superuser's DSN on a server for tests: that of PGMEANING_TEST_DSN, else an embedded one, without fsync."""
    if given := os.environ.get(SERVER):
        yield given
        return
    from pgmeaning.embedded_server.server import EmbeddedServer

    folder = Path(tempfile.mkdtemp(prefix="pgmeaning-"))
    folder.chmod(0o755)  # as root the server runs as another account, which must get through
    settings = {"fsync": "off", "full_page_writes": "off", "max_connections": "200"}
    try:
        with EmbeddedServer(folder / "data", settings=settings) as server:
            yield server.dsn
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def pgmeaning_model(pytestconfig: pytest.Config) -> str:
    """The default model of the tests' databases; pytest's setting pgmeaning_model names another."""
    return str(pytestconfig.getini("pgmeaning_model"))


@pytest.fixture(scope="session")
def pgmeaning_prepare() -> Callable[[str], None]:
    """Called once with the DSN of the database that each test gets a copy of: override it to make tables and attach."""
    return lambda dsn: None


@pytest.fixture(scope="session")
def pgmeaning_template(
    pgmeaning_server: str, pgmeaning_model: str, pgmeaning_prepare: Callable[[str], None]
) -> Iterator[str]:
    """The name of a database with pgmeaning, prepared, that nobody is connected to."""
    from psycopg.conninfo import make_conninfo

    from pgmeaning.client.connecting import connect
    from pgmeaning.database import migrate

    with _database(pgmeaning_server, "template0") as name:
        dsn = make_conninfo(pgmeaning_server, dbname=name)
        migrate.upgrade(dsn)
        with connect(dsn) as client:
            client.set_default_model(pgmeaning_model)
        pgmeaning_prepare(dsn)
        yield name


@pytest.fixture
def pgmeaning_dsn(pgmeaning_server: str, pgmeaning_template: str) -> Iterator[str]:
    """The DSN of a database of the test's own, which may commit."""
    import psycopg
    from psycopg.conninfo import make_conninfo

    from pgmeaning.database.loopback import ensure_loopback

    with _database(pgmeaning_server, pgmeaning_template) as name:
        dsn = make_conninfo(pgmeaning_server, dbname=name)
        with psycopg.connect(dsn, autocommit=True) as connection:
            ensure_loopback(connection)  # a copy's leads to the template
        yield dsn


@pytest.fixture(scope="session")
def _pgmeaning_shared(pgmeaning_server: str, pgmeaning_template: str) -> Iterator[str]:
    """One copy for all tests that roll back: a database each would cost more than the test."""
    from psycopg.conninfo import make_conninfo

    with _database(pgmeaning_server, pgmeaning_template) as name:
        yield make_conninfo(pgmeaning_server, dbname=name)


@pytest.fixture
def pgmeaning_connection(_pgmeaning_shared: str) -> Iterator[psycopg.Connection[Any]]:
    """psycopg's connection, in a transaction that is rolled back at the end: for `embed_now`. It must not commit."""
    import psycopg

    with psycopg.connect(_pgmeaning_shared) as connection:
        try:
            yield connection
        finally:
            connection.rollback()


@pytest.fixture
def pgmeaning_sidecar(pgmeaning_dsn: str) -> Iterator[Any]:
    """A sidecar in a thread, for tests that commit: it embeds rows and answers queries of `pgmeaning_dsn`."""
    from pgmeaning.settings import Settings
    from pgmeaning.sidecar.process import Sidecar

    sidecar = Sidecar(pgmeaning_dsn, Settings(allow_superuser=True))
    thread = threading.Thread(target=sidecar.run, name="pgmeaning sidecar")
    thread.start()
    try:
        yield sidecar
    finally:
        sidecar.stop()
        thread.join(60)


@contextmanager
def _database(server: str, template: str) -> Iterator[str]:
    """A copy of a database, dropped at the end with whoever is still connected."""
    import psycopg
    from psycopg import sql

    name = f"pgmeaning_{os.getpid()}_{next(_numbers)}"
    names = {"name": sql.Identifier(name), "template": sql.Identifier(template)}
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {name} TEMPLATE {template}").format(**names))
        try:
            yield name
        finally:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {name} WITH (FORCE)").format(**names))
