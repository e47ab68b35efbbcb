"""Citus, as far as one node goes: our DDL stays on it, and tables that it spreads over nodes are refused.

There is no Citus here: its catalog is a table of the test's, and its settings are placeholders, as custom ones are.
"""

from __future__ import annotations

import psycopg
import pytest

from pgmeaning.database import migrate
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running, wait_until
from tests.types import Connection, Drain

PROPAGATION = "citus.enable_ddl_propagation"
# DDL that Citus would send to its workers.
WATCH = """
CREATE TABLE public.spread (command text);
CREATE FUNCTION public.note_spread() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('citus.enable_ddl_propagation', true) IS DISTINCT FROM 'off' THEN
        INSERT INTO public.spread VALUES (tg_tag);
    END IF;
END
$$;
CREATE EVENT TRIGGER watching ON ddl_command_start EXECUTE FUNCTION public.note_spread();
"""


def spread(db: Connection) -> list[str]:
    return [command for (command,) in db.execute("SELECT command FROM spread").fetchall()]


def docs(db: Connection) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs VALUES (1, 'one'), (2, 'two')")


def install_citus(db: Connection) -> None:
    """Its catalog of the tables that it knows."""
    db.execute("SET allow_system_table_mods = on")
    db.execute(
        "CREATE TABLE pg_catalog.pg_dist_partition "
        '(logicalrelid regclass PRIMARY KEY, partmethod "char", repmodel "char", colocationid int)'
    )
    db.execute("RESET allow_system_table_mods")


def spread_table(db: Connection, method: str = "h", replication: str = "s", colocation: int = 1) -> None:
    row = ("docs", method, replication, colocation)
    db.execute("INSERT INTO pg_dist_partition VALUES (%s::regclass, %s, %s, %s)", row)


def state(db: Connection) -> tuple[str, str]:
    row = db.execute("SELECT state, coalesce(problem, '') FROM pgmeaning.status").fetchone()
    assert row is not None
    return row[0], row[1]


# Tables


@pytest.mark.parametrize(
    ("method", "replication", "colocation", "kind"),
    [
        ("h", "s", 1, "a distributed table"),
        ("r", "c", 1, "a distributed table"),
        ("a", "s", 1, "a distributed table"),
        ("n", "t", 5, "a reference table"),
        ("n", "s", 7, "a table of a distributed schema"),
    ],
)
def test_a_table_that_citus_spreads_cannot_be_attached(
    db: Connection, method: str, replication: str, colocation: int, kind: str
) -> None:
    docs(db)
    install_citus(db)
    spread_table(db, method, replication, colocation)
    with pytest.raises(psycopg.Error, match=f"docs is {kind} of Citus") as caught:
        db.execute("SELECT pgmeaning.attach('docs', ARRAY['body'])")
    assert caught.value.sqlstate == "PM003"
    assert "node" in (caught.value.diag.message_detail or "")
    assert "one pgmeaning per node" in (caught.value.diag.message_hint or "")


def test_a_partitioned_table_of_which_a_partition_is_spread_cannot_be_attached(db: Connection) -> None:
    db.execute("CREATE TABLE parent (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    db.execute("CREATE TABLE docs PARTITION OF parent FOR VALUES FROM (1) TO (9)")
    install_citus(db)
    spread_table(db)
    with pytest.raises(psycopg.Error, match="docs is a distributed table of Citus"):
        db.execute("SELECT pgmeaning.attach('parent', ARRAY['body'])")


def test_a_local_table_that_citus_knows_is_attached(db: Connection, drain: Drain) -> None:
    docs(db)
    install_citus(db)
    spread_table(db, "n", "s", 0)
    db.execute("SELECT pgmeaning.attach('docs', ARRAY['body'])")
    assert drain() == 0
    assert state(db) == ("ready", "")


def test_a_table_that_is_spread_later_is_a_problem_at_once_without_a_sidecar(db: Connection, drain: Drain) -> None:
    docs(db)
    install_citus(db)
    db.execute("SELECT pgmeaning.attach('docs', ARRAY['body'])")
    assert drain() == 0
    spread_table(db)
    found, problem = state(db)
    assert found == "broken"
    assert "docs is a distributed table of Citus" in problem


def test_a_table_that_is_spread_and_local_again_heals(db: Connection, dsn: str) -> None:
    docs(db)
    install_citus(db)
    db.execute("SELECT pgmeaning.attach('docs', ARRAY['body'])")
    recorded = "SELECT problem LIKE '%%distributed table of Citus%%' FROM pgmeaning.collection"
    with running(Sidecar(dsn, Settings(maintenance=0.1))):
        wait_until(lambda: state(db)[0] == "ready")
        spread_table(db)
        wait_until(lambda: db.execute(recorded.encode()).fetchone() == (True,))
        db.execute("DELETE FROM pg_dist_partition")
        db.execute("ALTER TABLE docs DISABLE TRIGGER USER; INSERT INTO docs VALUES (3, 'three')")
        wait_until(lambda: state(db) == ("ready", ""))
        wait_until(lambda: db.execute("SELECT count(*) FROM docs_embedding").fetchone() == (3,))


# DDL


def test_a_migration_stays_on_the_node(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as db:
        db.execute(WATCH)
        migrate.upgrade(empty_dsn)
        assert spread(db) == []
        assert db.execute("SELECT count(*) > 100 FROM pg_proc WHERE pronamespace = 'pgmeaning'::regnamespace")
        db.execute("DROP FUNCTION pgmeaning.retry")
        db.execute("TRUNCATE spread")
        migrate.upgrade(empty_dsn)
        migrate.downgrade(empty_dsn)
        assert spread(db) == []


def test_attach_rename_and_detach_stay_on_the_node(db: Connection) -> None:
    docs(db)
    db.execute(WATCH)
    db.execute("SELECT pgmeaning.attach('docs', ARRAY['body'], language => 'simple')")
    db.execute("SELECT pgmeaning.rename_collection('docs', 'texts')")
    db.execute("SELECT pgmeaning.detach('texts')")
    assert spread(db) == []


def test_what_a_sidecar_makes_stays_on_the_node(db: Connection, dsn: str) -> None:
    docs(db)
    db.execute("SELECT pgmeaning.attach('docs', ARRAY['body'])")
    db.execute("DROP VIEW docs_embedding")
    db.execute("ALTER TABLE docs DISABLE TRIGGER USER")
    db.execute("DROP SERVER pgmeaning_loopback CASCADE")
    db.execute(WATCH)
    indexed = "SELECT FROM pgmeaning.status WHERE state = 'ready' AND index = 'direct'"
    with running(Sidecar(dsn, Settings(maintenance=0.1, index_rows=1))):
        wait_until(lambda: db.execute("SELECT to_regclass('docs_embedding') IS NOT NULL").fetchone() == (True,))
        wait_until(lambda: db.execute(indexed).fetchone() is not None)
    assert spread(db) == []


def test_the_callers_own_ddl_goes_on_as_the_caller_had_it(db: Connection) -> None:
    docs(db)
    setting = f"SELECT current_setting('{PROPAGATION}', true)".encode()
    db.execute(f"SET {PROPAGATION} = on".encode())
    with db.transaction():
        db.execute("SELECT pgmeaning.attach('docs', ARRAY['body'])")
        assert db.execute(setting).fetchone() == ("on",)
        db.execute("SELECT pgmeaning.rename_collection('docs', 'texts')")
        assert db.execute(setting).fetchone() == ("on",)
        db.execute("SELECT pgmeaning.detach('texts')")
        assert db.execute(setting).fetchone() == ("on",)
    assert db.execute(setting).fetchone() == ("on",)
