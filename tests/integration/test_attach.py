"""attach: what is refused and why, and every kind of key and name."""

# ruff: noqa: E501  a statement of SQL reads better on one line

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql as compose
from psycopg.types.json import Jsonb

from tests.integration.docs import Docs
from tests.types import Connect, Connection, Drain, Rows


def refused(db: Connection, statement: str, sqlstate: str) -> psycopg.Error:
    """The error of a statement: with this SQLSTATE, and a hint that says what to do."""
    with pytest.raises(psycopg.Error) as raised, db.transaction():
        db.execute(statement.encode())
    assert raised.value.sqlstate == sqlstate, raised.value
    assert raised.value.diag.message_hint
    return raised.value


DOCS = Docs(columns="id int PRIMARY KEY, title text, body text, image bytea")


SOURCES = {
    "a view": "CREATE VIEW t AS SELECT 1 AS id, 'x' AS body",
    "a materialized view": "CREATE MATERIALIZED VIEW t AS SELECT 1 AS id, 'x' AS body",
    "a foreign table": "CREATE FOREIGN TABLE t (id int, body text) SERVER pgmeaning_loopback",
    "a sequence": "CREATE SEQUENCE t",
    "an index": "CREATE TABLE owner (id int, body text); CREATE INDEX t ON owner (id)",
    "no primary key": "CREATE TABLE t (id int UNIQUE, body text)",
    "temporary": "CREATE TEMP TABLE t (id int PRIMARY KEY, body text)",
}


def test_what_cannot_be_attached_is_refused_by_its_kind(db: Connection) -> None:
    for what, made in SOURCES.items():
        with db.transaction(force_rollback=True):
            db.execute(made.encode())
            assert what in str(refused(db, "SELECT pgmeaning.attach('t', columns => '{body}')", "PM003"))


def test_tables_of_the_system_and_of_pgmeaning_are_refused(db: Connection) -> None:
    refused(db, "SELECT pgmeaning.attach('pg_catalog.pg_class', columns => '{relname}')", "PM003")
    refused(db, "SELECT pgmeaning.attach('pgmeaning.model', columns => '{name}')", "PM003")
    refused(db, "SELECT pgmeaning.attach(NULL, columns => '{name}')", "PM003")


WRONG = [
    ("", "PM004"),
    ("columns => '{}'", "PM004"),
    ("columns => '{nope}'", "PM004"),
    ("columns => '{NULL}'", "PM004"),
    ("columns => ARRAY['Title']", "PM004"),
    ("columns => '{ctid}'", "PM004"),
    ("template => ''", "PM004"),
    ("template => 'no column'", "PM004"),
    ("template => '{{title}}'", "PM004"),
    ("template => '{title'", "PM004"),
    ("template => '{title} }'", "PM004"),
    ("template => '{}'", "PM004"),
    ("template => '{nope}'", "PM004"),
    ("columns => '{body}', image => 'nope'", "PM004"),
    ("columns => '{body}', image => 'id'", "PM004"),
    ("columns => '{body}', image => 'image', model => 'all-MiniLM-L6-v2'", "PM006"),
    ("columns => '{body}', collection => ''", "PM002"),
    ("columns => '{body}', collection => repeat('x', 54)", "PM002"),
    ("columns => '{body}', collection => 'taken'", "PM002"),
    ("columns => '{body}', collection => 'existing'", "PM002"),
    ("columns => '{body}', collection => 'type'", "PM002"),
    ("columns => '{body}', model => 'unknown'", "PM005"),
    ("columns => '{body}', model => 'late-interaction-minilm'", "PM005"),
    ("columns => '{body}', model => 'retired'", "PM006"),
    ("columns => '{body}', model => 'deprecated'", "PM006"),
    ("columns => '{body}', dimensions => 0", "PM006"),
    ("columns => '{body}', dimensions => -1", "PM006"),
    ("columns => '{body}', dimensions => 5000", "PM006"),
    ("columns => '{body}', chunking => '{}'", "PM014"),
    ("columns => '{body}', grant_to => '{nobody_there}'", "PM011"),
    ("columns => '{body}', grant_to => '{NULL}'", "PM011"),
]


def test_wrong_arguments_are_refused_and_leave_nothing(docs: Connection) -> None:
    docs.execute("CREATE TABLE other (id int PRIMARY KEY, body text); CREATE TABLE existing_embedding ()")
    docs.execute("CREATE TYPE type_embedding AS ENUM ('a')")
    docs.execute("SELECT pgmeaning.attach('other', columns => '{body}', collection => 'taken')")
    for status in ("retired", "deprecated"):
        docs.execute(
            "INSERT INTO pgmeaning.model (name, kind, backend, status, dimensions, fingerprint) "
            "VALUES (%s, 'embedder', 'synthetic', %s, 8, 'x')",
            (status, status),
        )
    before = leftovers(docs)
    for arguments, sqlstate in WRONG:
        refused(docs, f"SELECT pgmeaning.attach('docs'{', ' if arguments else ''}{arguments})", sqlstate)
        assert leftovers(docs) == before, arguments


def leftovers(db: Connection) -> Rows:
    return db.execute(
        "SELECT (SELECT count(*) FROM pgmeaning.collection), (SELECT count(*) FROM pgmeaning.target), (SELECT count(*) FROM pg_class), "
        "(SELECT count(*) FROM pg_proc), (SELECT count(*) FROM pg_trigger), current_setting('lock_timeout')"
    ).fetchall()


def test_a_foreign_table_deep_among_the_partitions_is_refused(db: Connection) -> None:
    db.execute("CREATE TABLE t (id int NOT NULL, body text) PARTITION BY RANGE (id)")
    db.execute("CREATE TABLE low PARTITION OF t FOR VALUES FROM (0) TO (9) PARTITION BY RANGE (id)")
    db.execute("CREATE FOREIGN TABLE lowest PARTITION OF low FOR VALUES FROM (0) TO (5) SERVER pgmeaning_loopback")
    with pytest.raises(psycopg.Error):  # PostgreSQL itself refuses a key over a foreign partition
        db.execute("ALTER TABLE t ADD PRIMARY KEY (id)")
    db.execute("CREATE TABLE parent (id int PRIMARY KEY, body text); CREATE TABLE child () INHERITS (parent)")
    db.execute("CREATE FOREIGN TABLE grandchild () INHERITS (child) SERVER pgmeaning_loopback")
    assert "foreign table" in str(refused(db, "SELECT pgmeaning.attach('parent', columns => '{body}')", "PM003"))


def test_a_deprecated_model_is_served_to_who_insists(docs: Connection) -> None:
    docs.execute("SELECT pgmeaning.set_default_model('synthetic-4096'), pgmeaning.deprecate_model('synthetic-384')")
    docs.execute(
        "SELECT pgmeaning.attach('docs', columns => '{body}', model => 'synthetic-384', allow_deprecated => true)"
    )


def test_a_role_that_may_not_attach_is_told_whom_to_ask(docs: Connection, connect: Connect) -> None:
    docs.execute("DROP ROLE IF EXISTS visitor; CREATE ROLE visitor; GRANT CREATE ON SCHEMA public TO visitor")
    visitor = connect(options="-c role=visitor")
    refused(visitor, "SELECT pgmeaning.attach('docs', columns => '{body}')", "PM011")
    visitor.execute("CREATE TABLE own (id int PRIMARY KEY, body text)")
    refused(visitor, "SELECT pgmeaning.attach('own', columns => '{body}')", "PM011")
    docs.execute("DROP OWNED BY visitor; DROP ROLE visitor")


def test_grant_to_opens_vectors_and_view_to_those_roles_alone(docs: Connection, drain: Drain, connect: Connect) -> None:
    docs.execute('DROP ROLE IF EXISTS "Some Reader"; CREATE ROLE "Some Reader"; GRANT SELECT ON docs TO "Some Reader"')
    docs.execute("INSERT INTO docs VALUES (1, 'one')")
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{title}', grant_to => ARRAY['Some Reader'])")
    docs.execute(
        "SELECT pgmeaning.attach('docs', columns => '{title}', collection => 'all', grant_to => ARRAY['public'])"
    )
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{title}', collection => 'closed')")
    assert drain() == 0
    reader = connect(options=r"-c role=Some\ Reader")
    assert reader.execute("SELECT count(*) FROM docs_embedding").fetchone() == (1,)
    assert reader.execute("SELECT count(*) FROM all_embedding").fetchone() == (1,)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute("SELECT count(*) FROM closed_embedding")
    docs.execute('DROP OWNED BY "Some Reader"; DROP ROLE "Some Reader"')


def test_attach_in_a_transaction_that_rolls_back_leaves_nothing(docs: Connection) -> None:
    before = leftovers(docs)
    with docs.transaction(force_rollback=True):
        docs.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
        docs.execute("INSERT INTO docs VALUES (1, 'one')")
        assert leftovers(docs) != before
    assert leftovers(docs) == before
    assert docs.execute("SELECT count(*) FROM pgmeaning._unfolded").fetchone() == (0,)


KEYS = {
    "bigint": ["1", "9223372036854775807", "-5"],
    "uuid": ["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"],
    "text": ["'it''s \"quoted\"'", "'Ümläut ß €'", "'{braces}'", "'100 %s %(x)s'", "''", "E'line\\nbreak\\\\'", "'null'"],
    "varchar(20)": ["'x'"],
    "char(5)": ["'ab'"],
    "date": ["'2024-02-29'", "'infinity'", "'0044-03-15 BC'"],
    "timestamptz": ["'2024-02-29 12:34:56.789012+05:30'", "'-infinity'"],
    "timestamp(0)": ["'2024-02-29 12:34:56'"],
    "time": ["'12:34:56.7'"],
    "numeric": ["1.50", "12345678901234567890.123456789", "'NaN'"],
    "numeric(10,2)": ["1.5"],
    "float8": ["0.1", "1e300", "'NaN'", "0.30000000000000004"],
    "bytea": ["'\\xdeadbeef'", "''"],
    "interval": ["'1 day 02:03:04'", "'-1 mon'"],
    "boolean": ["true", "false"],
    "mood": ["'happy'", "'very sad'"],
    "postcode": ["'12345'"],
    "int[]": ["'{1,2,3}'", "'{}'", "'{1,NULL}'"],
    "text[]": ["'{a,\"b c\",NULL}'"],
    "int4range": ["'[1,5)'"],
    "inet": ["'10.0.0.1/8'"],
    "bit(4)": ["B'1010'"],
    "pair": ["'(1,\"a b\")'"],
    "money": ["'1234.50'"],
    "jsonb": ["'{\"a\": [1, null]}'", "'\"text\"'"],
}  # fmt: skip


def test_any_type_of_key_is_embedded_by_backfill_and_by_trigger_and_removed(db: Connection, drain: Drain) -> None:
    db.execute("CREATE SCHEMA types; CREATE TYPE types.mood AS ENUM ('happy', 'very sad')")
    db.execute("CREATE DOMAIN types.five AS text CHECK (length(value) = 5); CREATE DOMAIN types.postcode AS types.five")
    db.execute("CREATE TYPE types.pair AS (a int, b text); SET search_path = public, types")
    for table, (key, values) in zip(tables := [f"t{i}" for i in range(len(KEYS))], KEYS.items(), strict=True):
        db.execute(f"CREATE TABLE {table} (id {key} PRIMARY KEY, body text)".encode())
        rows = ", ".join(f"({value}, 'row {i}')" for i, value in enumerate(values))
        db.execute(
            f"INSERT INTO {table} VALUES {rows}; SELECT pgmeaning.attach('{table}', columns => '{{body}}')".encode()
        )

    def wrong(condition: str) -> list[str]:
        """The types of key whose vectors do not fulfil a condition for every row."""
        query = "SELECT count(*) FROM public.{0} AS s JOIN public.{0}_embedding AS v USING (id) WHERE {1}"
        counts = [db.execute(query.format(table, condition).encode()).fetchone() for table in tables]
        return [key for count, (key, values) in zip(counts, KEYS.items(), strict=True) if count != (len(values),)]

    assert drain() == 0
    assert wrong("true") == []
    # The trigger, in a session whose settings write values in other ways, must come to the same key.
    db.execute("SET TimeZone = 'Asia/Kolkata'; SET DateStyle = 'SQL, DMY'; SET IntervalStyle = 'iso_8601'")
    db.execute("SET bytea_output = 'escape'; SET extra_float_digits = -10; SET search_path = ''")
    for table in tables:
        db.execute(f"UPDATE public.{table} SET body = body || ' changed'".encode())
    assert drain() == 0
    assert wrong("content_hash = sha256(convert_to(jsonb_build_array(body)::text, 'UTF8'))") == []
    assert db.execute("SELECT count(*) FROM pgmeaning.failures").fetchone() == (0,)
    for table in tables:
        db.execute(f"DELETE FROM public.{table}".encode())
    assert drain() == 0
    assert [t for t in tables if db.execute(f"SELECT FROM public.{t}_embedding".encode()).rowcount] == []


NAMES = [
    "Capitals",
    "with space",
    "it's",
    'double"quote',
    "per%cent %s",
    "{braces}",
    "back\\slash",
    "$trigger$",
    "$function$ $make$",
    "ü" * 31,
    "select",
]


def test_any_name_of_schema_table_key_and_column_works(db: Connection, drain: Drain) -> None:
    collections = [f"collection {i}" if len(name.encode()) > 50 else name for i, name in enumerate(NAMES)]
    for name, collection in zip(NAMES, collections, strict=True):
        column = name[:29] + " 2"

        def run(statement: str, n: str = name, c: str = column) -> None:
            db.execute(compose.SQL(statement).format(n=compose.Identifier(n), c=compose.Identifier(c)))

        run("CREATE SCHEMA {n}")
        run("CREATE TABLE {n}.{n} ({n} int PRIMARY KEY, {c} text)")
        run("INSERT INTO {n}.{n} VALUES (1, 'one')")
        attach = (
            "SELECT pgmeaning.attach(format('%%I.%%I', %s::text, %s::text)::regclass, columns => %s, collection => %s)"
        )
        db.execute(attach, (name, name, [column], collection))
        run("INSERT INTO {n}.{n} VALUES (2, 'two'), (3, NULL)")
        run("UPDATE {n}.{n} SET {c} = 'changed' WHERE {n} = 1")
    assert drain() == 0
    for name, collection in zip(NAMES, collections, strict=True):
        assert db.execute("SELECT key FROM pgmeaning.similar(%s, '1')", (collection,)).fetchall() == [({name: 2},)]


# Names of the vector table's columns, and of what the statements over keys and vectors call things.
KEY_COLUMNS = [
    ("model", "chunk"), ("embedding", "signature"), ("content_hash", "embedded_at"), ("chunk_text", "key_chunk_text"),
    ("chunk", "key_chunk"), ("place", "key"), ("characters", "known"), ("s", "v"), ("k", "u"), ("n", "o"),
    ("problem", "written"), ("last_key", "page"), ("generation", "collection_id"),
]  # fmt: skip


def test_key_columns_may_bear_names_that_pgmeaning_uses_itself(db: Connection, drain: Drain) -> None:
    for first, second in KEY_COLUMNS:
        table = f"of_{first}"
        db.execute(
            f"CREATE TABLE {table} ({first} int, {second} text, body text, PRIMARY KEY ({second}, {first}))".encode()
        )
        db.execute(f"INSERT INTO {table} VALUES (1, 'a', 'one'), (1, 'b', 'two')".encode())
        db.execute(f"SELECT pgmeaning.attach('{table}', columns => '{{body}}')".encode())
        db.execute(f"UPDATE {table} SET body = 'changed'; INSERT INTO {table} VALUES (2, 'c', 'three')".encode())
    assert drain() == 0
    for first, second in KEY_COLUMNS:
        found = db.execute(
            "SELECT key FROM pgmeaning.similar(%s, %s)", (f"of_{first}", Jsonb({first: 1, second: "a"}))
        ).fetchall()
        assert sorted(str(key[second]) for (key,) in found) == ["b", "c"]


def test_the_same_table_may_be_attached_twice_under_two_names(docs: Connection, drain: Drain) -> None:
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{title}')")
    docs.execute(
        "SELECT pgmeaning.attach('docs', template => '{title}: {body}', collection => 'whole', dimensions => 384)"
    )
    docs.execute("INSERT INTO docs VALUES (1, 'a', 'b'), (2, 'c', 'd')")
    docs.execute("UPDATE docs SET body = 'new' WHERE id = 1")
    assert drain() == 0
    assert docs.execute("SELECT count(*) FROM docs_embedding JOIN whole_embedding USING (id)").fetchone() == (2,)
    docs.execute("SELECT pgmeaning.detach('docs')")
    docs.execute("INSERT INTO docs VALUES (3, 'e', 'f')")
    assert drain() == 0
    assert docs.execute("SELECT count(*) FROM whole_embedding").fetchone() == (3,)


def test_attach_behind_an_open_writer_gives_up_with_a_hint(docs: Connection, connect: Connect) -> None:
    writer = connect(autocommit=False)
    writer.execute("INSERT INTO docs VALUES (1, 'one')")
    docs.execute("SET lock_timeout = '30ms'")
    refused(docs, "SELECT pgmeaning.attach('docs', columns => '{body}')", "PM015")
    assert docs.execute("SHOW lock_timeout").fetchone() == ("30ms",)
    writer.rollback()
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")


def test_detach_behind_an_open_reader_gives_up_with_a_hint(docs: Connection, connect: Connect) -> None:
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    reader = connect(autocommit=False)
    reader.execute("SELECT * FROM docs")
    docs.execute("SET lock_timeout = '30ms'")
    refused(docs, "SELECT pgmeaning.detach('docs')", "PM015")
    reader.rollback()
    docs.execute("SELECT pgmeaning.detach('docs')")


def test_attach_sets_a_bound_to_its_patience_and_takes_it_back(docs: Connection) -> None:
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    assert docs.execute("SHOW lock_timeout").fetchone() == ("0",)


def test_attach_reads_no_row(docs: Connection) -> None:
    """However big the table: its backfill is the sidecar's."""
    docs.execute("INSERT INTO docs SELECT i, 'title' FROM generate_series(1, 100) AS i; ANALYZE docs")
    docs.execute("EXPLAIN (ANALYZE) SELECT 1")
    read = "SELECT coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables WHERE relname = 'docs'"
    with docs.transaction():
        before = docs.execute(read).fetchone()
        docs.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
        assert docs.execute(read).fetchone() == before


def test_of_two_attaching_under_one_name_the_second_is_told_so(docs: Connection, connect: Connect) -> None:
    docs.execute("CREATE TABLE other (id int PRIMARY KEY, body text)")
    first = connect(autocommit=False)
    first.execute("SELECT pgmeaning.attach('docs', columns => '{body}', collection => 'same')")
    docs.execute("SET lock_timeout = '30ms'")
    refused(docs, "SELECT pgmeaning.attach('other', columns => '{body}', collection => 'same')", "PM002")
    first.commit()
    refused(docs, "SELECT pgmeaning.attach('other', columns => '{body}', collection => 'same')", "PM002")
