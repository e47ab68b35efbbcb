"""Hybrid search: words and meaning, fused by reciprocal rank."""

# ruff: noqa: E501  a statement of SQL reads better on one line

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from pgmeaning.client.client import Client
from pgmeaning.errors import ArgumentError
from tests.installation import BY_THE_OWNER, ONE_ROLE
from tests.integration.docs import cache
from tests.integration.test_cli import output
from tests.types import Connection, Drain

pytestmark = pytest.mark.parametrize("installation", [ONE_ROLE, BY_THE_OWNER], indirect=True)

TEXTS = {
    1: "the cat sat on the mat",
    2: "cats and dogs are running",
    3: "a bicycle in the rain",
    4: "it's raining cats: c'est la vie",
    5: "nothing of the kind",
    6: "bicycles, bicycles, bicycles",
}


def attach(db: Connection, drain: Drain, options: str = ", language => 'english'") -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, title text, body text)")
    for key, text in TEXTS.items():
        db.execute("INSERT INTO docs VALUES (%s, %s, %s)", (key, f"no. {key}", text))
    db.execute(f"SELECT pgmeaning.attach('docs', template => '{{title}}: {{body}}'{options})")
    assert drain() == 0
    for query in ("cat", "bicycle", "xyzzy", "bicicle", "the", "it's \\ a 'cat' & | ! :* <->"):
        cache(db, query, like="no. 5: nothing of the kind")


def hits(db: Connection, query: str, more: str = "") -> list[dict[str, Any]]:
    statement = f"SELECT (key->>'id')::int, vector_rank, text_rank, score, distance FROM pgmeaning.search('docs', %s, mode => 'hybrid'{more})"
    names = ("id", "vector_rank", "text_rank", "score", "distance")
    return [dict(zip(names, row, strict=True)) for row in db.execute(statement, (query,)).fetchall()]


def text_ranked(found: list[dict[str, Any]]) -> list[int]:
    """The ids that words found, in the order of their ranks."""
    return [hit["id"] for hit in sorted((hit for hit in found if hit["text_rank"]), key=lambda hit: hit["text_rank"])]


def refused(db: Connection, statement: str) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        db.execute(statement)
    return caught.value


def test_words_are_found_in_any_form_and_both_ranks_are_told(db: Connection, drain: Drain) -> None:
    attach(db, drain)
    found = hits(db, "cat")
    assert sorted(text_ranked(found)) == [1, 2, 4]
    assert sorted(hit["vector_rank"] for hit in found) == [1, 2, 3, 4, 5, 6]
    assert [hit["id"] for hit in found if hit["vector_rank"] == 1] == [5]


def test_a_score_is_the_sum_of_weighted_reciprocal_ranks(db: Connection, drain: Drain) -> None:
    attach(db, drain)
    for more, (vector, text, constant) in {
        "": (1, 1, 60),
        ", weights => '{2,0.5}', rank_constant => 10": (2, 0.5, 10),
    }.items():
        found = hits(db, "cat", more)
        for hit in found:
            expected = vector / (constant + hit["vector_rank"])
            expected += text / (constant + hit["text_rank"]) if hit["text_rank"] else 0
            assert hit["score"] == pytest.approx(expected)
        assert [hit["score"] for hit in found] == sorted((hit["score"] for hit in found), reverse=True)


def test_weights_shift_the_order_from_meaning_to_words(db: Connection, drain: Drain) -> None:
    attach(db, drain)
    assert hits(db, "bicycle", ", weights => '{1,0}'")[0]["id"] == 5
    assert hits(db, "bicycle", ", weights => '{0,1}'")[0]["id"] in (3, 6)


def test_a_row_that_only_words_find_has_its_distance_too(db: Connection, drain: Drain) -> None:
    attach(db, drain)
    db.execute("INSERT INTO docs SELECT i, 'filler', 'filler ' || i FROM generate_series(100, 400) AS i")
    assert drain() == 0
    found = hits(db, "cat", ", k => 400")
    ordinary = dict(
        db.execute(
            "SELECT (key->>'id')::int, distance FROM pgmeaning.search('docs', 'cat', 1000, mode => 'exact')"
        ).fetchall()
    )
    assert {hit["id"]: pytest.approx(hit["distance"]) for hit in found} == {
        hit["id"]: ordinary[hit["id"]] for hit in found
    }


def test_without_words_in_common_meaning_alone_decides(db: Connection, drain: Drain) -> None:
    attach(db, drain)
    for query in ("xyzzy", "the"):
        found = hits(db, query)
        assert len(found) == 6
        assert {hit["text_rank"] for hit in found} == {None}


@pytest.mark.parametrize("setting", ["on", "off"])
def test_any_characters_may_stand_in_a_query(db: Connection, drain: Drain, setting: str) -> None:
    attach(db, drain)
    db.execute(f"SET standard_conforming_strings = {setting}")
    assert 1 in text_ranked(hits(db, "it's \\ a 'cat' & | ! :* <->"))


def test_the_words_follow_the_row(db: Connection, drain: Drain) -> None:
    attach(db, drain)
    db.execute("UPDATE docs SET body = 'a bicycle' WHERE id = 1")
    db.execute("DELETE FROM docs WHERE id = 2")
    assert drain() == 0
    assert text_ranked(hits(db, "cat")) == [4]
    assert 1 in text_ranked(hits(db, "bicycle"))


def test_the_words_follow_a_source_that_was_renamed(db: Connection, drain: Drain) -> None:
    attach(db, drain)
    db.execute("ALTER TABLE docs RENAME TO papers")
    db.execute("INSERT INTO papers VALUES (7, 'no. 7', 'one more cat')")
    assert drain() == 0
    assert 7 in text_ranked(hits(db, "cat"))


def test_a_filter_holds_for_both_ways(db: Connection, drain: Drain) -> None:
    attach(db, drain)
    found = hits(db, "cat", ", filter => 'id > $1', filter_params => ARRAY[2]")
    assert text_ranked(found) == [4]
    assert sorted(hit["id"] for hit in found) == [3, 4, 5, 6]


def test_mistyped_words_are_found_by_trigrams(db: Connection, drain: Drain) -> None:
    db.execute("CREATE EXTENSION pg_trgm")
    attach(db, drain)
    assert sorted(text_ranked(hits(db, "bicicle"))) == [3, 6]


def test_a_filter_holds_for_trigrams_too(db: Connection, drain: Drain) -> None:
    db.execute("CREATE EXTENSION pg_trgm")
    attach(db, drain)
    assert text_ranked(hits(db, "bicicle", ", filter => 'id > $1', filter_params => ARRAY[4]")) == [6]


def test_without_a_language_trigrams_do(db: Connection, drain: Drain) -> None:
    db.execute("CREATE EXTENSION pg_trgm SCHEMA public")
    attach(db, drain, "")
    assert {3, 6} <= set(text_ranked(hits(db, "bicycle")))
    assert {5} & set(text_ranked(hits(db, "bicycle"))) == set()


def test_with_neither_words_nor_trigrams_hybrid_search_says_what_to_do(db: Connection, drain: Drain) -> None:
    attach(db, drain, "")
    error = refused(db, "SELECT * FROM pgmeaning.search('docs', 'cat', mode => 'hybrid')")
    assert error.sqlstate == "PM014"
    assert "language" in str(error.diag.message_hint)
    assert "pg_trgm" in str(error.diag.message_hint)


@pytest.mark.parametrize(
    "more",
    ["weights => '{1}'", "weights => '{0,0}'", "weights => '{-1,2}'", "weights => '{1,NULL}'", "rank_constant => -1"],
)
def test_weights_that_make_no_sense_are_refused(db: Connection, drain: Drain, more: str) -> None:
    attach(db, drain)
    error = refused(db, f"SELECT * FROM pgmeaning.search('docs', 'cat', mode => 'hybrid', {more})")
    assert (error.sqlstate, bool(error.diag.message_hint)) == ("PM014", True)


def test_an_unknown_language_is_refused_with_those_there_are(db: Connection) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    error = refused(db, "SELECT pgmeaning.attach('docs', '{body}', language => 'klingon')")
    assert (error.sqlstate, "english" in str(error.diag.message_detail)) == ("PM014", True)


def test_nearest_and_similar_have_no_text_to_go_by(db: Connection, drain: Drain) -> None:
    attach(db, drain)
    assert refused(db, "SELECT * FROM pgmeaning.similar('docs', '1', mode => 'hybrid')").sqlstate == "PM014"


def test_a_key_column_called_words_is_no_trouble(db: Connection, drain: Drain) -> None:
    db.execute("CREATE TABLE docs (words text PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs VALUES ('it''s', 'a cat'), ('b', 'a dog')")
    db.execute("SELECT pgmeaning.attach('docs', '{body}', language => 'english')")
    assert drain() == 0
    cache(db, "cat")
    found = db.execute(
        "SELECT key FROM pgmeaning.search('docs', 'cat', mode => 'hybrid') WHERE text_rank = 1"
    ).fetchall()
    assert found == [({"words": "it's"},)]


def test_a_huge_text_is_no_reason_not_to_embed(db: Connection, drain: Drain) -> None:
    attach(db, drain)
    db.execute("INSERT INTO docs SELECT 9, 't', string_agg(md5(i::text), ' ') FROM generate_series(1, 100000) AS i")
    assert drain() == 0
    assert db.execute("SELECT failed, owed FROM pgmeaning.status").fetchall() == [(0, 0)]


def test_detaching_takes_words_and_trigger_along_or_leaves_a_table_that_works(db: Connection, drain: Drain) -> None:
    attach(db, drain)
    db.execute("SELECT pgmeaning.detach('docs', keep_vectors => true)")
    copied = 'INSERT INTO pgmeaning_data."docs__synthetic-384" (id, chunk, model, embedding) SELECT id, 1, model, embedding FROM pgmeaning_data."docs__synthetic-384"'
    db.execute(copied)
    left = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'pgmeaning_data'::regnamespace"
    assert db.execute(left).fetchone() == (0,)


def test_a_python_client_attaches_with_a_language_and_sees_the_ranks(db: Connection, dsn: str, drain: Drain) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs VALUES (1, 'a cat'), (2, 'a dog')")
    with psycopg.connect(dsn, autocommit=True) as connection:
        client = Client(connection)
        client.attach("docs", ["body"], language="simple")
        assert drain() == 0
        cache(db, "dog")
        ranks = {hit.row["id"]: hit.text_rank for hit in client.search("docs", "dog", mode="hybrid")}
        assert ranks == {1: None, 2: 1}


def test_a_python_client_passes_the_weights_and_refuses_what_are_none(db: Connection, dsn: str, drain: Drain) -> None:
    attach(db, drain)
    with psycopg.connect(dsn, autocommit=True) as connection:
        client = Client(connection)
        first = [client.search("docs", "bicycle", mode="hybrid", weights=pair)[0] for pair in ((1, 0), [0, 1])]
        assert first[0].key["id"] == 5
        assert first[1].key["id"] in (3, 6)
        for wrong in (5, (1,), ("a", "b")):
            with pytest.raises(ArgumentError, match="weights is"):
                client.search("docs", "bicycle", mode="hybrid", weights=wrong)  # type: ignore[arg-type]


def test_several_queries_may_be_hybrid_at_once(db: Connection, drain: Drain) -> None:
    attach(db, drain)
    found = db.execute(
        "SELECT query_index, count(text_rank) FROM pgmeaning.search_many('docs', '{cat,xyzzy}', mode => 'hybrid') GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert found == [(1, 3), (2, 0)]


def test_the_command_searches_hybrid(db: Connection, dsn: str, drain: Drain) -> None:
    attach(db, drain)
    found = json.loads(output("search", "docs", "bicycle", "--mode", "hybrid", "--json", "--dsn", dsn))
    assert {3, 6} <= {hit["key"]["id"] for hit in found[:3]}
