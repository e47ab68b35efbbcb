"""A collection whose table is gone: kept for a while, taken up by a table of the same name and key, dropped after it."""

# ruff: noqa: E501  a statement of SQL reads better on one line

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime

import psycopg
import pytest

from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running, wait_until
from tests.integration.docs import Docs
from tests.integration.test_attach import refused
from tests.types import Connect, Connection, Drain

ROWS = "SELECT i, 'title ' || i, 'body ' || i FROM generate_series(1, 51) AS i"
DOCS = Docs("id int PRIMARY KEY, title text, body text", rows=ROWS, attach="columns => '{title}'")

# The usual way to rebuild a table; one row is changed by it.
REBUILD = """
BEGIN;
CREATE TABLE docs2 (LIKE docs INCLUDING ALL);
INSERT INTO docs2 SELECT * FROM docs;
UPDATE docs2 SET title = 'changed' WHERE id = 7;
DROP TABLE docs;
ALTER TABLE docs2 RENAME TO docs;
COMMIT
"""


def state(db: Connection) -> tuple[str, str]:
    """(state, problem) of the collection docs."""
    row = db.execute("SELECT state, coalesce(problem, '') FROM pgmeaning.status WHERE collection = 'docs'").fetchone()
    return row or ("", "")


def may_read(db: Connection, role: str) -> list[bool]:
    """Whether a role may read the view of docs, and its vector table."""
    relations = ("docs_embedding", 'pgmeaning_data."docs__synthetic-384"')
    asked = "SELECT has_table_privilege(%s, %s, 'SELECT')"
    return [db.execute(asked, (role, relation)).fetchall()[0][0] for relation in relations]


def clock(db: Connection) -> datetime:
    now: datetime = db.execute("SELECT clock_timestamp()").fetchall()[0][0]
    return now


def embedded(db: Connection, since: datetime) -> list[int]:
    """The rows that got a vector since then."""
    return [
        key
        for (key,) in db.execute(
            "SELECT id FROM docs_embedding WHERE embedded_at > %s ORDER BY id", (since,)
        ).fetchall()
    ]


def vectors(db: Connection) -> int:
    count: int = db.execute('SELECT count(*) FROM pgmeaning_data."docs__synthetic-384"').fetchall()[0][0]
    return count


def is_up_to_date(db: Connection) -> bool:
    """Whether each row of docs has the vector of its present title, and nothing else is left."""
    return (
        state(db)[0] == "ready"
        and not db.execute(
            "SELECT FROM docs FULL JOIN docs_embedding AS e USING (id) "
            "WHERE e.content_hash IS DISTINCT FROM sha256(convert_to(jsonb_build_array(title)::text, 'UTF8'))"
        ).rowcount
    )


def test_a_table_that_is_rebuilt_in_one_transaction_keeps_its_vectors(docs: Connection, sidecar: Sidecar) -> None:
    wait_until(lambda: is_up_to_date(docs))
    before = clock(docs)
    docs.execute(REBUILD.replace("COMMIT", "DELETE FROM docs WHERE id = 9; COMMIT").encode())
    wait_until(lambda: is_up_to_date(docs))
    assert embedded(docs, before) == [7]
    docs.execute("UPDATE docs SET title = 'again' WHERE id = 8; DELETE FROM docs WHERE id = 10")
    wait_until(lambda: is_up_to_date(docs))
    assert embedded(docs, before) == [7, 8]


def test_a_rebuilt_table_is_drained_without_a_sidecar_that_stays(docs: Connection, drain: Drain) -> None:
    assert drain() == 0
    before = clock(docs)
    docs.execute(REBUILD.encode())
    assert drain() == 0
    assert embedded(docs, before) == [7]


def test_two_sidecars_take_a_rebuilt_table_up_once(docs: Connection, dsn: str) -> None:
    with running(Sidecar(dsn, Settings(maintenance=0.1))), running(Sidecar(dsn, Settings(maintenance=0.1))):
        wait_until(lambda: is_up_to_date(docs))
        before = clock(docs)
        for _ in range(5):
            docs.execute(REBUILD.encode())
            wait_until(lambda: is_up_to_date(docs))
        assert embedded(docs, before) == [7]
    triggers = docs.execute("SELECT FROM pg_trigger WHERE tgrelid = 'docs'::regclass AND NOT tgisinternal")
    assert triggers.rowcount == 4


def test_a_table_that_is_dropped_and_restored_keeps_its_vectors(docs: Connection, sidecar: Sidecar) -> None:
    """As pg_restore --clean does it: the key comes after the rows."""
    wait_until(lambda: is_up_to_date(docs))
    before = clock(docs)
    docs.execute("DROP TABLE docs")
    wait_until(lambda: state(docs)[0] == "orphaned")
    docs.execute("CREATE TABLE docs (id int NOT NULL, title text, body text)")
    wait_until(lambda: "no longer the primary key" in state(docs)[1])
    assert state(docs)[0] == "orphaned"
    docs.execute(f"INSERT INTO docs {ROWS}".encode())
    docs.execute("ALTER TABLE docs ADD PRIMARY KEY (id)")
    wait_until(lambda: is_up_to_date(docs))
    assert embedded(docs, before) == []


def test_an_empty_table_that_took_the_vectors_up_keeps_them_until_its_rows_come(docs: Connection, dsn: str) -> None:
    with running(Sidecar(dsn, Settings(maintenance=0.1))):
        wait_until(lambda: is_up_to_date(docs))
        before = clock(docs)
        docs.execute("DROP TABLE docs; CREATE TABLE docs (id int PRIMARY KEY, title text, body text)")
        wait_until(lambda: state(docs)[0] == "ready")
        assert vectors(docs) == 51
        docs.execute(f"INSERT INTO docs {ROWS}".encode())
        wait_until(lambda: is_up_to_date(docs))
        assert embedded(docs, before) == []
        docs.execute("TRUNCATE docs")
        wait_until(lambda: vectors(docs) == 0)


def test_a_table_that_took_the_vectors_up_and_stays_empty_loses_them_in_the_end(docs: Connection, drain: Drain) -> None:
    drain()
    docs.execute("DROP TABLE docs; CREATE TABLE docs (id int PRIMARY KEY, title text, body text)")
    drain()
    assert vectors(docs) == 51
    drain(orphan_grace=0)
    assert vectors(docs) == 0


def test_a_schema_that_is_dropped_and_made_again_has_view_and_triggers_again(db: Connection, sidecar: Sidecar) -> None:
    made = f"CREATE SCHEMA app; CREATE TABLE app.docs (id int PRIMARY KEY, title text, body text); INSERT INTO app.docs {ROWS}"
    db.execute(made.encode())
    db.execute("SELECT pgmeaning.attach('app.docs', columns => '{title}'); SET search_path = app, public")
    wait_until(lambda: is_up_to_date(db))
    before = clock(db)
    db.execute("DROP SCHEMA app CASCADE")
    wait_until(lambda: state(db)[0] == "orphaned")
    db.execute(made.encode())
    wait_until(lambda: db.execute("SELECT to_regclass('app.docs_embedding') IS NOT NULL").fetchone() == (True,))
    wait_until(lambda: is_up_to_date(db))
    db.execute("UPDATE docs SET title = 'changed' WHERE id = 7")
    wait_until(lambda: is_up_to_date(db))
    assert embedded(db, before) == [7]


def test_a_rebuilt_partitioned_table_keeps_its_vectors_and_is_watched_everywhere(
    db: Connection, sidecar: Sidecar
) -> None:
    made = (
        "CREATE TABLE docs (id int, title text, PRIMARY KEY (id)) PARTITION BY RANGE (id);"
        "CREATE TABLE low PARTITION OF docs FOR VALUES FROM (1) TO (26); CREATE TABLE high PARTITION OF docs DEFAULT;"
        "INSERT INTO docs SELECT i, 'title ' || i FROM generate_series(1, 51) AS i"
    )
    db.execute(made.encode())
    db.execute("SELECT pgmeaning.attach('docs', columns => '{title}')")
    wait_until(lambda: is_up_to_date(db))
    before = clock(db)
    db.execute("DROP TABLE docs")
    wait_until(lambda: state(db)[0] == "orphaned")
    db.execute(made.encode())
    wait_until(lambda: is_up_to_date(db))
    db.execute("UPDATE high SET title = 'changed' WHERE id = 30")
    wait_until(lambda: is_up_to_date(db))
    assert embedded(db, before) == [30]


def test_the_view_bars_no_drop_of_the_table_and_shows_what_is_kept(docs: Connection, drain: Drain) -> None:
    drain()
    docs.execute("DROP TABLE docs")
    drain()
    assert docs.execute("SELECT FROM docs_embedding").rowcount == 51


def test_an_orphan_shows_its_vectors_to_nobody_else(docs: Connection, drain: Drain) -> None:
    drain()
    role = f"reader_{docs.info.dbname}"
    docs.execute(
        f'CREATE ROLE {role}; GRANT SELECT ON docs_embedding, pgmeaning_data."docs__synthetic-384" TO {role}'.encode()
    )
    try:
        docs.execute("DROP TABLE docs")
        for _ in range(2):  # before it was noticed, and after
            docs.execute(f"SET ROLE {role}".encode())
            assert docs.execute("SELECT FROM docs_embedding").rowcount == 0
            docs.execute("RESET ROLE")
            drain()
    finally:
        docs.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


@pytest.mark.parametrize("noticed", [False, True])
def test_searching_an_orphan_says_that_its_table_is_gone(docs: Connection, drain: Drain, noticed: bool) -> None:
    drain()
    docs.execute("DROP TABLE docs")
    if noticed:
        drain()
    assert state(docs)[0] == "orphaned"
    assert "public.docs was dropped" in state(docs)[1]
    for call in ("search('docs', 'x')", "similar('docs', '1')", "refresh('docs')", "embed('x', 'docs')"):
        error = refused(docs, f"SELECT pgmeaning.{call}", "PM010")
        assert "was dropped" in str(error)
        assert "detach('docs')" in str(error.diag.message_hint)


def test_an_orphan_is_dropped_once_its_time_is_over(docs: Connection, drain: Drain) -> None:
    drain()
    docs.execute("DROP TABLE docs")
    drain(orphan_grace=3600)
    assert state(docs)[0] == "orphaned"
    docs.execute("UPDATE pgmeaning.collection SET kept_until = now() - interval '1 second'")
    drain()
    assert docs.execute("SELECT FROM pgmeaning.collection").rowcount == 0
    assert docs.execute(
        "SELECT to_regclass('docs_embedding'), to_regclass('pgmeaning_data.\"docs__synthetic-384\"')"
    ).fetchone() == (None, None)


def test_an_orphan_whose_view_is_used_says_why_it_stays(docs: Connection, drain: Drain) -> None:
    drain()
    docs.execute("CREATE VIEW mine AS SELECT * FROM docs_embedding; DROP TABLE docs")
    drain(orphan_grace=0)
    drain()
    assert "view public.mine depends on" in state(docs)[1]
    docs.execute("DROP VIEW mine")
    drain()
    assert docs.execute("SELECT FROM pgmeaning.collection").rowcount == 0


def test_detach_drops_an_orphan(docs: Connection, drain: Drain) -> None:
    drain()
    docs.execute("DROP TABLE docs")
    drain()
    docs.execute("SELECT pgmeaning.detach('docs')")
    assert docs.execute(
        "SELECT to_regclass('docs_embedding'), to_regclass('pgmeaning_data.\"docs__synthetic-384\"')"
    ).fetchone() == (None, None)


OTHERS = {
    "CREATE TABLE docs (number int PRIMARY KEY, title text)": "column id",
    "CREATE TABLE docs (id uuid PRIMARY KEY, title text)": "key column id",
    "CREATE TABLE docs (id int PRIMARY KEY, body text)": "column title",
}


@pytest.mark.parametrize("made", OTHERS)
def test_a_table_of_the_same_name_but_of_another_shape_takes_nothing_and_costs_nothing(
    docs: Connection, drain: Drain, made: str
) -> None:
    drain()
    docs.execute("DROP TABLE docs")
    docs.execute(made.encode())
    for _ in range(2):
        drain(orphan_grace=0)
        assert state(docs)[0] == "orphaned"
        assert OTHERS[made] in state(docs)[1]
        assert vectors(docs) == 51
    docs.execute(
        "SELECT pgmeaning.detach('docs'), pgmeaning.attach('docs', template => '{docs}')".replace(
            "{docs}", "{" + made.split(",")[1].split()[0] + "}"
        ).encode()
    )


def test_a_table_that_the_catalog_only_hides_was_not_dropped(docs: Connection, sidecar: Sidecar) -> None:
    """Citus hides some from whoever reads pg_class; here the catalog's word is put in its place."""
    wait_until(lambda: vectors(docs) == 51)
    docs.execute(
        "CREATE OR REPLACE FUNCTION pgmeaning._is_dropped(source oid) RETURNS bool LANGUAGE sql STABLE AS 'SELECT false'"
    )
    docs.execute("DROP TABLE docs")
    done = sidecar.in_flight.rows_done
    docs.execute("CREATE TABLE others (id int PRIMARY KEY, body text); INSERT INTO others VALUES (1, 'other')")
    docs.execute("SELECT pgmeaning.attach('others', columns => '{body}')")
    wait_until(lambda: sidecar.in_flight.rows_done > done)  # so maintenance has gone round
    wait_until(lambda: state(docs)[0] == "broken")
    assert "pg_class" in state(docs)[1]
    assert vectors(docs) == 51


def test_attach_takes_an_orphan_up_under_its_name_even_without_a_sidecar(docs: Connection, drain: Drain) -> None:
    drain()
    before = clock(docs)
    docs.execute("DROP TABLE docs; CREATE SCHEMA app; CREATE TABLE app.docs (id int PRIMARY KEY, title text)")
    docs.execute("INSERT INTO app.docs SELECT i, 'title ' || i FROM generate_series(1, 51) AS i")
    assert docs.execute("SELECT pgmeaning.attach('app.docs', columns => '{title}')").fetchone() == ("docs",)
    docs.execute("SET search_path = app, public")
    drain()
    assert is_up_to_date(docs)
    assert embedded(docs, before) == []
    assert docs.execute(
        "SELECT to_regclass('public.docs_embedding'), to_regclass('app.docs_embedding') IS NULL"
    ).fetchone() == (None, False)


def test_attach_of_another_kind_spares_an_orphan_and_says_what_to_do(docs: Connection, drain: Drain) -> None:
    drain()
    docs.execute("DROP TABLE docs; CREATE TABLE docs (id int PRIMARY KEY, title text, body text)")
    for other in ("columns => '{body}'", "columns => '{title}', vector_type => 'halfvec'", "template => '{title}!'"):
        error = refused(docs, f"SELECT pgmeaning.attach('docs', {other})", "PM002")
        assert "detach('docs')" in str(error.diag.message_hint)
    assert vectors(docs) == 51


def test_attach_after_a_sidecar_has_taken_the_table_up_is_no_error(docs: Connection, drain: Drain) -> None:
    """Whoever drops, makes and attaches a table must not depend on whether a sidecar was faster."""
    made = "DROP TABLE docs; CREATE TABLE docs (id int PRIMARY KEY, title text, body text)"
    docs.execute(made.encode())
    drain()
    assert docs.execute("SELECT pgmeaning.attach('docs', columns => '{title}')").fetchone() == ("docs",)
    refused(docs, "SELECT pgmeaning.attach('docs', columns => '{body}')", "PM002")


def test_attach_says_anew_who_may_read_an_orphans_vectors(docs: Connection, drain: Drain) -> None:
    roles = [f"{name}_{docs.info.dbname}" for name in ("old", "new")]
    for role in roles:
        docs.execute(f"CREATE ROLE {role}".encode())
    try:
        docs.execute("SELECT pgmeaning.detach('docs')")
        docs.execute(f"SELECT pgmeaning.attach('docs', columns => '{{title}}', grant_to => '{{{roles[0]}}}')".encode())
        docs.execute("DROP TABLE docs; CREATE TABLE docs (id int PRIMARY KEY, title text)")
        docs.execute(f"SELECT pgmeaning.attach('docs', columns => '{{title}}', grant_to => '{{{roles[1]}}}')".encode())
        assert [may_read(docs, role) for role in roles] == [[False, False], [True, True]]
    finally:
        for role in roles:
            docs.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_a_copy_into_a_table_that_came_back_is_never_held_up(
    docs: Connection, connect: Connect, sidecar: Sidecar
) -> None:
    wait_until(lambda: is_up_to_date(docs))
    before = clock(docs)
    docs.execute("DROP TABLE docs")
    docs.execute("CREATE TABLE docs (id int PRIMARY KEY, title text, body text)")
    wait_until(lambda: state(docs)[0] in ("ready", "scanning"))
    docs.execute("DROP TABLE docs")
    loader = connect(autocommit=False)
    loader.execute("CREATE TABLE docs (id int PRIMARY KEY, title text, body text)")
    loader.commit()
    loader.execute(f"INSERT INTO docs {ROWS}".encode())
    docs.execute("SET lock_timeout = '5s'")
    docs.execute("INSERT INTO docs VALUES (100, 'one more')")
    loader.commit()
    wait_until(lambda: is_up_to_date(docs))
    assert embedded(docs, before) == [100]


def test_a_row_that_is_owed_when_its_table_is_replaced_keeps_its_vector(docs: Connection, drain: Drain) -> None:
    drain()
    docs.execute("UPDATE docs SET title = 'changed' WHERE id < 5")
    docs.execute("DROP TABLE docs; CREATE TABLE docs (id int PRIMARY KEY, title text, body text)")
    docs.execute(f"INSERT INTO docs {ROWS}".encode())
    before = clock(docs)
    drain()
    assert is_up_to_date(docs)
    assert embedded(docs, before) == []


def test_a_table_under_the_name_of_a_renamed_one_is_not_taken_for_it(docs: Connection, dsn: str) -> None:
    """Between two looks a sidecar knows a table by its name; what the other one lacks is not gone."""
    with running(Sidecar(dsn, Settings(maintenance=5))):
        wait_until(lambda: is_up_to_date(docs))
        docs.execute(
            "BEGIN; UPDATE docs SET body = title; SELECT pgmeaning.refresh('docs'); ALTER TABLE docs RENAME TO old; CREATE TABLE docs (id int PRIMARY KEY, title text); COMMIT"
        )
        wait_until(lambda: docs.execute("SELECT FROM pgmeaning.inbox").rowcount == 0)
        wait_until(lambda: docs.execute("SELECT FROM pgmeaning.target WHERE scanning").rowcount == 0)
        assert vectors(docs) == 51


def test_rows_written_while_their_table_is_rebuilt_over_and_over_are_up_to_date_in_the_end(
    docs: Connection, connect: Connect, dsn: str
) -> None:
    written = threading.Event()

    def write() -> None:
        writer = connect()
        for key in itertools.cycle(range(1, 60)):
            if written.is_set():
                return
            with suppress(psycopg.errors.UndefinedTable):  # where a statement waited for the table that was dropped
                writer.execute("DELETE FROM docs WHERE id = %s", (key,))
                writer.execute("INSERT INTO docs VALUES (%s, %s) ON CONFLICT DO NOTHING", (key + 7, f"written {key}"))

    settings = Settings(maintenance=0.1, lease=2, claim_rows=16, batch_rows=4)
    with running(Sidecar(dsn, settings)), running(Sidecar(dsn, settings)), ThreadPoolExecutor(1) as pool:
        ended = pool.submit(write)
        for _ in range(10):
            docs.execute(REBUILD.replace("CREATE", "LOCK TABLE docs; CREATE", 1).encode())
            adopted = docs.execute("SELECT adopted_at FROM pgmeaning.collection").fetchone()
            wait_until(lambda a=adopted: docs.execute("SELECT adopted_at FROM pgmeaning.collection").fetchone() != a)  # type: ignore[misc]
        written.set()
        ended.result(30)
        wait_until(lambda: is_up_to_date(docs))
    assert docs.execute("SELECT FROM pgmeaning.failures").rowcount == 0
