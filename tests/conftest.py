"""A real PostgreSQL for every test: the first of PGMEANING_TEST_DSN, a container engine, the embedded server.

Each test that asks for `dsn` gets a database of its own, cloned from a template that was migrated once.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgmeaning.database import migrate
from pgmeaning.database.loopback import ensure_loopback
from pgmeaning.sidecar.process import Sidecar
from tests.installation import ONE_ROLE, Installation, Installations
from tests.types import Connect, Connection, Drain

# Several processes run the tests: each one's torch with a thread a core would keep the others waiting.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A script that starts the tests in its background has SIGINT ignored, which the programs that they start would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# All tables are the tests' own, but for those tests that say otherwise.
os.environ.setdefault("PGMEANING_ALLOW_SUPERUSER", "1")

TEMPLATE = "pgmeaning_test_template"
_numbers = itertools.count(1)


@contextmanager
def _embedded() -> Iterator[str]:
    from pgmeaning.embedded_server.server import EmbeddedServer

    folder = Path(tempfile.mkdtemp(prefix="pgmeaning-tests-"))
    folder.chmod(0o755)  # as root the server runs as another account, which must get through
    settings = {"fsync": "off", "full_page_writes": "off", "max_connections": "200", "cluster_name": "tests"}
    try:
        with EmbeddedServer(folder / "data", settings=settings) as server:
            yield server.dsn
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _container() -> Iterator[str]:
    from testcontainers.postgres import PostgresContainer

    with PostgresContainer("pgvector/pgvector:pg17", driver=None) as container:
        yield container.get_connection_url()


def _engine_answers() -> bool:
    # Its client, refused a connection, leaves a socket open: so not where there is plainly no engine.
    if not os.environ.get("DOCKER_HOST") and not Path("/var/run/docker.sock").exists():
        return False
    try:
        import docker

        with closing(docker.from_env()) as client:
            client.ping()
    except Exception:
        return False
    return True


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """A superuser's DSN on a server that tests may fill with databases."""
    given = os.environ.get("PGMEANING_TEST_DSN")
    if given:
        yield given
    elif _engine_answers():
        with _container() as dsn:
            yield dsn
    else:
        with _embedded() as dsn:
            yield dsn


@pytest.fixture(scope="session")
def template(server_dsn: str) -> Iterator[str]:
    """The name of a migrated database that nobody is connected to."""
    name = f"{TEMPLATE}_{os.getpid()}"
    _create(server_dsn, name, "template0")
    migrate.upgrade(make_conninfo(server_dsn, dbname=name))
    with psycopg.connect(make_conninfo(server_dsn, dbname=name), autocommit=True) as connection:
        # Tests that name no model mean the one that costs nothing.
        connection.execute("SELECT pgmeaning.set_default_model('synthetic-384')")
    yield name
    _drop(server_dsn, name)


@pytest.fixture(scope="session")
def installations(server_dsn: str, template: str) -> Iterator[Installations]:
    """Migrated databases that nobody is connected to, by how pgmeaning is installed."""
    made = Installations(server_dsn, template)
    yield made
    for name in made.templates_with_roles():
        _drop(server_dsn, name)


@pytest.fixture
def installation(request: pytest.FixtureRequest, installations: Installations) -> Installation:
    """With one role, unless a test is parametrised with INSTALLATIONS."""
    return installations.of(getattr(request, "param", os.environ.get("PGMEANING_TEST_INSTALLATION", ONE_ROLE)))


@pytest.fixture
def dsn(server_dsn: str, installation: Installation) -> Iterator[str]:
    """A migrated database of the test's own, as who owns its tables: a superuser with one role."""
    name = f"pgmeaning_test_{os.getpid()}_{next(_numbers)}"
    _create(server_dsn, name, installation.template)
    with psycopg.connect(make_conninfo(server_dsn, dbname=name), autocommit=True) as connection:
        host = _loopback_host(connection)
        if host is None:
            ensure_loopback(connection)
        else:  # the template's, which works, for this database: it need not be tried again
            connection.execute("SELECT pgmeaning._make_loopback(%s)", (host,))
        if installation.owner is not None:
            named = (sql.Identifier(name), sql.Identifier(installation.owner))
            connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(*named))
    yield installation.dsn(make_conninfo(server_dsn, dbname=name), installation.owner)
    _drop(server_dsn, name)


def _loopback_host(connection: Connection) -> str | None:
    (options,) = connection.execute(
        "SELECT srvoptions FROM pg_foreign_server WHERE srvname = 'pgmeaning_loopback'"
    ).fetchone() or ([],)
    return next((str(option).removeprefix("host=") for option in options if option.startswith("host=")), None)


@pytest.fixture
def empty_dsn(server_dsn: str) -> Iterator[str]:
    """A database without pgmeaning."""
    name = f"pgmeaning_test_{os.getpid()}_{next(_numbers)}"
    _create(server_dsn, name, "template0")
    yield make_conninfo(server_dsn, dbname=name)
    _drop(server_dsn, name)


def _create(server_dsn: str, name: str, template: str) -> None:
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )


def _drop(server_dsn: str, name: str) -> None:
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def db(dsn: str) -> Iterator[Connection]:
    """An autocommit connection to the test's database."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def connect(dsn: str) -> Iterator[Connect]:
    """More connections to the test's database: connect(autocommit=False, user=..., password=..., options=...)."""
    opened: list[Connection] = []

    def _connect(*, autocommit: bool = True, **parameters: str) -> Connection:
        connection: Connection = psycopg.connect(make_conninfo(dsn, **parameters), autocommit=autocommit)
        opened.append(connection)
        return connection

    yield _connect
    for connection in opened:
        connection.close()


@pytest.fixture
def drain(dsn: str, installation: Installation) -> Drain:
    """Run a sidecar in this process until nothing is owed; returns its exit status. Keywords are settings."""

    def _drain(models: list[str] | None = None, **settings: Any) -> int:
        return installation.sidecar(dsn, models, **settings).run(drain=True)

    return _drain


@pytest.fixture
def sidecar(dsn: str, installation: Installation) -> Iterator[Sidecar]:
    """A running sidecar in this process, awake once the test begins; stopped at the end."""
    with running(installation.sidecar(dsn, maintenance=0.1), dsn) as started:
        yield started


@contextmanager
def running(sidecar: Sidecar, dsn: str | None = None) -> Iterator[Sidecar]:
    """Run a sidecar in a thread; it has introduced itself to the database when the body begins.

    `dsn`: by which to look, if not by the sidecar's.
    """
    thread = threading.Thread(target=sidecar.run, name="sidecar")
    thread.start()
    try:
        with psycopg.connect(dsn or sidecar.dsn, autocommit=True) as connection:
            wait_until(
                lambda: (
                    connection.execute("SELECT 1 FROM pgmeaning.sidecar WHERE id = %s", (sidecar.id,)).fetchone()
                    is not None
                )
            )
        yield sidecar
    finally:
        sidecar.stop()
        thread.join(30)
        assert not thread.is_alive(), "the sidecar did not stop"


def wait_until(condition: Callable[[], object], timeout: float = 30) -> None:
    """Poll a condition; fails the test with its source line when it does not come true."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)
