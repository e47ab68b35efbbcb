"""What changes behind our back is noticed within seconds, mended and reconciled; or status says what cannot be."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import structlog

from pgmeaning import load_embedder
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.sidecar.sources import FIRST_LOOKS
from tests.conftest import running, wait_until
from tests.types import Connect, Connection, Drain

QUICK = Settings(maintenance=0.1, poll=0.1, attempts=1, backoff=0.01)


def make(db: Connection, columns: str = "id int PRIMARY KEY, body text", rest: str = "") -> None:
    db.execute(f"CREATE TABLE docs ({columns}) {rest}".encode())
    db.execute("SELECT pgmeaning.attach('docs', ARRAY['body'])")


def fill(db: Connection, first: int = 1, last: int = 6) -> None:
    db.execute("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(%s::int, %s::int) AS i", (first, last))


def embedded(db: Connection) -> list[int]:
    return [key for (key,) in db.execute("SELECT id FROM docs_embedding ORDER BY id").fetchall()]


def has_vector_of(db: Connection, key: int, text: str) -> bool:
    vector = load_embedder("synthetic-384").embed_documents([text])[0]
    near = "SELECT embedding <=> %s::vector < 1e-6 FROM docs_embedding WHERE id = %s"
    return db.execute(near, (str(vector.tolist()), key)).fetchone() == (True,)


def status(db: Connection, column: str) -> str:
    return str(db.execute(f"SELECT {column} FROM pgmeaning.status".encode()).fetchall()[0][0])


def enabled(db: Connection, table: str = "docs") -> list[str]:
    query = "SELECT tgenabled FROM pg_trigger WHERE tgrelid = %s::regclass AND NOT tgisinternal ORDER BY tgname"
    return [state for (state,) in db.execute(query, (table,)).fetchall()]


# ---------------------------------------------------------------- Triggers

TAKEN = {
    "disabled": "ALTER TABLE docs DISABLE TRIGGER USER",
    "of replicas": "ALTER TABLE docs ENABLE REPLICA TRIGGER pgmeaning_1_insert",
    "dropped": "DROP TRIGGER pgmeaning_1_insert ON docs",
    "renamed": "ALTER TRIGGER pgmeaning_1_insert ON docs RENAME TO other",
    "with their function": "DROP FUNCTION pgmeaning.on_change_1() CASCADE",
}


@pytest.mark.parametrize("taken", TAKEN.values(), ids=TAKEN)
def test_a_trigger_that_is_missing_or_disabled_comes_back_and_what_it_missed_is_embedded(
    db: Connection, dsn: str, drain: Drain, taken: str
) -> None:
    make(db)
    fill(db, 1, 2)
    assert drain() == 0
    db.execute(taken.encode())
    fill(db, 3, 4)
    with running(Sidecar(dsn, QUICK)):
        wait_until(lambda: embedded(db) == [1, 2, 3, 4])
        wait_until(lambda: enabled(db) == ["O"] * 4)
        fill(db, 5, 6)
        wait_until(lambda: embedded(db) == [1, 2, 3, 4, 5, 6])


def test_triggers_disabled_and_enabled_between_two_looks_have_the_rows_scanned(db: Connection, drain: Drain) -> None:
    make(db)
    fill(db)
    assert drain() == 0
    db.execute("ALTER TABLE docs DISABLE TRIGGER USER")
    db.execute("INSERT INTO docs VALUES (7, 'seven'); UPDATE docs SET body = 'changed' WHERE id = 1")
    db.execute("DELETE FROM docs WHERE id = 2; ALTER TABLE docs ENABLE TRIGGER USER")
    assert status(db, "state") == "checking"
    assert drain() == 0
    assert embedded(db) == [1, 3, 4, 5, 6, 7]
    assert has_vector_of(db, 1, "changed")
    assert status(db, "state") == "ready"


def test_a_trigger_dropped_from_a_partition_alone_comes_back(db: Connection, drain: Drain) -> None:
    make(db, rest="PARTITION BY RANGE (id)")
    db.execute("CREATE TABLE low PARTITION OF docs FOR VALUES FROM (0) TO (100)")
    assert drain() == 0
    db.execute("DROP TRIGGER pgmeaning_1_insert ON low; INSERT INTO low VALUES (1, 'one')")
    assert drain() == 0
    assert embedded(db) == [1]
    assert len(enabled(db, "low")) == 4


def test_a_drain_waits_for_the_table_whose_trigger_it_makes_again(
    db: Connection, connect: Connect, drain: Drain
) -> None:
    make(db)
    assert drain() == 0
    db.execute("DROP TRIGGER pgmeaning_1_insert ON docs")
    other = connect(autocommit=False)
    other.execute("INSERT INTO docs VALUES (1, 'one')")
    with structlog.testing.capture_logs() as logs, ThreadPoolExecutor() as pool:
        status = pool.submit(drain, maintenance=0.1)
        refused = "cannot check a collection's source"
        wait_until(lambda: [entry["event"] for entry in logs].count(refused) > FIRST_LOOKS + 1)
        other.commit()
        assert status.result() == 0
    assert embedded(db) == [1]


def test_wait_for_does_not_succeed_while_a_trigger_is_missing(db: Connection, drain: Drain) -> None:
    make(db)
    assert drain() == 0
    db.execute("CALL pgmeaning.wait_for('docs')")
    db.execute("DROP TRIGGER pgmeaning_1_insert ON docs")
    with pytest.raises(psycopg.Error) as raised:
        db.execute("CALL pgmeaning.wait_for('docs', timeout => '0.1 seconds')")
    assert raised.value.sqlstate == "PM007"
    assert "insert" in str(raised.value.diag.message_detail)


def test_wait_for_succeeds_once_what_was_missed_is_embedded(db: Connection, dsn: str, drain: Drain) -> None:
    make(db)
    assert drain() == 0
    db.execute("ALTER TABLE docs DISABLE TRIGGER USER")
    fill(db)
    with running(Sidecar(dsn, QUICK)):
        db.execute("CALL pgmeaning.wait_for('docs')")
        assert embedded(db) == [1, 2, 3, 4, 5, 6]


# ---------------------------------------------------------------- Our objects

OBJECTS = {
    "view": ("DROP VIEW docs_embedding", "SELECT to_regclass('docs_embedding') IS NOT NULL"),
    "policy": (
        'DROP POLICY source_rows ON pgmeaning_data."docs__synthetic-384"',
        "SELECT count(*) = 1 FROM pg_policy WHERE polname = 'source_rows'",
    ),
    "row security": (
        'ALTER TABLE pgmeaning_data."docs__synthetic-384" DISABLE ROW LEVEL SECURITY',
        "SELECT relrowsecurity FROM pg_class WHERE oid = 'pgmeaning_data.\"docs__synthetic-384\"'::regclass",
    ),
    "functions of the policy": (
        "DROP FUNCTION pgmeaning_data.visible_1(integer) CASCADE",
        "SELECT count(*) = 1 FROM pg_policy WHERE polname = 'source_rows'",
    ),
    "key of the vectors": (
        'ALTER TABLE pgmeaning_data."docs__synthetic-384" DROP CONSTRAINT "docs__synthetic-384_pkey"',
        "SELECT count(*) = 1 FROM pg_index "
        "WHERE indrelid = 'pgmeaning_data.\"docs__synthetic-384\"'::regclass AND indisprimary",
    ),
    "words": (
        "DROP FUNCTION pgmeaning_data.words_1() CASCADE",
        "SELECT count(*) = 1 FROM pg_trigger WHERE tgname = 'words'",
    ),
}


@pytest.mark.parametrize(("loss", "there"), OBJECTS.values(), ids=OBJECTS)
def test_an_object_of_ours_that_was_dropped_comes_back(db: Connection, drain: Drain, loss: str, there: str) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', ARRAY['body'], language => 'english')")
    fill(db)
    assert drain() == 0
    db.execute(loss.encode())
    assert drain() == 0
    assert db.execute(there.encode()).fetchone() == (True,)
    assert embedded(db) == [1, 2, 3, 4, 5, 6]


def test_a_view_that_cannot_be_made_again_is_a_warning_and_the_rest_works(db: Connection, drain: Drain) -> None:
    make(db)
    assert drain() == 0
    db.execute("DROP VIEW docs_embedding; CREATE TABLE docs_embedding (id int)")
    fill(db)
    assert drain() == 0
    assert "public.docs_embedding is something else" in status(db, "warning")
    assert status(db, "vectors") == "6"
    db.execute("DROP TABLE docs_embedding")
    assert drain() == 0
    assert status(db, "warning") == "None"
    assert embedded(db) == [1, 2, 3, 4, 5, 6]


def test_a_look_at_what_is_as_it_should_be_changes_nothing(db: Connection, dsn: str, drain: Drain) -> None:
    make(db)
    fill(db)
    assert drain() == 0
    before = db.execute("SELECT scan_finished_at FROM pgmeaning.target").fetchall()
    assert drain() == 0
    assert db.execute("SELECT scan_finished_at FROM pgmeaning.target").fetchall() == before


# ---------------------------------------------------------------- Columns


COLUMNS = {
    "rewritten": ("ALTER TABLE docs ALTER body TYPE text USING upper(body)", "TEXT 1"),
    "dropped and added": ("ALTER TABLE docs DROP body, ADD body text DEFAULT 'none'", "none"),
    "swapped": (
        "BEGIN; ALTER TABLE docs RENAME body TO aside; ALTER TABLE docs RENAME other TO body; "
        "ALTER TABLE docs RENAME aside TO other; COMMIT",
        "other 1",
    ),
}


@pytest.mark.parametrize(("change", "text"), COLUMNS.values(), ids=COLUMNS)
def test_a_column_that_changed_without_a_write_is_embedded_anew(
    db: Connection, dsn: str, change: str, text: str
) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text, other text)")
    db.execute("INSERT INTO docs SELECT i, 'text ' || i, 'other ' || i FROM generate_series(1, 3) AS i")
    db.execute("SELECT pgmeaning.attach('docs', ARRAY['body'])")
    with running(Sidecar(dsn, QUICK)):
        db.execute("CALL pgmeaning.wait_for('docs')")
        db.execute(change.encode())
        db.execute("CALL pgmeaning.wait_for('docs')")
        assert has_vector_of(db, 1, text)


def test_a_generated_column_of_another_expression_is_embedded_anew(db: Connection, drain: Drain) -> None:
    if db.info.server_version < 170000:
        pytest.skip("SET EXPRESSION came with PostgreSQL 17")
    make(db, "id int PRIMARY KEY, title text, body text GENERATED ALWAYS AS (title || '!') STORED")
    db.execute("INSERT INTO docs VALUES (1, 'one')")
    assert drain() == 0
    assert has_vector_of(db, 1, "one!")
    db.execute("ALTER TABLE docs ALTER body SET EXPRESSION AS (title || '?')")
    assert drain() == 0
    assert has_vector_of(db, 1, "one?")


def test_a_renamed_label_is_embedded_anew(db: Connection, drain: Drain) -> None:
    db.execute("CREATE TYPE mood AS ENUM ('glad', 'sad')")
    make(db, "id int PRIMARY KEY, body mood")
    db.execute("INSERT INTO docs VALUES (1, 'glad')")
    assert drain() == 0
    db.execute("ALTER TYPE mood RENAME VALUE 'glad' TO 'merry'")
    assert drain() == 0
    assert has_vector_of(db, 1, "merry")


@pytest.mark.parametrize("failed", [False, True])
def test_a_label_renamed_while_its_row_is_owed_leaves_no_failure(db: Connection, drain: Drain, failed: bool) -> None:
    db.execute("CREATE TYPE kind AS ENUM ('old')")
    db.execute("CREATE TABLE docs (id kind PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', ARRAY['body'])")
    assert drain() == 0
    db.execute("INSERT INTO docs VALUES ('old', 'one')")
    if failed:
        db.execute(
            "DELETE FROM pgmeaning.inbox;"
            "INSERT INTO pgmeaning.queue (collection_id, model, key, failed_at, last_error) "
            "SELECT collection_id, model, '{\"id\": \"old\"}', now(), 'failed' FROM pgmeaning.target"
        )
    db.execute("ALTER TYPE kind RENAME VALUE 'old' TO 'new'")
    assert drain() == 0
    assert db.execute("SELECT id::text FROM docs_embedding").fetchall() == [("new",)]
    assert db.execute("SELECT FROM pgmeaning.failures").fetchone() is None


# ---------------------------------------------------------------- What status says of it


def test_a_row_is_owed_once_however_often_it_was_changed(db: Connection, drain: Drain) -> None:
    make(db)
    fill(db, 1, 300)
    assert drain() == 0
    for text in ("one", "two"):
        db.execute("UPDATE docs SET body = body || %s", (text,))
    assert db.execute("SELECT source_rows, owed, estimated FROM pgmeaning.status").fetchall() == [(300, 300, False)]


def test_rows_changed_during_the_first_scan_are_not_owed_twice(db: Connection) -> None:
    make(db)
    fill(db, 1, 300)
    db.execute("UPDATE docs SET body = 'changed'")
    assert db.execute("SELECT source_rows, owed, estimated FROM pgmeaning.status").fetchall() == [(300, 300, True)]


def test_a_large_table_is_estimated_by_its_size_and_said_to_be(db: Connection) -> None:
    make(db)
    db.execute("ALTER TABLE docs ALTER body SET STORAGE PLAIN")
    db.execute("INSERT INTO docs SELECT i, repeat('x', 7000) FROM generate_series(1, 5000) AS i")
    db.execute("ANALYZE docs; INSERT INTO docs SELECT i, repeat('x', 7000) FROM generate_series(5001, 10000) AS i")
    assert db.execute("SELECT source_rows, estimated FROM pgmeaning.status").fetchall() == [(10000, True)]
