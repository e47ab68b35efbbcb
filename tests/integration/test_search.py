"""search(), nearest() and similar(): finding rows by meaning in SQL."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest
from pgvector import Vector
from pgvector.psycopg import register_vector
from psycopg.types.json import Jsonb

from pgmeaning import load_embedder
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.installation import BY_THE_OWNER, ONE_ROLE
from tests.integration.docs import Docs, cache
from tests.integration.embedders import Clustered
from tests.types import Connect, Connection, Drain, Rows

pytestmark = pytest.mark.parametrize("installation", [ONE_ROLE, BY_THE_OWNER], indirect=True)


def rows(db: Connection, statement: str, *arguments: object) -> Rows:
    return db.execute(statement, arguments).fetchall()


def found(db: Connection, arguments: str, *more: object) -> list[Any]:
    """The ids that a search finds, in its order."""
    return [key["id"] for (key,) in rows(db, f"SELECT key FROM pgmeaning.search({arguments})", *more)]


def refused(db: Connection, statement: str, *arguments: object) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        rows(db, statement, *arguments)
    return caught.value


# Twenty rows; the query 'q7' has the very vector of row 7.
DOCS = Docs(
    columns="id int PRIMARY KEY, body text, lang text, model text DEFAULT 'a%b', chunk int DEFAULT 9",
    rows="SELECT i, 'body ' || i, CASE WHEN i % 2 = 0 THEN 'en' ELSE 'it''s' END FROM generate_series(1, 20) AS i",
    attach="'{body}'",
    embedded=True,
    cached={"q7": "body 7"},
)


# What is found


def test_the_nearest_row_comes_first_with_its_distance_and_model(docs: None, db: Connection) -> None:
    hits = rows(db, "SELECT key, chunk, chunk_text, distance, score, model FROM pgmeaning.search('docs', 'q7', 3)")
    assert len(hits) == 3
    key, chunk, chunk_text, distance, score, model = hits[0]
    assert (key, chunk, chunk_text, model) == ({"id": 7}, 0, None, "synthetic-384")
    assert distance == pytest.approx(0, abs=1e-6)
    assert score == pytest.approx(1 - distance)
    assert [hit[3] for hit in hits] == sorted(hit[3] for hit in hits)


def test_typed_search_returns_the_rows_themselves(docs: None, db: Connection) -> None:
    assert rows(db, "SELECT (hit).* FROM pgmeaning.search(NULL::docs, 'q7', k => 1)") == [
        (7, "body 7", "it's", "a%b", 9)
    ]
    typed = rows(db, "SELECT (hit).id, distance, score FROM pgmeaning.search(NULL::docs, 'q7')")
    assert typed == rows(db, "SELECT (key->>'id')::int, distance, score FROM pgmeaning.search('docs', 'q7')")


def test_a_second_collection_on_a_table_changes_no_search_of_the_first(docs: None, db: Connection) -> None:
    db.execute("SELECT pgmeaning.attach('docs', '{lang}', collection => 'by_language')")
    assert rows(db, "SELECT (hit).id FROM pgmeaning.search(NULL::docs, 'q7', k => 1)") == [(7,)]
    assert found(db, "'docs', 'q7', 1") == [7]


def test_a_row_type_without_a_collection_is_refused(db: Connection) -> None:
    db.execute("CREATE TABLE other (id int)")
    error = refused(db, "SELECT * FROM pgmeaning.search(NULL::other, 'q')")
    assert (error.sqlstate, "attach()" in str(error.diag.message_hint)) == ("PM001", True)


def test_an_unknown_collection_is_refused_with_those_there_are(docs: None, db: Connection) -> None:
    for statement in (
        "search('nope', 'q')",
        "nearest('nope', '[1]')",
        "similar('nope', '1')",
        "search(NULL::text, 'q')",
    ):
        error = refused(db, f"SELECT * FROM pgmeaning.{statement}")
        assert error.sqlstate == "PM001"
        assert "Collections: docs" in str(error.diag.message_detail)


def test_the_plain_way_orders_the_view_by_an_embedded_query(docs: None, db: Connection) -> None:
    plain = rows(
        db,
        "SELECT d.id, e.embedding <=> (SELECT pgmeaning.embed('q7')) "
        "FROM docs AS d JOIN docs_embedding AS e USING (id) ORDER BY 2 LIMIT 5",
    )
    assert plain == rows(db, "SELECT (key->>'id')::int, distance FROM pgmeaning.search('docs', 'q7', 5)")


def test_nearest_takes_a_vector(docs: None, db: Connection) -> None:
    register_vector(db)
    vector = Vector(load_embedder("synthetic-384").embed_documents(["body 7"])[0])
    assert rows(db, "SELECT key FROM pgmeaning.nearest('docs', %s, 1)", vector) == [({"id": 7},)]


def test_vectors_that_cannot_be_compared_are_refused(docs: None, db: Connection) -> None:
    for vector, words in (
        ("'[1,2]'", "has 2 dimensions, the collection 384"),
        ("NULL", "is NULL"),
        ("array_fill(0, '{384}')::vector", "all zeros"),
    ):
        error = refused(db, f"SELECT * FROM pgmeaning.nearest('docs', {vector})")
        assert (error.sqlstate, words in str(error)) == ("PM014", True), str(error)


def test_similar_finds_others_by_any_spelling_of_the_key(docs: None, db: Connection) -> None:
    answers = [
        [k["id"] for (k,) in rows(db, "SELECT key FROM pgmeaning.similar('docs', %s, 100, mode => %s)", key, mode)]
        for mode in ("exact", "signature")
        for key in ("7", '"7"', '{"id": 7}', '{"id": "7"}')
    ]
    assert sorted(answers[0]) == [i for i in range(1, 21) if i != 7]
    assert answers == [answers[0]] * 8


def test_similar_by_a_composite_key(db: Connection, drain: Drain) -> None:
    db.execute('CREATE TABLE pages (book text, "Page No" int, body text, PRIMARY KEY (book, "Page No"))')
    db.execute("INSERT INTO pages VALUES ('it''s', 1, 'same'), ('it''s', 2, 'same'), ('b', 1, 'other')")
    db.execute("SELECT pgmeaning.attach('pages', '{body}')")
    assert drain() == 0
    hits = rows(db, "SELECT key FROM pgmeaning.similar('pages', %s, 1)", '{"Page No": 1, "book": "it\'s"}')
    assert hits == [({"book": "it's", "Page No": 2},)]
    for key in ('{"book": "b"}', "5"):
        error = refused(db, "SELECT * FROM pgmeaning.similar('pages', %s)", key)
        assert (error.sqlstate, "book, Page No" in str(error.diag.message_hint)) == ("PM014", True)


def test_similar_to_a_row_without_a_vector_is_an_error(docs: None, db: Connection) -> None:
    assert refused(db, "SELECT * FROM pgmeaning.similar('docs', '99')").sqlstate == "PM014"


def test_equal_distances_come_in_the_order_of_the_key(db: Connection, drain: Drain) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs SELECT i, 'same' FROM generate_series(12, 1, -1) AS i")
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    assert drain() == 0
    cache(db, "q", like="same")
    for mode in ("exact", "signature"):
        assert found(db, f"'docs', 'q', 5, mode => '{mode}'") == [1, 2, 3, 4, 5]


# How


def test_the_two_modes_agree_on_the_neighbours(db: Connection, dsn: str) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs SELECT i, 'topic' || i % 20 || ' word ' || i FROM generate_series(1, 1000) AS i")
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    assert Sidecar(dsn, Settings(), load=lambda _: Clustered(384)).run(drain=True) == 0
    recalls = []
    for key in range(1, 21):
        exact, signature = (
            {
                k["id"]
                for (k,) in rows(
                    db, f"SELECT key FROM pgmeaning.similar('docs', '{key}', 10, mode => '{mode}', candidates => 100)"
                )
            }
            for mode in ("exact", "signature")
        )
        recalls.append(len(exact & signature) / 10)
    assert np.mean(recalls) >= 0.9


def test_k_may_be_anything_from_one_up(docs: None, db: Connection) -> None:
    for mode in ("exact", "signature"):
        assert len(found(db, f"'docs', 'q7', 2147483647, mode => '{mode}'")) == 20
        assert len(found(db, f"'docs', 'q7', 3, mode => '{mode}', candidates => 1")) == 3
    for k in ("0", "-1", "NULL"):
        assert refused(db, f"SELECT * FROM pgmeaning.search('docs', 'q7', {k})").sqlstate == "PM014"


def test_a_wrong_mode_or_a_null_query_is_refused_before_the_model_is_asked(docs: None, db: Connection) -> None:
    assert "Modes: exact, signature, index" in str(
        refused(db, "SELECT * FROM pgmeaning.search('docs', 'x', mode => 'fast')")
    )
    assert refused(db, "SELECT * FROM pgmeaning.search('docs', NULL)").sqlstate == "PM014"


def test_a_prefix_of_the_models_vectors_is_searched_with_a_prefix_of_the_querys(db: Connection, drain: Drain) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs SELECT i, 'body ' || i FROM generate_series(1, 9) AS i")
    db.execute("SELECT pgmeaning.attach('docs', '{body}', model => 'synthetic-4096', dimensions => 256)")
    assert drain() == 0
    cache(db, "q7", "synthetic-4096", like="body 7")
    ((key, distance),) = rows(db, "SELECT key, distance FROM pgmeaning.search('docs', 'q7', 1)")
    assert key == {"id": 7}
    assert distance == pytest.approx(0, abs=1e-6)


# Filters


def test_a_filter_is_a_condition_on_the_sources_columns(docs: None, db: Connection) -> None:
    db.execute("CREATE TABLE public.tags (doc int, tag text)")
    db.execute("INSERT INTO tags VALUES (3, '100%'), (4, 'x')")
    filters = {
        "lang = 'it''s'": range(1, 21, 2),
        "id IN (SELECT doc FROM public.tags WHERE tag LIKE '%0%%')": [3],
        "model = 'a%b' AND chunk = 9 AND docs.id < 3": [1, 2],
        "id = 1 OR id = 2": [1, 2],
        "id = 5 -- a comment": [5],
        "id = 5 /* another */": [5],
        "EXISTS (SELECT FROM public.tags AS v WHERE v.doc = docs.id)": [3, 4],
        "id < 0": [],
        "NULL": [],
        "body ~ '^body [0-9]{2}$' AND id % 10 = 0": [10, 20],
    }
    for mode in ("exact", "signature"):
        for condition, expected in filters.items():
            assert sorted(found(db, f"'docs', 'q7', 100, %s, mode => '{mode}'", condition)) == list(expected), condition


NO_CONDITIONS = [
    "",
    "true) OR (true",
    "true)",
    "(true",
    "true) --",
    "true /*",
    "true; SELECT 1",
    "nope = 1",
    "id = $1",
    "id = 'x'",
    "id",
    "true LIMIT 1",
    "true UNION SELECT 1",
    "count(*) > 1",
    "true) AS s ON true) AS v; SELECT (1",
    "pgmeaning_nope()",
]


def test_what_is_no_condition_is_refused(docs: None, db: Connection) -> None:
    for condition in NO_CONDITIONS:
        error = refused(db, "SELECT * FROM pgmeaning.search('docs', 'q7', filter => %s)", condition)
        assert error.sqlstate == "PM014", condition
        assert "not a condition on the rows of public.docs" in str(error)
        assert "WHERE" in str(error.diag.message_hint)


# Rows that come and go


@pytest.mark.parametrize("mode", ["exact", "signature"])
def test_a_deleted_row_is_not_found_though_no_sidecar_runs(docs: None, db: Connection, mode: str) -> None:
    db.execute("DELETE FROM docs WHERE id <> 7 AND id <= 18")
    # So few candidates that all of them are gone, but for the first.
    assert sorted(found(db, f"'docs', 'q7', 3, mode => '{mode}', candidates => 3")) == [7, 19, 20]
    db.execute("TRUNCATE docs")
    assert found(db, f"'docs', 'q7', mode => '{mode}'") == []
    db.execute("INSERT INTO docs VALUES (8, 'body 8')")
    assert found(db, f"'docs', 'q7', mode => '{mode}'") == [8]


def test_a_search_sees_one_snapshot(docs: None, db: Connection, connect: Connect) -> None:
    other = connect(autocommit=False)
    other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    before = other.execute("SELECT key FROM pgmeaning.search('docs', 'q7', 100, mode => 'signature')").fetchall()
    db.execute("DELETE FROM docs WHERE id < 15")
    assert (
        other.execute("SELECT key FROM pgmeaning.search('docs', 'q7', 100, mode => 'signature')").fetchall() == before
    )


def test_rows_of_a_partitioned_table_are_found(db: Connection, drain: Drain) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    db.execute("CREATE TABLE docs_1 PARTITION OF docs FOR VALUES FROM (0) TO (5)")
    db.execute("CREATE TABLE docs_2 PARTITION OF docs FOR VALUES FROM (5) TO (50)")
    db.execute("INSERT INTO docs SELECT i, 'body ' || i FROM generate_series(1, 9) AS i")
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    assert drain() == 0
    cache(db, "q7", like="body 7")
    assert found(db, "'docs', 'q7', 1") == [7]
    assert len(found(db, "'docs', 'q7', filter => 'id < 8'")) == 7


# Sources that change


def test_a_search_follows_a_source_that_moves_and_changes(docs: None, db: Connection) -> None:
    db.execute("CREATE SCHEMA other")
    for change in (
        "docs RENAME TO papers",
        "papers SET SCHEMA other",
        "other.papers RENAME COLUMN lang TO language",
        "other.papers DROP COLUMN language",
    ):
        db.execute(f"ALTER TABLE {change}")
        assert found(db, "'docs', 'q7', 1") == [7], change
        assert found(db, "'docs', 'q7', filter => 'id = 3'") == [3], change


@pytest.mark.parametrize("change", ["ALTER TABLE docs RENAME COLUMN id TO nr", "DROP TABLE docs"])
def test_a_source_without_its_key_or_gone_is_a_clear_error(docs: None, db: Connection, change: str) -> None:
    db.execute(change)
    for call in ("search('docs', 'q7')", "similar('docs', '7')"):
        error = refused(db, f"SELECT * FROM pgmeaning.{call}")
        assert error.sqlstate == "PM010"
        assert "detach" in str(error.diag.message_hint)


def test_only_the_active_models_vectors_are_found(docs: None, db: Connection) -> None:
    # Nothing public makes a second table of vectors yet.
    db.execute(
        "SELECT pgmeaning._make_target(c, 'synthetic-4096', 4096) FROM pgmeaning.collection AS c WHERE c.name = 'docs'"
    )
    assert {model for (model,) in rows(db, "SELECT model FROM pgmeaning.search('docs', 'q7')")} == {"synthetic-384"}
    assert {model for (model,) in rows(db, "SELECT model FROM docs_embedding")} == {"synthetic-384"}


@pytest.mark.parametrize("key", ["id", "s"])
def test_typed_search_works_whatever_the_columns_are_called(db: Connection, drain: Drain, key: str) -> None:
    db.execute(f"CREATE TABLE odd (id int, s int, k int, f text, hit text, body text, PRIMARY KEY ({key}))".encode())
    db.execute("INSERT INTO odd VALUES (1, 2, 3, 'f', 'hit', 'x')")
    db.execute("SELECT pgmeaning.attach('odd', '{body}')")
    drain()
    cache(db, "q")
    assert rows(db, "SELECT (hit).* FROM pgmeaning.search(NULL::odd, 'q')") == [(1, 2, 3, "f", "hit", "x")]


def test_a_vector_of_another_length_is_another_models(docs: None, db: Connection) -> None:
    error = refused(db, "SELECT * FROM pgmeaning.nearest('docs', array_fill(1::real, ARRAY[768])::vector)")
    assert error.sqlstate == "PM014"
    assert "768" in str(error)


@pytest.mark.parametrize("k", ["0", "-1", "NULL"])
def test_k_is_checked_before_anything_is_reranked(docs: None, db: Connection, k: str) -> None:
    call = "pgmeaning.search('docs', 'q', rerank => 5, reranker => 'all-MiniLM-L6-v2-late-interaction', k => {})"
    assert refused(db, f"SELECT * FROM {call.format(k)}").sqlstate == "PM014"


def test_several_queries_are_told_apart_wherever_their_array_begins(docs: None, db: Connection) -> None:
    for text in ("a", "b"):
        cache(db, text)
    statement = "SELECT query_index, key FROM pgmeaning.search_many('docs', {}, k => 1) ORDER BY 1"
    assert rows(db, statement.format("'[0:1]={a,b}'")) == rows(db, statement.format("'{a,b}'"))


def test_a_typed_search_without_its_key_is_a_clear_error(docs: None, db: Connection) -> None:
    db.execute("ALTER TABLE docs RENAME id TO number")
    assert refused(db, "SELECT * FROM pgmeaning.search(NULL::docs, 'q')").sqlstate == "PM010"


@pytest.mark.parametrize("mode", ["exact", "hybrid"])
def test_a_key_is_written_the_same_in_every_session(db: Connection, drain: Drain, mode: str) -> None:
    db.execute("CREATE TABLE log (at timestamptz, code bytea, body text, PRIMARY KEY (at, code))")
    db.execute(
        "INSERT INTO log VALUES ('2024-01-01 00:00+00', '\\xdead', 'x'), ('2024-01-02 00:00+00', '\\xbeef', 'y')"
    )
    db.execute("SELECT pgmeaning.attach('log', '{body}', language => 'english')")
    drain()
    cache(db, "q", like="x")
    db.execute("SET TimeZone = 'Asia/Tokyo'; SET bytea_output = 'escape'")
    key = {"at": "2024-01-01T00:00:00+00:00", "code": "\\xdead"}
    assert rows(db, f"SELECT key FROM pgmeaning.search('log', 'q', 1, mode => '{mode}')") == [(key,)]
    ((other,),) = rows(db, "SELECT key FROM pgmeaning.similar('log', %s, 1)", Jsonb(key))
    assert other == {"at": "2024-01-02T00:00:00+00:00", "code": "\\xbeef"}
    assert rows(db, "SELECT (hit).body FROM pgmeaning.search(NULL::log, 'q', 1)") == [("x",)]
