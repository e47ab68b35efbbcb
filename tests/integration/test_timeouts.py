"""Time-outs that a database sets for its sessions cut none of ours."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pgmeaning.database import migrate
from pgmeaning.database.connection import connect
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running, wait_until
from tests.types import Connection

TIMEOUTS = [
    "transaction_timeout",
    "idle_session_timeout",
    "idle_in_transaction_session_timeout",
    "statement_timeout",
    "lock_timeout",
]


def limit(db: Connection, milliseconds: int) -> None:
    """Set every time-out that this version has, for all new sessions of the database."""
    for (name,) in db.execute("SELECT name FROM pg_settings WHERE name = ANY (%s)", (TIMEOUTS,)).fetchall():
        db.execute(f"ALTER DATABASE {db.info.dbname} SET {name} = {milliseconds}".encode())


@pytest.mark.parametrize("name", [name for name in TIMEOUTS if name != "idle_in_transaction_session_timeout"])
def test_our_connections_have_none_of_the_databases_timeouts(db: Connection, dsn: str, name: str) -> None:
    limit(db, 60_000)
    with connect(dsn, "test") as connection:
        found = connection.execute("SELECT setting FROM pg_settings WHERE name = %s", (name,)).fetchone()
    assert found in (("0",), None)


def test_a_migration_is_not_cut(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as db:
        limit(db, 50)
    migrate.upgrade(empty_dsn)


def test_rows_are_embedded_indexed_and_found_though_the_database_has_short_timeouts(db: Connection, dsn: str) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs SELECT i, 'body ' || i FROM generate_series(1, 2000) AS i")
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    limit(db, 100)
    with running(Sidecar(dsn, Settings(maintenance=0.1, index_rows=200, recall_sample=10))):
        wait_until(lambda: db.execute("SELECT built_at FROM pgmeaning.index_report").fetchone() != (None,))
        wait_until(lambda: db.execute("SELECT measured_at FROM pgmeaning.index_report").fetchone() != (None,))
        # This session's own limits are the user's; its loopback's are ours: it stays open between two queries.
        found = "SELECT count(*) FROM pgmeaning.search('docs', %s)"
        assert db.execute(found, ("one",)).fetchone() == (10,)
        pid = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgmeaning loopback' AND datname = %s"
        (before,) = db.execute(pid, (conninfo_to_dict(dsn)["dbname"],)).fetchall()
        db.execute("SELECT pg_sleep(0.3)")
        assert db.execute(found, ("two",)).fetchone() == (10,)
        assert db.execute(pid, (conninfo_to_dict(dsn)["dbname"],)).fetchall() == [before]
    assert db.execute("SELECT problem FROM pgmeaning.index_report").fetchone() == (None,)
