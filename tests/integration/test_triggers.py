"""Triggers, inbox and queue: every way to write, and no statement of the user's that fails or waits because of them."""

# ruff: noqa: E501  a statement of SQL reads better on one line

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running, wait_until
from tests.integration.docs import Docs
from tests.types import Connect, Connection, Drain

# Two rows, attached; an empty inbox.
DOCS = Docs(
    columns="id int PRIMARY KEY DEFERRABLE, title text, other int",
    rows="VALUES (1, 'one', 1), (2, 'two', 2)",
    attach="columns => '{title}'",
)


def changes(db: Connection) -> list[Any]:
    """Takes the inbox: ids, and notes, in order and once each."""
    rows = db.execute(
        "WITH taken AS (DELETE FROM pgmeaning.inbox RETURNING key, note) SELECT key, note FROM taken"
    ).fetchall()
    return sorted({note or key["id"] for key, note in rows}, key=str)


def missing(db: Connection, table: str = "docs", column: str = "title") -> list[Any]:
    """Ids whose vector is missing, stale, or without a row."""
    query = (
        f"SELECT coalesce(s.id, v.id) FROM (SELECT * FROM {table} WHERE {column} IS NOT NULL) AS s "
        f"FULL JOIN {table}_embedding AS v USING (id) WHERE s.id IS NULL OR v.id IS NULL OR "
        f"v.content_hash IS DISTINCT FROM sha256(convert_to(jsonb_build_array(s.{column}::text)::text, 'UTF8')) ORDER BY 1"
    )
    return [key for (key,) in db.execute(query.encode()).fetchall()]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("INSERT INTO docs VALUES (3, 'three'), (4, NULL)", [3, 4]),
        ("INSERT INTO docs SELECT i, 'x' FROM generate_series(5, 6) AS i", [5, 6]),
        ("INSERT INTO docs SELECT 7, 'x' WHERE false", []),
        ("INSERT INTO keyed VALUES (1, 'a')", []),
        ("MERGE INTO docs USING (VALUES (1, 'x'), (2, NULL), (3, 'new')) AS v (id, title) ON docs.id = v.id "
         "WHEN MATCHED AND v.title IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET title = v.title "
         "WHEN NOT MATCHED THEN INSERT VALUES (v.id, v.title)", [1, 2, 3]),
        ("UPDATE docs SET title = 'new' WHERE id = 1", [1]),
        ("UPDATE docs SET title = title", []),
        ("UPDATE docs SET other = other + 1", []),
        ("UPDATE docs SET title = CASE id WHEN 1 THEN NULL ELSE title END", [1]),
        ("UPDATE docs SET id = 9 WHERE id = 1", [1, 9]),
        ("UPDATE docs SET id = 3 - id", [1, 2]),
        ("DELETE FROM docs WHERE id = 2", [2]),
        ("DELETE FROM docs WHERE false", []),
        ("TRUNCATE docs", ["truncate"]),
        ("WITH gone AS (DELETE FROM docs WHERE id = 1 RETURNING *) INSERT INTO docs SELECT 8, title FROM gone", [1, 8]),
    ],
)  # fmt: skip
def test_a_statement_appends_the_rows_that_it_changed(docs: Connection, statement: str, expected: list[Any]) -> None:
    docs.execute("CREATE TABLE keyed (id int PRIMARY KEY, title text)")  # which is not attached
    docs.execute(statement.encode())
    assert changes(docs) == expected


def test_copy_and_on_conflict_append_what_they_changed(docs: Connection) -> None:
    with docs.cursor().copy("COPY docs FROM STDIN") as copy:
        copy.write("3\tthree\t3\n4\tfour\t4\n")
    assert changes(docs) == [3, 4]
    docs.execute(
        "CREATE TABLE other (id int PRIMARY KEY, title text); SELECT pgmeaning.attach('other', columns => '{title}')"
    )
    docs.execute("INSERT INTO other VALUES (1, 'a'), (2, 'b')")
    changes(docs)
    docs.execute("INSERT INTO other VALUES (1, 'x'), (3, 'c') ON CONFLICT (id) DO UPDATE SET title = excluded.title")
    assert changes(docs) == [1, 3]
    docs.execute("INSERT INTO other VALUES (1, 'y'), (4, 'd') ON CONFLICT DO NOTHING")
    assert changes(docs) == [4]


def test_a_key_swap_of_different_rows_swaps_their_vectors(docs: Connection, drain: Drain) -> None:
    assert drain() == 0
    docs.execute("UPDATE docs SET id = 3 - id")
    assert missing(docs) == [1, 2]
    assert drain() == 0
    assert missing(docs) == []


COLUMNS = {
    "json": ("'{\"a\": 1}'", "'{\"a\":1}'"),
    "jsonb": ("'{\"a\": 1.0}'", "'{\"a\": 1.00}'"),
    "xml": ("'<a/>'", "'<b/>'"),
    "point": ("'(1,2)'", "'(1,2.0000000001)'"),
    "text COLLATE insensitive": ("'a'", "'A'"),
    "numeric": ("1.0", "1.00"),
    "float8[]": ("'{1}'", "'{1.0000000001}'"),
    "float8": ("1", "1.0000000001"),
    "interval": ("'1 day'", "'24 hours'"),
    "char(5)": ("'a'", "'b'"),
    "bytea": ("'\\x01'", "'\\x02'"),
    "timestamptz": ("'2024-01-01 00:00'", "'2024-01-01 00:00:00.000001'"),
    "tsvector": ("'a'", "'b'"),
    "pair": ("'(1,a)'", "'(1,b)'"),
    "json[]": ("ARRAY['1'::json]", "ARRAY['2'::json]"),
}


def test_a_change_of_any_type_of_column_is_seen_and_a_rewrite_of_the_same_is_not(db: Connection) -> None:
    db.execute("CREATE TYPE pair AS (a int, b text); SET extra_float_digits = -10")
    unseen, seen = [], []
    for i, (column, (before, after)) in enumerate(COLUMNS.items()):
        try:
            if "insensitive" in column:
                db.execute(
                    "CREATE COLLATION insensitive (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
                )
            db.execute(
                f"CREATE TABLE t{i} (id int PRIMARY KEY, c {column}); INSERT INTO t{i} VALUES (1, {before})".encode()
            )
        except psycopg.errors.FeatureNotSupported:
            continue  # a server built without ICU or libxml
        db.execute(f"SELECT pgmeaning.attach('t{i}', columns => '{{c}}'); UPDATE t{i} SET c = {before}".encode())
        seen += [column] if changes(db) else []
        db.execute(f"UPDATE t{i} SET c = {after}".encode())
        unseen += [column] if changes(db) != [1] else []
    assert (unseen, seen) == ([], [])


def test_however_often_a_row_changes_the_queue_holds_it_once(docs: Connection, dsn: str, drain: Drain) -> None:
    docs.execute("SELECT pgmeaning.pause('docs')")
    for i in range(5):
        docs.execute("UPDATE docs SET title = %s", (str(i),))
    drain()
    docs.execute("UPDATE docs SET title = 'last'")
    with running(Sidecar(dsn, Settings())):
        wait_until(lambda: docs.execute("SELECT FROM pgmeaning._unfolded").rowcount == 0)
    counted = docs.execute(
        "SELECT count(*), count(DISTINCT (collection_id, model, key)) FROM pgmeaning.queue"
    ).fetchone()
    assert counted == (2, 2)


@pytest.fixture
def parted(db: Connection) -> Connection:
    db.execute("CREATE TABLE parted (id int PRIMARY KEY, title text) PARTITION BY RANGE (id)")
    db.execute("CREATE TABLE low PARTITION OF parted FOR VALUES FROM (0) TO (10)")
    db.execute("CREATE TABLE high PARTITION OF parted FOR VALUES FROM (10) TO (20)")
    db.execute("SELECT pgmeaning.attach('parted', columns => '{title}')")
    return db


def test_writes_to_the_parent_to_a_partition_and_across_partitions_are_seen(parted: Connection) -> None:
    parted.execute("INSERT INTO parted VALUES (1, 'a'), (11, 'b')")
    assert changes(parted) == [1, 11]
    parted.execute("INSERT INTO low VALUES (2, 'c')")
    assert changes(parted) == [2]
    parted.execute("UPDATE parted SET id = id + 10 WHERE id = 2")
    assert changes(parted) == [12, 2]
    parted.execute("TRUNCATE low")
    assert changes(parted) == ["truncate"]


def test_partitions_added_attached_and_detached_are_found_by_the_sidecar(parted: Connection, sidecar: Sidecar) -> None:
    parted.execute(
        "CREATE TABLE top PARTITION OF parted FOR VALUES FROM (20) TO (30); INSERT INTO top VALUES (20, 'a')"
    )
    parted.execute("CREATE TABLE more (id int PRIMARY KEY, title text); INSERT INTO more VALUES (30, 'b')")
    parted.execute(
        "ALTER TABLE parted ATTACH PARTITION more FOR VALUES FROM (30) TO (40); INSERT INTO low VALUES (1, 'c')"
    )
    wait_until(lambda: parted.execute("SELECT FROM parted_embedding").rowcount == 3)
    wait_until(
        lambda: (
            parted.execute("SELECT FROM pg_trigger WHERE tgrelid = 'more'::regclass AND tgname ~ 'pgmeaning'").rowcount
            == 4
        )
    )
    parted.execute("INSERT INTO more VALUES (31, 'd')")
    wait_until(lambda: missing(parted, "parted") == [])
    parted.execute("ALTER TABLE parted DETACH PARTITION more")
    wait_until(lambda: missing(parted, "parted") == [])
    wait_until(
        lambda: (
            parted.execute("SELECT FROM pg_trigger WHERE tgrelid = 'more'::regclass AND tgname ~ 'pgmeaning'").rowcount
            == 0
        )
    )
    parted.execute("INSERT INTO more VALUES (32, 'e'); DROP TABLE more")


def test_children_by_inheritance_are_seen_also_without_a_key(db: Connection, drain: Drain) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, title text); CREATE TABLE child (more int) INHERITS (docs)")
    db.execute("ALTER TABLE child ALTER id DROP NOT NULL") if db.info.server_version < 180000 else None
    db.execute("SELECT pgmeaning.attach('docs', columns => '{title}')")
    db.execute("INSERT INTO child VALUES (1, 'a', 5); UPDATE docs SET title = 'b'")
    assert drain() == 0
    assert missing(db) == []


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_strict_writers_beside_a_busy_sidecar_and_refresh_never_fail(
    docs: Connection, connect: Connect, sidecar: Sidecar, level: str
) -> None:
    writer = connect(autocommit=False)
    writer.execute(f"SET default_transaction_isolation = '{level.lower()}'".encode())
    writer.commit()
    for i in range(60):
        writer.execute("SELECT count(*) FROM docs")
        docs.execute("SELECT pgmeaning.refresh('docs')")
        writer.execute("UPDATE docs SET title = %s", (f"round {i}",))
        writer.execute("SELECT pgmeaning.refresh('docs')")
        writer.commit()
    wait_until(lambda: missing(docs) == [])


def test_two_transactions_over_the_same_rows_in_opposite_orders_do_not_meet_in_our_tables(
    docs: Connection, connect: Connect, sidecar: Sidecar
) -> None:
    docs.execute("CREATE TABLE second (id int PRIMARY KEY, title text); INSERT INTO second VALUES (1, 'a'), (2, 'b')")
    docs.execute("SELECT pgmeaning.attach('second', columns => '{title}')")
    one, two = connect(autocommit=False), connect(autocommit=False)
    for i in range(20):
        # Each touches rows of its own, and the same collections in opposite orders: only our tables could make them meet.
        one.execute("UPDATE docs SET title = %s WHERE id = 1", (str(i),))
        two.execute("UPDATE second SET title = %s WHERE id = 2", (str(i),))
        one.execute("UPDATE second SET title = %s WHERE id = 1", (str(i),))
        two.execute("UPDATE docs SET title = %s WHERE id = 2", (str(i),))
        one.commit()
        two.commit()
    wait_until(lambda: missing(docs) + missing(docs, "second") == [])


def test_an_open_transaction_holds_up_no_other_row(docs: Connection, connect: Connect, sidecar: Sidecar) -> None:
    with connect(autocommit=False) as idle:
        idle.execute("UPDATE docs SET title = 'uncommitted' WHERE id = 1")
        docs.execute("UPDATE docs SET title = 'new' WHERE id = 2")
        wait_until(lambda: missing(docs) == [])
        idle.rollback()


@pytest.mark.parametrize("gone", ["RENAME title TO headline", "DROP title", "RENAME id TO key"])
def test_a_renamed_or_dropped_column_lets_writes_pass_and_marks_the_collection_broken(
    docs: Connection, dsn: str, drain: Drain, gone: str
) -> None:
    drain()
    docs.execute(f"ALTER TABLE docs {gone}".encode())
    docs.execute(
        "UPDATE docs SET other = 5; DELETE FROM docs WHERE other = 6; INSERT INTO docs (other) SELECT 1 WHERE false; TRUNCATE docs"
    )
    drain()
    with running(Sidecar(dsn, Settings(maintenance=0.1))):
        wait_until(
            lambda: (
                docs.execute(
                    "SELECT FROM pgmeaning.status WHERE state = 'broken' AND problem ~ 'gone or was renamed'"
                ).rowcount
                == 1
            )
        )


def test_a_column_that_gets_its_name_back_heals_its_collection(docs: Connection, sidecar: Sidecar) -> None:
    docs.execute(
        "ALTER TABLE docs RENAME title TO headline; UPDATE docs SET headline = 'new'; INSERT INTO docs VALUES (3, 'three')"
    )
    wait_until(lambda: docs.execute("SELECT FROM pgmeaning.status WHERE state = 'broken'").rowcount == 1)
    docs.execute("ALTER TABLE docs RENAME headline TO title")
    wait_until(lambda: docs.execute("SELECT FROM pgmeaning.status WHERE state = 'ready'").rowcount == 1)
    docs.execute("UPDATE docs SET title = 'newer' WHERE id = 1")
    wait_until(lambda: missing(docs) == [])


@pytest.mark.parametrize(
    "change",
    [
        "title TYPE varchar(99)",
        "title TYPE json USING to_json(title)",
        "title TYPE point USING '(1,1)'",
        "id TYPE bigint",
    ],
)
def test_altering_a_type_never_makes_a_write_fail(docs: Connection, drain: Drain, change: str) -> None:
    docs.execute("UPDATE docs SET other = 0")  # the plans are cached before
    docs.execute(f"ALTER TABLE docs ALTER {change}".encode())
    docs.execute(
        "UPDATE docs SET other = 1; UPDATE docs SET title = title; DELETE FROM docs WHERE id = 2; INSERT INTO docs (id) VALUES (7)"
    )
    drain()
    if not change.startswith("id"):
        assert missing(docs) == []


def test_a_column_of_a_type_that_the_trigger_was_not_made_for_is_followed(db: Connection, drain: Drain) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, title int); INSERT INTO docs VALUES (1, 1)")
    db.execute("SELECT pgmeaning.attach('docs', columns => '{title}'); UPDATE docs SET title = 2")
    db.execute("ALTER TABLE docs ALTER title TYPE json USING to_json(title); UPDATE docs SET title = '3'")
    db.execute("UPDATE docs SET title = '4'")
    assert drain() == 0
    assert missing(db) == []
    db.execute("UPDATE docs SET title = '4'")
    assert changes(db) == []
    db.execute("UPDATE docs SET title = '5'")
    assert changes(db) == [1]


def test_other_changes_of_the_table_are_none_of_our_business(docs: Connection, drain: Drain) -> None:
    docs.execute(
        "ALTER TABLE docs ADD more text DEFAULT 'x', DROP other, ALTER title SET DEFAULT 'y'; INSERT INTO docs (id) VALUES (3)"
    )
    docs.execute("ALTER TABLE docs RENAME TO papers; INSERT INTO papers (id) VALUES (4)")
    docs.execute(
        "CREATE SCHEMA elsewhere; ALTER TABLE papers SET SCHEMA elsewhere; UPDATE elsewhere.papers SET title = 'new'"
    )
    assert drain() == 0
    assert docs.execute("SELECT count(*) FROM docs_embedding JOIN elsewhere.papers USING (id)").fetchone() == (4,)
    docs.execute("DROP TABLE elsewhere.papers")


def test_a_domain_of_a_dropped_table_can_be_dropped_as_before(db: Connection) -> None:
    db.execute("CREATE DOMAIN code AS text; CREATE TABLE docs (id code PRIMARY KEY, title text)")
    db.execute("SELECT pgmeaning.attach('docs', columns => '{title}'); DROP TABLE docs; DROP DOMAIN code")
