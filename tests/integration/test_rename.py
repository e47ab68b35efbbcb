"""rename_collection, and several collections of one table."""

# ruff: noqa: E501  a statement of SQL reads better on one line

from __future__ import annotations

import pytest

from pgmeaning import connect as client_of
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running, wait_until
from tests.integration.docs import Docs, cache
from tests.integration.test_attach import refused
from tests.integration.test_orphans import clock
from tests.types import Connect, Connection, Drain

ROWS = "SELECT i, 'title ' || i, 'body ' || i FROM generate_series(1, 51) AS i"
DOCS = Docs("id int PRIMARY KEY, title text, body text", rows=ROWS, attach="columns => '{title}'")

RENAME = "SELECT pgmeaning.rename_collection('docs', 'papers')"


def is_up_to_date(db: Connection) -> bool:
    return not db.execute(
        "SELECT FROM docs FULL JOIN papers_embedding AS e USING (id) "
        "WHERE e.content_hash IS DISTINCT FROM sha256(convert_to(jsonb_build_array(title)::text, 'UTF8'))"
    ).rowcount


def test_a_collection_is_renamed_while_a_sidecar_works_on_it(docs: Connection, dsn: str) -> None:
    docs.execute("INSERT INTO docs SELECT i, 'title ' || i FROM generate_series(100, 3000) AS i")
    with running(Sidecar(dsn, Settings(maintenance=0.1, claim_rows=64, batch_rows=16))):
        wait_until(lambda: docs.execute("SELECT FROM docs_embedding LIMIT 1").rowcount == 1)
        docs.execute(RENAME)
        docs.execute("UPDATE docs SET title = 'changed' WHERE id < 5")
        wait_until(lambda: is_up_to_date(docs))
        docs.execute("CALL pgmeaning.wait_for('papers')")
    assert docs.execute(
        "SELECT collection, failed, attempts FROM pgmeaning.status LEFT JOIN pgmeaning.failures USING (collection)"
    ).fetchall() == [("papers", 0, None)]
    assert docs.execute("SELECT to_regclass('docs_embedding')").fetchone() == (None,)


def test_nothing_is_embedded_or_indexed_again_for_a_new_name(docs: Connection, dsn: str) -> None:
    index = "SELECT oid FROM pg_class WHERE relam = (SELECT oid FROM pg_am WHERE amname = 'hnsw')"
    with running(Sidecar(dsn, Settings(maintenance=0.1, index_rows=10))):
        wait_until(lambda: docs.execute(index.encode()).rowcount == 1)
        built, before = docs.execute(index.encode()).fetchall(), clock(docs)
        docs.execute(RENAME)
        docs.execute("SELECT pgmeaning.refresh('papers')")
        docs.execute("CALL pgmeaning.wait_for('papers')")
        assert docs.execute(index.encode()).fetchall() == built
    assert docs.execute("SELECT FROM papers_embedding WHERE embedded_at > %s", (before,)).rowcount == 0


def test_what_depends_on_the_view_or_may_read_it_goes_along(docs: Connection, drain: Drain) -> None:
    drain()
    docs.execute("CREATE VIEW mine AS SELECT id FROM docs_embedding; GRANT SELECT ON docs_embedding TO PUBLIC")
    docs.execute(RENAME)
    assert docs.execute("SELECT FROM mine").rowcount == 51
    assert docs.execute(
        "SELECT relacl::text LIKE '%{=r/%' OR relacl::text LIKE '%,=r/%' FROM pg_class WHERE relname = 'papers_embedding'"
    ).fetchone() == (True,)
    cache(docs, "q", like="title 7")
    assert docs.execute("SELECT key FROM pgmeaning.search('papers', 'q', 1)").fetchone() == ({"id": 7},)


def test_the_old_name_is_free_and_the_new_one_is_detached(docs: Connection, drain: Drain) -> None:
    drain()
    docs.execute(RENAME)
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    drain()
    docs.execute("SELECT pgmeaning.detach('papers')")
    assert docs.execute("SELECT to_regclass('papers_embedding')").fetchone() == (None,)
    assert docs.execute("SELECT FROM docs_embedding").rowcount == 51
    docs.execute("SELECT pgmeaning.detach('docs')")
    assert docs.execute("SELECT FROM pg_class WHERE relnamespace = 'pgmeaning_data'::regnamespace").rowcount == 0


def test_a_view_in_a_schema_that_was_renamed_is_found(db: Connection) -> None:
    db.execute("CREATE SCHEMA one; CREATE TABLE one.docs (id int PRIMARY KEY, title text)")
    db.execute("SELECT pgmeaning.attach('one.docs', columns => '{title}'); ALTER SCHEMA one RENAME TO two")
    db.execute(RENAME)
    assert db.execute("SELECT to_regclass('two.papers_embedding') IS NULL").fetchone() == (False,)


def test_a_view_that_was_dropped_is_made_under_the_new_name(docs: Connection) -> None:
    docs.execute("DROP VIEW docs_embedding")
    docs.execute(RENAME)
    assert docs.execute("SELECT FROM papers_embedding").rowcount == 0


@pytest.mark.parametrize("name", ["other", "taken", "docs", "", "x" * 54])
def test_a_name_that_is_taken_or_none_is_refused(docs: Connection, name: str) -> None:
    docs.execute(
        "SELECT pgmeaning.attach('docs', columns => '{body}', collection => 'other'); CREATE TABLE taken_embedding ()"
    )
    refused(docs, f"SELECT pgmeaning.rename_collection('docs', '{name}')", "PM002")
    refused(docs, "SELECT pgmeaning.rename_collection('docs', NULL)", "PM002")
    refused(docs, "SELECT pgmeaning.rename_collection('nothing', 'papers')", "PM001")
    assert docs.execute("SELECT FROM docs_embedding").rowcount == 0


def test_renaming_behind_an_open_reader_gives_up_with_a_hint(docs: Connection, connect: Connect) -> None:
    reader = connect(autocommit=False)
    reader.execute("SELECT FROM docs_embedding")
    docs.execute("SET lock_timeout = '30ms'")
    refused(docs, RENAME, "PM015")
    reader.rollback()
    docs.execute(RENAME)
    assert docs.execute("SHOW lock_timeout").fetchone() == ("30ms",)


def test_of_two_that_take_the_same_name_the_second_is_told_so(docs: Connection, connect: Connect) -> None:
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{body}', collection => 'other')")
    first = connect(autocommit=False)
    first.execute("SELECT pgmeaning.rename_collection('other', 'papers')")
    docs.execute("SET lock_timeout = '30ms'")
    refused(docs, RENAME, "PM002")
    first.commit()
    refused(docs, RENAME, "PM002")


@pytest.mark.parametrize("lost", [False, True], ids=["view there", "view dropped"])
def test_the_view_of_vectors_that_detach_left_behind_gives_way_to_the_new_name(
    docs: Connection, drain: Drain, lost: bool
) -> None:
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{body}', collection => 'second')")
    assert drain() == 0
    docs.execute("SELECT pgmeaning.detach('docs', keep_vectors => true); DELETE FROM docs WHERE id > 3")
    if lost:
        docs.execute("DROP VIEW second_embedding")
    docs.execute("SELECT pgmeaning.rename_collection('second', 'docs')")
    assert drain() == 0
    assert docs.execute("SELECT id FROM docs_embedding ORDER BY id").fetchall() == [(1,), (2,), (3,)]


def test_the_client_renames_too(docs: Connection, dsn: str) -> None:
    with client_of(dsn) as client:
        client.rename_collection("docs", "papers")
        assert [row["collection"] for row in client.status()] == ["papers"]


# Several collections of one table


def typed(db: Connection) -> int | None:
    """The row that a typed search finds for a query that is like one title and like another body."""
    row = db.execute("SELECT (hit).id FROM pgmeaning.search(NULL::docs, 'q', k => 1)").fetchone()
    return row[0] if row else None


@pytest.fixture
def twice(docs: Connection, drain: Drain) -> Connection:
    """A table whose first collection finds row 7 for 'q', and whose second finds row 9."""
    docs.execute("UPDATE docs SET body = 'title 7' WHERE id = 9; UPDATE docs SET title = 'of no body' WHERE id = 9")
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{body}', collection => 'a_second')")
    assert drain() == 0
    cache(docs, "q", like="title 7")
    return docs


def test_a_typed_search_means_the_first_collection_of_a_table(twice: Connection) -> None:
    assert typed(twice) == 7
    assert twice.execute("SELECT key FROM pgmeaning.search('a_second', 'q', 1)").fetchone() == ({"id": 9},)


def test_a_typed_search_means_the_collection_that_was_chosen(twice: Connection) -> None:
    twice.execute("SELECT pgmeaning.set_default_collection('a_second')")
    assert typed(twice) == 9
    twice.execute("SELECT pgmeaning.set_default_collection('docs')")
    assert typed(twice) == 7
    refused(twice, "SELECT pgmeaning.set_default_collection('nothing')", "PM001")


def test_a_typed_search_means_the_other_collection_once_the_first_is_detached(twice: Connection) -> None:
    twice.execute("SELECT pgmeaning.detach('docs')")
    assert typed(twice) == 9


def test_an_orphan_is_no_tables_collection(twice: Connection, drain: Drain) -> None:
    twice.execute("DROP TABLE docs")
    drain()
    for row_type in ("int", "text"):
        refused(twice, f"SELECT * FROM pgmeaning.search(NULL::{row_type}, 'q', k => 1)", "PM001")
