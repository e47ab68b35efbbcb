"""Which model embeds a text outside of a search: embed(), prepare() and similarity() with and without a collection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import psycopg
import pytest
from pgvector.psycopg import register_vector

import pgmeaning
from pgmeaning import load_embedder
from pgmeaning.client.client import Client
from pgmeaning.errors import CollectionError, DatabaseError
from pgmeaning.sidecar.process import Sidecar
from tests.types import Connection

Drain = Callable[..., int]
QUERY = "body 7"
# Of the same length as the default model's vectors, and yet another's: the first of its longer ones.
BY_ANOTHER = "model => 'synthetic-4096', dimensions => 384"


@pytest.fixture
def docs(db: Connection) -> Connection:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs SELECT i, 'body ' || i FROM generate_series(1, 30) AS i")
    register_vector(db)
    return db


def attach(db: Connection, collection: str, more: str = "") -> None:
    db.execute(f"SELECT pgmeaning.attach('docs', '{{body}}', collection => %s{more})".encode(), (collection,))


@pytest.fixture
def two_models(docs: Connection, sidecar: Sidecar) -> Connection:
    """Two collections of one table, whose vectors have the same length and come from two models."""
    attach(docs, "one")
    attach(docs, "another", f", {BY_ANOTHER}")
    for name in ("one", "another"):
        docs.execute("CALL pgmeaning.wait_for(%s)", (name,))
    return docs


def vector(db: Connection, arguments: str, text: str = QUERY) -> Any:
    (found,) = db.execute(f"SELECT pgmeaning.embed(%s{arguments})".encode(), (text,)).fetchone() or (None,)
    return None if found is None else found.to_numpy()


def refused(db: Connection, statement: str) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        db.execute(statement.encode())
    return caught.value


def by_hand(db: Connection, collection: str) -> list[tuple[int, float]]:
    """The documented statement."""
    return db.execute(
        f"SELECT id, embedding <=> (SELECT pgmeaning.embed('{QUERY}', collection => '{collection}')) AS distance "
        f"FROM {collection}_embedding ORDER BY distance, id LIMIT 10".encode()
    ).fetchall()


def by_search(db: Connection, collection: str) -> list[tuple[int, float]]:
    return db.execute(
        "SELECT (key ->> 'id')::int, distance FROM pgmeaning.search(%s, %s, mode => 'exact')", (collection, QUERY)
    ).fetchall()


# Of a collection


@pytest.mark.parametrize("collection", ["one", "another"])
def test_a_statement_by_hand_finds_what_search_finds_whichever_model_the_collection_has(
    two_models: Connection, collection: str
) -> None:
    assert by_hand(two_models, collection) == by_search(two_models, collection)


def test_the_vector_for_a_collection_is_its_models(two_models: Connection) -> None:
    expected = load_embedder("synthetic-4096", dimensions=384).embed_queries([QUERY])[0]
    np.testing.assert_allclose(vector(two_models, ", collection => 'another'"), expected, atol=1e-6)


def test_a_later_change_of_the_default_model_leaves_the_vector_for_a_collection_as_it_is(
    docs: Connection, sidecar: Sidecar
) -> None:
    attach(docs, "one")
    before = vector(docs, ", collection => 'one'"), vector(docs, "")
    docs.execute("SELECT pgmeaning.set_default_model('synthetic-4096')")
    after = vector(docs, ", collection => 'one'"), vector(docs, "")
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("dimensions", [64, 384, 3000])
def test_the_vector_for_a_collection_has_its_dimensions_and_unit_length(
    docs: Connection, sidecar: Sidecar, dimensions: int
) -> None:
    attach(docs, "short", f", model => 'synthetic-4096', dimensions => {dimensions}")
    found = vector(docs, ", collection => 'short'")
    assert found.shape == (dimensions,)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)
    docs.execute("CALL pgmeaning.wait_for('short')")
    assert by_hand(docs, "short") == by_search(docs, "short")


def test_for_a_collection_in_half_precision_distances_are_those_of_search_however_they_are_computed(
    docs: Connection, sidecar: Sidecar
) -> None:
    attach(docs, "halves", ", vector_type => 'halfvec'")
    docs.execute("CALL pgmeaning.wait_for('halves')")
    assert by_hand(docs, "halves") == by_search(docs, "halves")
    widened = docs.execute(
        "SELECT id, embedding::vector <=> (SELECT pgmeaning.embed(%s, collection => 'halves')) AS distance "
        "FROM halves_embedding ORDER BY distance, id LIMIT 10",
        (QUERY,),
    ).fetchall()
    found = by_search(docs, "halves")
    assert [key for key, _ in widened] == [key for key, _ in found]
    np.testing.assert_allclose([d for _, d in widened], [d for _, d in found], atol=1e-6)


def test_null_has_no_vector_for_a_collection_either(docs: Connection) -> None:
    attach(docs, "one")
    assert docs.execute("SELECT pgmeaning.embed(NULL, collection => 'one')").fetchone() == (None,)


def test_an_unknown_collection_is_refused(docs: Connection) -> None:
    assert refused(docs, "SELECT pgmeaning.embed('x', collection => 'nope')").sqlstate == "PM001"


def test_it_works_in_a_read_only_transaction(two_models: Connection) -> None:
    with two_models.transaction():
        two_models.execute("SET TRANSACTION READ ONLY")
        assert vector(two_models, ", collection => 'another'", "asked for the first time") is not None
        assert two_models.execute("SELECT pgmeaning.similarity('a', 'b', 'synthetic-384')").fetchone() != (None,)


# Of neither, or of both


def test_without_a_collection_it_is_the_default_models(db: Connection, sidecar: Sidecar) -> None:
    register_vector(db)
    np.testing.assert_array_equal(vector(db, ""), load_embedder("synthetic-384").embed_queries([QUERY])[0])


def test_with_one_model_in_use_it_is_that_models_and_a_whole_one(docs: Connection, sidecar: Sidecar) -> None:
    attach(docs, "another", f", {BY_ANOTHER}")
    np.testing.assert_array_equal(vector(docs, ""), load_embedder("synthetic-4096").embed_queries([QUERY])[0])


CALLS = {
    "SELECT pgmeaning.embed('it''s')": "pgmeaning.embed('it''s', collection => 'another').",
    "CALL pgmeaning.prepare('it''s')": "CALL pgmeaning.prepare('it''s', collection => 'another').",
    "SELECT pgmeaning.similarity('a', 'b')": "pgmeaning.similarity('a', 'b', model => 'synthetic-4096').",
}


@pytest.mark.parametrize("call", CALLS)
def test_with_several_models_in_use_the_error_says_what_to_write(docs: Connection, call: str) -> None:
    attach(docs, "one")
    attach(docs, "another", f", {BY_ANOTHER}")
    attach(docs, "second")
    error = refused(docs, call)
    assert error.sqlstate == "PM016"
    assert error.diag.message_detail == "Models in use: synthetic-384 (one, second), synthetic-4096 (another)."
    assert str(error.diag.message_hint).endswith(CALLS[call])


def test_a_collection_whose_table_was_dropped_uses_no_model(docs: Connection, sidecar: Sidecar) -> None:
    docs.execute("CREATE TABLE gone (id int PRIMARY KEY, body text)")
    docs.execute(f"SELECT pgmeaning.attach('gone', '{{body}}', {BY_ANOTHER}); DROP TABLE gone")
    attach(docs, "one")
    assert vector(docs, "").shape == (384,)


def test_a_model_that_is_not_the_collections_is_refused(docs: Connection) -> None:
    attach(docs, "one")
    error = refused(docs, "SELECT pgmeaning.embed('x', collection => 'one', model => 'synthetic-4096')")
    assert error.sqlstate == "PM014"
    assert "embedded by model 'synthetic-384', not by 'synthetic-4096'" in str(error)


def test_the_collections_own_model_may_be_named_beside_it(docs: Connection, sidecar: Sidecar) -> None:
    attach(docs, "one")
    assert vector(docs, ", collection => 'one', model => 'synthetic-384'") is not None


# prepare()


def test_prepare_caches_what_embed_and_search_need(docs: Connection, sidecar: Sidecar) -> None:
    attach(docs, "one")
    attach(docs, "another", f", {BY_ANOTHER}")
    docs.execute("CALL pgmeaning.prepare('rice', collection => 'another')")
    docs.execute("DROP EXTENSION dblink CASCADE")
    assert vector(docs, ", collection => 'another'", "rice") is not None
    assert "prepare('rice', model => 'synthetic-384')" in str(
        refused(docs, "SELECT * FROM pgmeaning.search('one', 'rice')").diag.message_hint
    )


# similarity()


def test_similarity_is_the_cosine_of_two_documents(db: Connection, sidecar: Sidecar) -> None:
    left, right = load_embedder("synthetic-384").embed_documents(["play with a toy", "going to a play"])
    (found,) = db.execute("SELECT pgmeaning.similarity('play with a toy', 'going to a play')").fetchone() or (None,)
    assert found == pytest.approx(float(left @ right), abs=1e-6)


def test_similarity_is_symmetric_and_one_of_a_text_with_itself(db: Connection, sidecar: Sidecar) -> None:
    (one, there, back) = db.execute(
        "SELECT pgmeaning.similarity('a', 'a'), pgmeaning.similarity('a', 'b'), pgmeaning.similarity('b', 'a')"
    ).fetchone() or (0, 0, 1)
    assert one == pytest.approx(1)
    assert there == back < 1


def test_similarity_to_null_is_null_and_asks_nobody(db: Connection) -> None:
    assert db.execute("SELECT pgmeaning.similarity('a', NULL)").fetchone() == (None,)


def test_similarity_is_of_the_model_that_is_named(two_models: Connection) -> None:
    left, right = load_embedder("synthetic-4096").embed_documents(["a", "b"])
    statement = "SELECT pgmeaning.similarity('a', 'b', model => 'synthetic-4096')"
    (found,) = two_models.execute(statement).fetchone() or (None,)
    assert found == pytest.approx(float(left @ right), abs=1e-6)


# The client


@pytest.fixture
def client(dsn: str, two_models: Connection) -> Any:
    with pgmeaning.connect(dsn) as client:
        yield client


def test_the_clients_vector_is_the_one_for_the_collection(client: Client, two_models: Connection) -> None:
    np.testing.assert_array_equal(
        client.embed(QUERY, collection="another"), vector(two_models, ", collection => 'another'")
    )


def test_the_client_refuses_to_guess_between_two_models(client: Client) -> None:
    with pytest.raises(CollectionError, match="several embedding models"):
        client.embed(QUERY)
    with pytest.raises(DatabaseError, match="not by"):
        client.embed(QUERY, collection="one", model="synthetic-4096")


def test_the_client_prepares_and_compares(client: Client) -> None:
    client.prepare("rice", "one")
    assert client.similarity("a", "a", model="synthetic-384") == pytest.approx(1)


# k as count(*) returns it


def test_the_number_of_rows_may_be_a_bigint_or_an_int(two_models: Connection) -> None:
    for k in ("3", "3::bigint", "3::smallint", "(SELECT count(*) FROM generate_series(1, 3))"):
        for search in (
            f"pgmeaning.search('one', '{QUERY}', k => {k})",
            f"pgmeaning.search_many('one', ARRAY['{QUERY}'], {k})",
            f"pgmeaning.nearest('one', pgmeaning.embed('{QUERY}', collection => 'one'), {k})",
            f"pgmeaning.similar('one', '1', {k})",
        ):
            assert len(two_models.execute(f"SELECT * FROM {search}".encode()).fetchall()) == 3, search


def test_the_number_of_typed_rows_may_be_a_bigint_too(docs: Connection, sidecar: Sidecar) -> None:
    attach(docs, "docs")
    docs.execute("CALL pgmeaning.wait_for('docs')")
    for k in ("3", "3::bigint"):
        for more in ("", ", filter => 'id > $1', filter_params => ARRAY[1]"):
            statement = f"SELECT (hit).id FROM pgmeaning.search(NULL::docs, '{QUERY}', k => {k}{more})"
            assert len(docs.execute(statement.encode()).fetchall()) == 3, statement


def test_a_number_of_rows_beyond_all_bounds_returns_them_all(two_models: Connection) -> None:
    statement = f"SELECT count(*) FROM pgmeaning.search('one', '{QUERY}', k => 9223372036854775807)"
    assert two_models.execute(statement.encode()).fetchone() == (30,)
