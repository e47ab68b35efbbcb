"""A role without rights can take any advisory lock: it stops and slows down nothing."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from pgmeaning.database import migrate
from pgmeaning.database import sql_files as sql
from pgmeaning.indexes import build
from pgmeaning.models.synthetic import SyntheticEmbedder
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running, wait_until
from tests.integration.strangers import Stranger, stranger_of
from tests.integration.test_embed import Held, embed
from tests.types import Connect, Connection

# Numbers of earlier versions, and small ones: what somebody would try.
GUESSES = (
    "SELECT pg_advisory_lock{mode}(c, n) "
    "FROM generate_series(1885826405, 1885826408) AS c, generate_series(0, 40) AS n",
    "SELECT pg_advisory_lock{mode}(n) FROM generate_series(0, 40) AS n",
)


@pytest.fixture
def stranger(db: Connection, dsn: str) -> Iterator[Stranger]:
    with stranger_of(db, dsn) as found:
        yield found


@pytest.fixture(params=["", "_shared"], ids=["exclusive", "shared"])
def holding(request: pytest.FixtureRequest, stranger: Stranger) -> Stranger:
    """A stranger who has taken every lock that can be guessed."""
    for guess in GUESSES:
        stranger.connection.execute(guess.format(mode=request.param).encode())
    return stranger


def test_rows_are_embedded_queries_answered_and_sources_looked_after(
    db: Connection, dsn: str, holding: Stranger
) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text); INSERT INTO docs VALUES (1, 'one')")
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    with running(Sidecar(dsn, Settings(maintenance=0.1))):
        db.execute("CALL pgmeaning.wait_for('docs')")
        db.execute("ALTER TABLE docs RENAME body TO words")
        wait_until(lambda: db.execute("SELECT state FROM pgmeaning.status").fetchone() == ("broken",))
        assert embed(holding.connection, "a question", model="synthetic-384") is not None


def test_an_index_is_built_and_a_schema_migrated(db: Connection, dsn: str, holding: Stranger) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    with build.connected(dsn) as connection:
        [plan] = build.plans(connection, Settings(), "docs", "signature")
        with build.only_builder(connection, plan) as held:
            assert held
    db.execute("UPDATE pgmeaning.installation SET functions_hash = 'of another version'")
    assert migrate.upgrade(dsn).due


@pytest.mark.parametrize("mode", ["", "_shared"])
def test_a_query_is_answered_though_a_stranger_takes_the_lock_that_wakes_the_asker(
    db: Connection, connect: Connect, dsn: str, stranger: Stranger, mode: str
) -> None:
    held = Held()
    with running(Sidecar(dsn, Settings(), load=lambda _: held)), ThreadPoolExecutor(2) as pool:
        asked = pool.submit(embed, connect(), "hold on", timeout="1 minute")
        assert held.asked.wait(10)
        row = stranger.connection.execute(
            "SELECT DISTINCT (classid::bigint << 32) | objid::bigint FROM pg_locks "
            "WHERE locktype = 'advisory' AND granted"
        ).fetchone()
        assert row is not None, "the lock can be seen"
        thief = stranger.connect()
        stealing = pool.submit(thief.execute, f"SELECT pg_advisory_lock{mode}({row[0]})".encode())
        wait_until(lambda: db.execute("SELECT FROM pg_locks WHERE pid = %s", (thief.info.backend_pid,)).rowcount > 0)
        held.let_go.set()
        stealing.result(10)
        assert asked.result(10) is not None


def test_a_sidecar_that_died_is_noticed_though_a_stranger_has_its_lock(
    db: Connection, connect: Connect, dsn: str, stranger: Stranger
) -> None:
    held = Held()
    with running(Sidecar(dsn, Settings(), load=lambda _: held)), ThreadPoolExecutor(2) as pool:
        asked = pool.submit(embed, connect(), "hold on", timeout="1 minute")
        assert held.asked.wait(10)
        with running(Sidecar(dsn, Settings(), load=lambda _: SyntheticEmbedder(384))):
            ((number,),) = db.execute("SELECT pgmeaning._wake_number(id) FROM pgmeaning.request").fetchall()
            thief = stranger.connect()
            stealing = pool.submit(thief.execute, f"SELECT pg_advisory_lock({number})".encode())
            db.execute("SELECT pg_terminate_backend(claimed_pid, 10000) FROM pgmeaning.request")
            stealing.result(10)
            assert asked.result(20) is not None
        held.let_go.set()


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT setval('pgmeaning.asleep', 9000000000000000000)",
        "SELECT nextval('pgmeaning.awake')",
        "SELECT last_value FROM pgmeaning.awake",
        "SELECT pgmeaning._show_state('pgmeaning.asleep', gen_random_uuid(), 1000)",
        "SELECT pgmeaning._try_lock('index 1')",
        "SELECT FROM pgmeaning.lock FOR UPDATE",
        "BEGIN; LOCK TABLE pgmeaning.lock IN ACCESS SHARE MODE",
        "BEGIN; LOCK TABLE pgmeaning.alembic_version IN SHARE ROW EXCLUSIVE MODE",
        "SELECT FROM pgmeaning.installation FOR SHARE",
    ],
)
def test_what_sidecars_and_migrations_lock_is_out_of_a_strangers_reach(stranger: Stranger, statement: str) -> None:
    assert stranger.refusal(statement) == "42501"


def test_a_lock_of_a_session_that_is_gone_is_free(connect: Connect) -> None:
    first, second = connect(), connect()
    lock = "SELECT pgmeaning._try_lock('index 1')"
    assert [connection.execute(lock).fetchone() for connection in (first, second)] == [(True,), (False,)]
    pid = first.info.backend_pid
    first.close()
    wait_until(lambda: second.execute("SELECT FROM pg_stat_activity WHERE pid = %s", (pid,)).rowcount == 0)
    assert second.execute(lock).fetchone() == (True,)


def test_who_is_about_to_take_a_lock_is_not_waited_for(connect: Connect) -> None:
    first, second = connect(autocommit=False), connect()
    lock = "SELECT pgmeaning._try_lock('index 1')"
    assert [connection.execute(lock).fetchone() for connection in (first, second)] == [(True,), (False,)]


def test_nothing_is_folded_while_another_sidecar_folds(db: Connection, connect: Connect, dsn: str) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    folding = connect(autocommit=False)
    folding.execute("SELECT FROM pgmeaning.lock WHERE name = 'fold' FOR UPDATE")
    with running(Sidecar(dsn, Settings(maintenance=0.1))):
        db.execute("INSERT INTO docs VALUES (1, 'one')")
        with pytest.raises(psycopg.Error, match="still owes"):
            db.execute("CALL pgmeaning.wait_for('docs', timeout => '1 second')")
        folding.rollback()
        db.execute("CALL pgmeaning.wait_for('docs')")


def test_no_statement_of_ours_relies_on_an_advisory_lock_but_the_one_that_wakes() -> None:
    """Whoever adds one lets any role stop what it guards."""
    found: set[str] = set()
    for path in Path(str(sql.folder("sql"))).rglob("*.sql"):
        for call in re.findall(r"pg_(?:try_)?advisory_\w+\(\s*([\w.]+)", path.read_text()):
            found.add(call)
    assert found == {"pgmeaning._wake_number"}


def test_an_awake_sidecar_keeps_others_writes_without_a_notify_whatever_a_stranger_holds(
    db: Connection, connect: Connect, holding: Stranger
) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    for state in ("awake", "asleep"):
        db.execute("SELECT pgmeaning._show_state(%s::regclass, gen_random_uuid(), 60)", (f"pgmeaning.{state}",))
    listener = connect()
    listener.execute("LISTEN pgmeaning")
    db.execute("INSERT INTO docs VALUES (1, 'one')")
    db.execute("NOTIFY pgmeaning, 'mine'")
    assert [found.payload for found in listener.notifies(timeout=5, stop_after=1)] == ["mine"]


def test_strangers_who_hold_locks_on_sight_delay_queries_at_most(db: Connection, dsn: str, stranger: Stranger) -> None:
    over = threading.Event()

    def grab() -> None:
        connection = stranger.connect()
        while not over.is_set():
            connection.execute(
                "SELECT pg_try_advisory_lock((classid::bigint << 32) | objid::bigint) FROM pg_locks "
                "WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
            )

    with running(Sidecar(dsn, Settings())), ThreadPoolExecutor(1) as pool:
        grabbing = pool.submit(grab)
        try:
            assert all(embed(db, f"question {number}") is not None for number in range(50))
        finally:
            over.set()
        grabbing.result(10)
