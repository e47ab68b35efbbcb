"""connect(): from what a program has to a client; threads; a connection that is lost."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

import pgmeaning
from pgmeaning import Client
from pgmeaning.database import migrate
from pgmeaning.embedded_server.server import EmbeddedServer
from pgmeaning.errors import (
    ArgumentError,
    CollectionError,
    ConnectionFailed,
    DatabaseError,
    PermissionDenied,
    SchemaOutdated,
    TimedOut,
)
from tests.integration.docs import Docs
from tests.integration.roles import Role
from tests.types import Connect, Connection

DOCS = Docs(
    columns="id int PRIMARY KEY, body text, seen timestamptz DEFAULT 'infinity'",
    rows="SELECT i, 'body ' || i FROM generate_series(1, 9) AS i",
    attach="columns => '{body}'",
    embedded=True,
    cached={"seven": "body 7"},
)


def url(dsn: str, driver: str = "psycopg") -> sqlalchemy.URL:
    """SQLAlchemy's URL of a DSN."""
    given = psycopg.conninfo.conninfo_to_dict(dsn)
    query = {"host": str(given["host"])} if str(given["host"]).startswith("/") else {}
    return sqlalchemy.URL.create(
        f"postgresql+{driver}", str(given["user"]), str(given["password"]) if "password" in given else None,
        None if query else str(given["host"]), int(given["port"] or 5432), str(given["dbname"]), query,
    )  # fmt: skip


@pytest.fixture
def engine(dsn: str) -> Iterator[sqlalchemy.Engine]:
    made = sqlalchemy.create_engine(url(dsn))
    yield made
    made.dispose()


def check(client: Client) -> None:
    """It searches, with vectors, rows and times as Python's."""
    [hit] = client.search("docs", "seven", k=1)
    assert (hit.key, hit.row["seen"]) == ({"id": 7}, "infinity")
    vector = client.embed("seven", collection="docs")
    assert client.nearest("docs", vector, k=1)[0].key == {"id": 7}


def end(db: Connection, *pids: int) -> None:
    for pid in pids:
        db.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))


# What it takes


def test_without_a_target_the_environment_names_the_database(
    docs: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PGMEANING_DSN", dsn)
    with pgmeaning.connect() as client:
        check(client)
    monkeypatch.delenv("PGMEANING_DSN")
    (tmp_path / "dsn").write_text(dsn)
    monkeypatch.setenv("PGMEANING_DSN_FILE", str(tmp_path / "dsn"))
    with pgmeaning.connect("") as client:
        check(client)
    monkeypatch.delenv("PGMEANING_DSN_FILE")
    for name, value in psycopg.conninfo.conninfo_to_dict(dsn).items():
        monkeypatch.setenv({"dbname": "PGDATABASE"}.get(name, f"PG{name.upper()}"), str(value))
    with pgmeaning.connect() as client:
        check(client)


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_a_url_of_sqlalchemy_is_an_address(docs: Connection, dsn: str, driver: str) -> None:
    address = url(dsn, driver)
    for target in (address, address.render_as_string(hide_password=False)):
        with pgmeaning.connect(target) as client:
            check(client)


def test_an_engine_lends_a_connection_for_each_call(docs: Connection, engine: sqlalchemy.Engine) -> None:
    with pgmeaning.connect(engine) as client:
        check(client)
        assert engine.pool.status().count("Current Checked out connections: 0") == 1
        with pytest.raises(ArgumentError, match="no connection of its own"):
            client.connection  # noqa: B018
    with engine.connect() as connection:  # as the engine makes them, whatever the client did with it
        assert not connection.connection.driver_connection.autocommit  # type: ignore[union-attr]


def test_of_an_engine_with_another_driver_the_url_is_taken(docs: Connection, dsn: str) -> None:
    with pgmeaning.connect(create_async_engine(url(dsn, "asyncpg"))) as client:
        check(client)


def test_a_pool_lends_a_connection_for_each_call(docs: Connection, dsn: str) -> None:
    with ConnectionPool(dsn, min_size=1, max_size=2, open=True) as pool:
        with pgmeaning.connect(pool) as client:
            check(client)
            client.wait_for("docs", timeout=5)  # a procedure that commits
        with pool.connection() as connection:
            assert not connection.autocommit
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_connection_is_used_as_it_is_and_left_as_it_was(docs: Connection, dsn: str) -> None:
    with psycopg.connect(dsn, row_factory=dict_row, cursor_factory=psycopg.ClientCursor) as connection:
        with pgmeaning.connect(connection) as client:
            check(client)
        row = connection.execute("SELECT embedding, 1 AS one FROM docs_embedding LIMIT 1").fetchone()
        assert row is not None
        assert row["one"] == 1
        assert isinstance(row["embedding"], str)
        assert connection.cursor_factory is psycopg.ClientCursor


def test_a_connection_keeps_its_transaction(db: Connection, connect: Connect) -> None:
    DOCS.make(db)
    connection = connect(autocommit=False)
    client = pgmeaning.connect(connection)
    client.detach("docs")
    assert db.execute("SELECT count(*) FROM pgmeaning.status").fetchone() == (1,)
    connection.rollback()
    assert [row["collection"] for row in client.status()] == ["docs"]


def test_a_session_of_sqlalchemy_keeps_its_transaction(
    db: Connection, docs: Connection, engine: sqlalchemy.Engine
) -> None:
    with Session(engine) as session:
        client = pgmeaning.connect(session)
        check(client)
        with client.transaction():
            client.detach("docs")
        assert db.execute("SELECT count(*) FROM pgmeaning.status").fetchone() == (1,)
        session.rollback()
        assert len(client.status()) == 1
        client.detach("docs")
        session.commit()
    assert db.execute("SELECT count(*) FROM pgmeaning.status").fetchone() == (0,)


def test_a_connection_of_sqlalchemy_keeps_its_transaction(
    db: Connection, docs: Connection, engine: sqlalchemy.Engine
) -> None:
    with engine.connect() as connection:
        pgmeaning.connect(connection).detach("docs")
        assert db.execute("SELECT count(*) FROM pgmeaning.status").fetchone() == (1,)
        connection.commit()
    assert db.execute("SELECT count(*) FROM pgmeaning.status").fetchone() == (0,)


@pytest.mark.parametrize("target", [5, object(), [], b"host=a"])
def test_anything_else_is_refused(target: object) -> None:
    with pytest.raises(ArgumentError, match=f"connect\\(\\) takes no {type(target).__name__}"):
        pgmeaning.connect(target)  # type: ignore[arg-type]


def test_a_pool_of_a_database_without_pgmeaning_says_to_migrate(empty_dsn: str) -> None:
    with ConnectionPool(empty_dsn, min_size=1, open=True) as pool, pytest.raises(SchemaOutdated):
        pgmeaning.connect(pool)


# A connection that is lost


def test_a_lost_connection_comes_back(docs: Connection, dsn: str) -> None:
    with pgmeaning.connect(dsn) as client:
        lost = client.connection
        end(docs, lost.info.backend_pid)
        client.pause("docs")  # also what writes: nothing had been sent
        assert client.connection is not lost
        check(client)


def test_a_lost_connection_does_not_come_back_within_a_transaction(docs: Connection, dsn: str) -> None:
    with pgmeaning.connect(dsn) as client:

        def transaction() -> None:
            with client.transaction() as own:
                client.pause("docs")
                end(docs, own.info.backend_pid)
                with pytest.raises(ConnectionFailed):
                    client.resume("docs")
                client.resume("docs")  # nor at the next call

        with pytest.raises(ConnectionFailed, match="within a transaction") as caught:
            transaction()
        assert caught.value.hint == "run the whole transaction again"
        assert client.status("docs")[0]["state"] != "paused"
        client.connection.execute("BEGIN")
        end(docs, client.connection.info.backend_pid)
        with pytest.raises(ConnectionFailed, match="within a transaction"):
            client.pause("docs")
        check(client)


def test_connections_of_an_engine_and_of_a_pool_are_taken_where_they_live(
    docs: Connection, dsn: str, engine: sqlalchemy.Engine
) -> None:
    with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool:
        for client in (pgmeaning.connect(engine), pgmeaning.connect(pool)):
            with client.transaction() as connection:
                pid = connection.info.backend_pid
            end(docs, pid)
            check(client)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the account of an embedded server may enter, also where the tests run as root."""
    made = Path(tempfile.mkdtemp(prefix="pgmeaning-restarted-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_a_client_outlives_a_restart_of_the_server(folder: Path) -> None:
    server = EmbeddedServer(folder / "data", settings={"fsync": "off"})
    with server:
        migrate.upgrade(server.dsn)
        client = pgmeaning.connect(server.dsn, reconnect_timeout=0)
    with pytest.raises(ConnectionFailed):
        client.status()
    with server, client:
        assert client.status() == []


def test_a_closed_client_stays_closed(dsn: str) -> None:
    with pgmeaning.connect(dsn) as client:
        pass
    with pytest.raises(ConnectionFailed, match="closed"):
        client.status()


# Threads


def test_threads_that_share_a_client_do_not_get_into_each_others_transactions(
    docs: Connection, dsn: str, engine: sqlalchemy.Engine
) -> None:
    for client in (pgmeaning.connect(dsn), pgmeaning.connect(engine)):
        with client:
            thread = threading.Thread(target=client.want_index, args=("docs", "none"))

            def transaction(client: Client = client, thread: threading.Thread = thread) -> None:
                with client.transaction():
                    client.pause("docs")
                    thread.start()
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                transaction()
            thread.join(30)
            assert client.status("docs")[0]["state"] != "paused"
            assert docs.execute("SELECT wanted FROM pgmeaning.vector_index").fetchone() == ("none",)
            client.want_index("docs", "auto")


def test_many_threads_may_share_a_client(docs: Connection, dsn: str) -> None:
    with pgmeaning.connect(dsn) as client:
        wrong: list[BaseException] = []

        def _search() -> None:
            try:
                for _ in range(5):
                    check(client)
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=_search) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert wrong == []


# Times and errors


def test_a_statement_may_take_so_long(docs: Connection, dsn: str) -> None:
    docs.execute("CREATE FUNCTION slow(int) RETURNS bool LANGUAGE sql AS 'SELECT true FROM pg_sleep(30)'")
    with pgmeaning.connect(dsn, statement_timeout=0.2) as client, pytest.raises(TimedOut) as caught:
        client.search("docs", "seven", filter="slow(id)")
    assert caught.value.sqlstate == "57014"


def test_a_statements_time_is_for_own_connections(engine: sqlalchemy.Engine) -> None:
    with pytest.raises(ArgumentError, match="statement_timeout"):
        pgmeaning.connect(engine, statement_timeout=1)


def test_what_the_database_refuses_has_a_class(docs: Connection, dsn: str, role: Role) -> None:
    with pgmeaning.connect(dsn) as client:
        with pytest.raises(CollectionError):
            client.pause("nope")
        with pytest.raises(ArgumentError) as refused:
            client.search("docs", "seven", k=0)
        assert isinstance(refused.value, DatabaseError)
        assert refused.value.sqlstate == "PM014"
    with (
        pgmeaning.connect(make_conninfo(dsn, user=role.name, password="of-this-test")) as client,
        pytest.raises(PermissionDenied),
    ):
        client.search("docs", "seven")
