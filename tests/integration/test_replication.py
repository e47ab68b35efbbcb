"""Writes by replication: seen with `always => true`; else status says that only a reconcile finds them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgmeaning.database import migrate
from pgmeaning.embedded_server.server import EmbeddedServer
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running, wait_until
from tests.types import Connection, Drain

AS_REPLICA = "SET session_replication_role = replica; {}; RESET session_replication_role"


def make(db: Connection, always: bool, rest: str = "") -> None:
    db.execute(f"CREATE TABLE docs (id int PRIMARY KEY, body text) {rest}".encode())
    db.execute("SELECT pgmeaning.attach('docs', ARRAY['body'], always => %s)", (always,))


def embedded(db: Connection) -> list[int]:
    return [key for (key,) in db.execute("SELECT id FROM docs_embedding ORDER BY id").fetchall()]


def warning(db: Connection) -> str:
    return str(db.execute("SELECT coalesce(warning, '') FROM pgmeaning.status").fetchall()[0][0])


def subscribe(db: Connection) -> None:
    """As on a subscriber: a subscription that is not connected to anything."""
    db.execute("CREATE SUBSCRIPTION upstream CONNECTION 'dbname=none' PUBLICATION none WITH (connect = false)")
    db.execute("INSERT INTO pg_subscription_rel SELECT oid, 'docs'::regclass, 'r', NULL FROM pg_subscription")


@pytest.fixture
def subscribed(db: Connection) -> Iterator[Connection]:
    """A table `docs` that a subscription writes to, attached without `always`."""
    db.execute("SET allow_system_table_mods = on")
    make(db, always=False)
    subscribe(db)
    yield db
    db.execute("ALTER SUBSCRIPTION upstream SET (slot_name = NONE); DROP SUBSCRIPTION upstream")


def test_a_session_that_writes_as_a_replica_is_seen_with_always(db: Connection, drain: Drain) -> None:
    make(db, always=True)
    db.execute("INSERT INTO docs VALUES (1, 'one'), (2, 'two')")
    assert drain() == 0
    db.execute(AS_REPLICA.format("INSERT INTO docs VALUES (3, 'three'); DELETE FROM docs WHERE id = 1").encode())
    assert drain() == 0
    assert embedded(db) == [2, 3]
    db.execute(AS_REPLICA.format("UPDATE docs SET id = 4 WHERE id = 3").encode())
    assert drain() == 0
    assert embedded(db) == [2, 4]
    db.execute(AS_REPLICA.format("TRUNCATE docs").encode())
    assert drain() == 0
    assert embedded(db) == []


def test_partitions_are_seen_with_always(db: Connection, drain: Drain) -> None:
    make(db, True, "PARTITION BY RANGE (id)")
    db.execute("CREATE TABLE low PARTITION OF docs FOR VALUES FROM (0) TO (100)")
    assert drain() == 0
    db.execute(AS_REPLICA.format("INSERT INTO low VALUES (1, 'one'); INSERT INTO docs VALUES (2, 'two')").encode())
    assert drain() == 0
    assert embedded(db) == [1, 2]


def test_an_ordinary_write_is_recorded_once_with_always(db: Connection) -> None:
    make(db, always=True)
    db.execute("INSERT INTO docs VALUES (1, 'one')")
    assert db.execute("SELECT key FROM pgmeaning.inbox").fetchall() == [({"id": 1},)]


def test_a_table_that_a_subscription_writes_to_is_told(subscribed: Connection) -> None:
    assert "a subscription writes to public.docs, whose rows only a reconcile finds" in warning(subscribed)


def test_wait_for_does_not_claim_what_replication_hides(subscribed: Connection, drain: Drain) -> None:
    assert drain() == 0
    with pytest.raises(psycopg.Error) as raised:
        subscribed.execute("CALL pgmeaning.wait_for('docs')")
    assert raised.value.sqlstate == "PM020"


def test_a_database_whose_sessions_write_as_replicas_is_told(db: Connection) -> None:
    make(db, always=False)
    assert warning(db) == ""
    db.execute(f"ALTER DATABASE {db.info.dbname} SET session_replication_role = replica".encode())
    assert "write as replicas" in warning(db)


def test_always_takes_the_rights_of_the_owner(db: Connection) -> None:
    name = f"plain_{db.info.dbname}"
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute(f"CREATE ROLE {name}; GRANT SELECT, TRIGGER ON docs TO {name}".encode())
    db.execute(f"ALTER SCHEMA pgmeaning_data OWNER TO {name}".encode())
    db.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA pgmeaning TO {name}".encode())
    db.execute(f"GRANT CREATE ON SCHEMA public, pgmeaning TO {name}; SET ROLE {name}".encode())
    try:
        with pytest.raises(psycopg.Error) as raised:
            db.execute("SELECT pgmeaning.attach('docs', ARRAY['body'], always => true)")
        assert raised.value.sqlstate == "PM011"
        assert "fire always" in str(raised.value)
    finally:
        db.execute(f"RESET ROLE; REASSIGN OWNED BY {name} TO CURRENT_USER".encode())
        db.execute(f"DROP OWNED BY {name}; DROP ROLE {name}".encode())


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the server's account may enter, even if the tests run as root."""
    made = Path(tempfile.mkdtemp(prefix="pgmeaning-tests-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_what_a_subscription_applies_is_embedded_with_always(folder: Path) -> None:
    """Two databases of one server, so the slot is made by hand: its creation would wait for the subscriber itself."""
    with (
        EmbeddedServer(folder / "data", settings={"fsync": "off", "wal_level": "logical"}) as server,
        psycopg.connect(server.dsn, autocommit=True) as upstream,
    ):
        upstream.execute("CREATE DATABASE subscriber TEMPLATE template0")
        upstream.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
        upstream.execute("CREATE PUBLICATION docs FOR TABLE docs")
        upstream.execute("SELECT pg_create_logical_replication_slot('docs', 'pgoutput')")
        dsn = make_conninfo(server.dsn, dbname="subscriber")
        migrate.upgrade(dsn)
        with psycopg.connect(dsn, autocommit=True) as db:
            db.execute("SELECT pgmeaning.set_default_model('synthetic-384')")
            make(db, always=True)
            db.execute(
                f"CREATE SUBSCRIPTION docs CONNECTION '{make_conninfo(server.dsn)}' PUBLICATION docs "
                "WITH (create_slot = false, slot_name = 'docs', copy_data = false)".encode()
            )
            with running(Sidecar(dsn, Settings(maintenance=0.1, poll=0.1))):
                upstream.execute("INSERT INTO docs VALUES (1, 'one'), (2, 'two'), (3, 'three')")
                wait_until(lambda: embedded(db) == [1, 2, 3])
                upstream.execute("UPDATE docs SET id = 4 WHERE id = 1; DELETE FROM docs WHERE id = 2")
                wait_until(lambda: embedded(db) == [3, 4])
                upstream.execute("TRUNCATE docs")
                wait_until(lambda: embedded(db) == [])
            db.execute("ALTER SUBSCRIPTION docs DISABLE; ALTER SUBSCRIPTION docs SET (slot_name = NONE)")
            db.execute("DROP SUBSCRIPTION docs")
