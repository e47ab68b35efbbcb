"""Rows of a collection's table by key and by filter, conditions on metadata, and vectors made without a sidecar."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import psycopg
import pytest

import pgmeaning
from pgmeaning import Client, where
from pgmeaning.client.conditions import all_of, any_of
from pgmeaning.client.diversity import chosen
from pgmeaning.errors import ArgumentError, DatabaseError, TimedOut
from tests.types import Connection, Drain

ROWS: list[dict[str, Any]] = [
    {"id": 1, "body": "rice", "price": 10, "tags": ["a", "b"], "metadata": {"year": 2019, "lang": "en", "list": [1]}},
    {"id": 2, "body": "bread", "price": 20, "tags": ["b"], "metadata": {"year": 2020.5, "day": "2024-05-01"}},
    {"id": 3, "body": "tea", "price": None, "tags": [], "metadata": {"year": "2021", "lang": None, "list": []}},
    {"id": 4, "body": "50% off", "price": 5, "tags": None, "metadata": {"deep": {"er": "x"}, "it's": "q", "ok": True}},
]


EAST_OF_MIDNIGHT = datetime.datetime(2024, 5, 1, 2, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))


@pytest.fixture
def client(db: Connection, dsn: str) -> Iterator[Client]:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text, price int, tags text[], metadata jsonb)")
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    with pgmeaning.connect(dsn) as opened:
        yield opened


@pytest.fixture
def filled(client: Client) -> Client:
    client.upsert_rows("docs", ROWS)
    return client


def ids(client: Client, condition: Any) -> list[int]:
    return sorted(key["id"] for key in client.find_keys("docs", condition))


# Conditions


def test_conditions_mean_what_they_say(filled: Client) -> None:
    year, lang = ("metadata", "year"), ("metadata", "lang")
    day = ("metadata", "day")
    cases: list[tuple[Any, list[int]]] = [
        (where("price", "<", 20), [1, 4]),
        (where("price", "=", None), [3]),
        (where("price", "!=", 10), [2, 3, 4]),
        (where("price", "in", [10, None]), [1, 3]),
        (where("price", "not in", [10, 5]), [2, 3]),
        (where("body", "like", "%r%"), [1, 2]),
        (where("body", "holds", "%"), [4]),
        (where("body", "iholds", "RICE"), [1]),
        (where("tags", "contains", "b"), [1, 2]),
        (where("tags", "all", ["a", "b"]), [1]),
        (where("tags", "empty"), [3, 4]),
        (where(year, "=", 2019), [1]),
        (where(year, "=", 2019.0), [1]),
        (where(year, "=", Decimal("2020.50")), [2]),
        (where(year, "=", None), [4]),
        (where(year, "!=", 2019), [2, 3, 4]),
        (where(year, ">=", 2019), [1, 2]),
        (where(year, ">", None), []),
        (where(year, "<", "3"), [3]),
        (~where(year, ">=", 2019), [3, 4]),
        (where(year, "in", [2019, "2021"]), [1, 3]),
        (where(year, "not in", [2019, None]), [2, 3]),
        (where(lang, "=", None), [2, 3, 4]),
        (where(lang, "exists"), [1]),
        (where(lang, "exists", False), [2, 3, 4]),
        (where(day, "<", "2024-05-01T00:00:01"), [2]),
        (where(day, ">", datetime.date(2024, 4, 30)), [2]),
        (
            where(day, ">=", datetime.datetime(2024, 5, 1, 2, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))),
            [2],
        ),
        (where(("metadata", "deep", "er"), "=", "x"), [4]),
        (where(("metadata", "deep"), "=", {"er": "x"}), [4]),
        (where(("metadata", "it's"), "ilike", "Q"), [4]),
        (where(("metadata", "list"), "=", [1]), [1]),
        (where(("metadata", "list"), "contains", 1), [1]),
        (where(("metadata", "list"), "empty"), [2, 3, 4]),
        (where(("metadata", "ok"), "=", True), [4]),
        (where(("metadata", "ok"), ">=", False), [4]),
        (where("price", ">", 5) & (where(year, "=", 2019) | where(day, "exists")), [1, 2]),
        (all_of([]), [1, 2, 3, 4]),
        (any_of([]), []),
        ("price > 5", [1, 2]),
        ({"price": [10, 20]}, [1, 2]),
        (None, [1, 2, 3, 4]),
    ]
    for condition, wanted in cases:
        assert ids(filled, condition) == wanted, condition
        assert filled.count_rows("docs", condition) == len(wanted), condition


def test_a_value_is_never_part_of_the_statement(filled: Client) -> None:
    for text in ("'; DROP TABLE docs; --", "\\", "%s $1 {}", '"', "--", "$$x$$", "E'\\n'"):
        filled.merge_rows("docs", [1], "metadata", {"lang": text})
        assert ids(filled, where(("metadata", "lang"), "=", text)) == [1]
        assert ids(filled, where(("metadata", "lang"), "in", [text, "other"])) == [1]
        assert ids(filled, where(("metadata", "lang"), "holds", text)) == [1]
        assert ids(filled, where("body", "=", text) | where("id", "=", 2)) == [2]


def test_a_key_of_metadata_may_have_any_sign_but_a_backslash(filled: Client) -> None:
    for key in ("a.b", "'", '"', "$1", "%", "{}", "ü", "--", "x'); DROP TABLE docs; --"):
        filled.merge_rows("docs", [2], "metadata", {key: 7})
        assert ids(filled, where(("metadata", key), "=", 7)) == [2]
        assert ids(filled, where(("metadata", key), ">", 6)) == [2]
    with pytest.raises(ArgumentError, match="cannot be filtered by"):
        where(("metadata", "a\\b"), ">", 1)


def test_what_makes_no_sense_is_refused() -> None:
    for operator, value, said in [
        ("~", 1, "there is no operator"),
        ("in", "abc", "takes a list"),
        ("like", 5, "is no text"),
        (">", [1], "neither less nor greater"),
    ]:
        with pytest.raises(ArgumentError, match=said):
            where(("metadata", "year"), operator, value)
    with pytest.raises(ArgumentError, match="no value of PostgreSQL's"):
        where("price", "in", [1, "a"])


def test_equality_of_metadata_can_use_an_index(filled: Client, db: Connection) -> None:
    db.execute("CREATE INDEX ON docs USING gin (metadata jsonb_path_ops)")
    condition = where(("metadata", "lang"), "=", "en")
    db.execute("SET enable_seqscan = off")
    statement = f"EXPLAIN SELECT FROM docs WHERE {condition.text}".replace("$1", f"'{condition.params[0]}'")
    plan = db.execute(statement.encode()).fetchall()
    assert any("metadata @>" in line for (line,) in plan if "Index Cond" in line)


def test_a_search_takes_a_condition(filled: Client) -> None:
    filled.embed_rows("docs", [1, 2, 3, 4])
    [query] = filled.embed_many(["rice"], collection="docs", local=True)
    hits = filled.nearest("docs", query, filter=where(("metadata", "year"), ">", 2019.5))
    assert [hit.key for hit in hits] == [{"id": 2}]
    with pytest.raises(ArgumentError, match="filter_params go with no condition"):
        filled.nearest("docs", query, filter=where("price", "=", 1), filter_params=[1])


# Rows


def test_rows_are_written_and_read_by_key(filled: Client) -> None:
    assert filled.get_rows("docs", [3, 9, 1], columns=["id", "body"]) == [
        {"id": 3, "body": "tea"}, None, {"id": 1, "body": "rice"},
    ]  # fmt: skip
    assert filled.get_rows("docs", ["word", {"id": 4}])[0] is None
    assert filled.embedded_texts("docs", [2, 9]) == ["bread", None]
    assert filled.get_rows("docs", [1])[0] == ROWS[0]


def test_a_row_that_is_there_is_replaced_skipped_or_refused(filled: Client) -> None:
    assert filled.upsert_rows("docs", [{"id": 1, "body": "new"}, {"id": 1, "body": "newer"}]) == [{"id": 1}]
    assert filled.get_rows("docs", [1])[0] == {**ROWS[0], "body": "newer"}
    assert filled.upsert_rows("docs", [{"id": 1, "body": "x"}, {"id": 5}], on_conflict="skip") == [{"id": 5}]
    with pytest.raises(DatabaseError) as refused:
        filled.upsert_rows("docs", [{"id": 6}, {"id": 1, "body": "x"}], on_conflict="fail")
    assert refused.value.sqlstate == "23505"
    assert filled.get_rows("docs", [1, 6], columns=["body"]) == [{"body": "newer"}, None]


def test_a_key_that_is_left_out_gets_its_default(db: Connection, dsn: str) -> None:
    db.execute("CREATE TABLE notes (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('notes', '{body}')")
    with pgmeaning.connect(dsn) as client:
        assert client.upsert_rows("notes", [{"body": "a"}, {"body": "b"}]) == [{"id": 1}, {"id": 2}]


def test_rows_of_odd_names_and_keys_of_several_columns(db: Connection, dsn: str) -> None:
    db.execute('CREATE TABLE "odd % {}" ("a ""b" date, "%s" numeric, body text, PRIMARY KEY ("a ""b", "%s"))')
    db.execute("""SELECT pgmeaning.attach('"odd % {}"', '{body}', collection => 'odd')""")
    row = {'a "b': "2026-01-02", "%s": "1.50", "body": "text"}
    with pgmeaning.connect(dsn) as client:
        [key] = client.upsert_rows("odd", [row])
        assert client.get_rows("odd", [key], columns=["body"]) == [{"body": "text"}]
        assert client.upsert_rows("odd", [{**row, "body": "other"}]) == [key]
        assert client.embed_rows("odd", [key]) == 1
        assert client.delete_rows("odd", [key]) == 1


def test_rows_are_deleted_and_metadata_is_merged(filled: Client) -> None:
    assert filled.delete_rows("docs", [1, 1, 9, "word"]) == 1
    assert filled.merge_rows("docs", [2, 9], "metadata", {"year": 1, "new": [2]}) == 1
    assert filled.get_rows("docs", [2], columns=["metadata"]) == [
        {"metadata": {"year": 1, "day": "2024-05-01", "new": [2]}}
    ]
    assert filled.delete_rows("docs", []) == 0


def test_an_unknown_column_is_named(client: Client) -> None:
    with pytest.raises(ArgumentError, match="has no column 'colour'") as refused:
        client.upsert_rows("docs", [{"id": 1, "colour": "red"}])
    assert "id, body, price, tags, metadata" in str(refused.value.hint)
    with pytest.raises(ArgumentError, match="has no column 'x'"):
        client.merge_rows("docs", [1], "x", {})


def test_more_rows_than_a_page_are_written_in_their_order(client: Client) -> None:
    keys = client.upsert_rows("docs", ({"id": i, "body": f"body {i}"} for i in range(1200)))
    assert [key["id"] for key in keys] == list(range(1200))


# Vectors


def test_rows_are_embedded_without_a_sidecar_as_by_one(filled: Client, db: Connection, drain: Drain) -> None:
    filled.upsert_rows("docs", [{"id": 5, "body": "  "}])
    assert filled.embed_rows("docs", [1, 2, 3, 5, 9]) == 3
    assert filled.embed_rows("docs", [1, 2, 3]) == 0
    made = db.execute("SELECT id, embedding::text, embedded_at FROM docs_embedding ORDER BY id").fetchall()
    assert drain() == 0
    found = db.execute("SELECT id, embedding::text, embedded_at FROM docs_embedding ORDER BY id").fetchall()
    assert found[:3] == made, "a sidecar embeds them no more"
    assert [row[0] for row in found] == [1, 2, 3, 4]
    db.execute("UPDATE docs SET body = body || '!' WHERE id = 1")
    assert filled.embed_rows("docs", [1, 2]) == 1


def test_templates_dimensions_and_words_are_those_of_a_sidecar(db: Connection, dsn: str, drain: Drain) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, a text, b text)")
    db.execute(
        "SELECT pgmeaning.attach('docs', template => 'A: {a}, B: {b}', dimensions => 64, vector_type => 'halfvec', "
        "language => 'english')"
    )
    with pgmeaning.connect(dsn) as client:
        client.upsert_rows("docs", [{"id": 1, "a": "running", "b": None}, {"id": 2, "a": None, "b": None}])
        assert client.embed_rows("docs", [1, 2]) == 1
        seen = 'SELECT d.embedding::text, v.words FROM docs_embedding AS d, pgmeaning_data."docs__synthetic-384" AS v'
        made = db.execute(seen).fetchall()
        db.execute('DELETE FROM pgmeaning_data."docs__synthetic-384"')
        client.refresh("docs")
        assert drain() == 0
        assert db.execute(seen).fetchall() == made


def test_chunks_are_left_to_a_sidecar(db: Connection, dsn: str) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("""SELECT pgmeaning.attach('docs', '{body}', chunking => '{"method": "tokens", "size": 64}')""")
    with pgmeaning.connect(dsn) as client, pytest.raises(ArgumentError, match="cut into chunks"):
        client.embed_rows("docs", [1])


def test_a_model_that_is_not_what_it_was_embeds_nothing(filled: Client, db: Connection, drain: Drain) -> None:
    assert drain() == 0  # keeps the probes
    db.execute(
        "UPDATE pgmeaning.model_probe "
        "SET embedding = (SELECT array_agg(-x ORDER BY i) FROM unnest(embedding::real[]) WITH ORDINALITY AS u (x, i))"
    )
    filled.upsert_rows("docs", [{"id": 1, "body": "changed"}])
    with pytest.raises(pgmeaning.errors.ModelDrifted):
        filled.embed_rows("docs", [1])


def test_a_role_without_the_right_is_told_so(filled: Client, db: Connection) -> None:
    db.execute("CREATE ROLE nobody_special; GRANT SELECT ON docs TO nobody_special")
    try:
        filled.connection.execute("SET ROLE nobody_special")
        assert filled.count_rows("docs") == 4
        for call in (
            lambda: filled.embed_rows("docs", [1]),
            lambda: filled.stored_vectors("docs", [1]),
            lambda: filled.delete_rows("docs", [1]),
            lambda: filled.upsert_rows("docs", ROWS),
        ):
            with pytest.raises(DatabaseError) as refused:
                call()
            assert refused.value.sqlstate in ("PM011", "42501")
    finally:
        filled.connection.execute("RESET ROLE")
        db.execute("DROP OWNED BY nobody_special; DROP ROLE nobody_special")


def test_many_texts_have_the_vectors_of_embed(filled: Client, sidecar: object) -> None:
    asked = filled.embed_many(["a", "b", "a"], collection="docs")
    here = filled.embed_many(["a", "b", "a"], collection="docs", local=True)
    assert np.array_equal(asked, here)
    assert asked[0].model == here[0].model == "synthetic-384"
    assert asked[0].fingerprint == here[0].fingerprint
    assert np.array_equal(asked[1], filled.embed("b", collection="docs"))
    assert filled.embed_many([]) == []


def test_many_texts_time_out_where_nobody_embeds(filled: Client) -> None:
    with pytest.raises(TimedOut):
        filled.embed_many(["never asked"], collection="docs", timeout=0)


def test_waiting_for_rows_is_for_these_alone(filled: Client, drain: Drain) -> None:
    assert drain() == 0
    filled.wait_for_rows("docs", [1, 2])
    filled.upsert_rows("docs", [{"id": 7, "body": "owed"}])
    filled.wait_for_rows("docs", [1, 2])
    with pytest.raises(TimedOut):
        filled.wait_for_rows("docs", [1, 7], timeout=0)


def test_stored_vectors_come_in_the_order_of_the_keys(filled: Client) -> None:
    filled.embed_rows("docs", [1, 2])
    [second, none, first] = filled.stored_vectors("docs", [2, 9, {"id": 1}])
    [wanted] = filled.embed_many(["rice"], collection="docs", local=True, as_query=False)
    assert none is None
    assert first is not None
    assert second is not None
    assert np.array_equal(first, wanted)
    assert first.model == "synthetic-384"


# Diversity


def test_what_is_chosen_is_near_and_differs() -> None:
    query = np.array([1, 0, 0], np.float32)
    near, twin, other = [0.9, 0.1, 0], [0.9, 0.11, 0], [0.6, 0, 0.8]
    vectors = np.array([near, twin, other], np.float32)
    assert chosen(query, vectors, 2, 1.0) == [0, 1]
    assert chosen(query, vectors, 2, 0.5) == [0, 2]
    assert chosen(query, vectors, 9, 0.0)[:2] == [0, 2]
    assert chosen(query, vectors[:0], 2, 0.5) == []


def test_diverse_rows_leave_out_a_twin(filled: Client) -> None:
    filled.upsert_rows("docs", [{"id": 8, "body": "rice"}])
    filled.embed_rows("docs", [1, 2, 3, 8])
    assert [hit.key["id"] for hit in filled.nearest("docs", filled.embed_many(["rice"], local=True)[0], 2)] == [1, 8]
    found = filled.diverse("docs", "rice", 2, balance=0.4, local=True)
    assert found[0].key["id"] == 1
    assert found[1].key["id"] in (2, 3)
    assert filled.diverse("docs", "rice", 5, filter=where("id", "=", 77), local=True) == []
    with pytest.raises(ArgumentError, match="balance is 2"):
        filled.diverse("docs", "rice", balance=2, local=True)


def test_a_deleted_row_has_no_vector(filled: Client, db: psycopg.Connection[Any]) -> None:
    filled.embed_rows("docs", [1])
    db.execute("DELETE FROM docs WHERE id = 1")
    assert filled.stored_vectors("docs", [1]) == [None]
