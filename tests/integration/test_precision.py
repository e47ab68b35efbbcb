"""Vectors in half precision: half the size, the same answers nearly always."""

from __future__ import annotations

import numpy as np
import psycopg
import pytest
from pgvector import Vector
from pgvector.psycopg import register_vector

import pgmeaning
from pgmeaning import load_embedder
from pgmeaning.indexes import build as indexing
from pgmeaning.settings import Settings
from tests.types import Connection, Drain


@pytest.fixture
def halves(db: Connection, drain: Drain) -> Connection:
    """A collection of 400 rows in halfvec, and the same in vector."""
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs SELECT i, 'body ' || i FROM generate_series(1, 400) AS i")
    for name, precision in (("halves", "halfvec"), ("wholes", "vector")):
        db.execute("SELECT pgmeaning.attach('docs', '{body}', collection => %s, vector_type => %s)", (name, precision))
    assert drain() == 0
    register_vector(db)
    return db


def nearest(db: Connection, collection: str, text: str, k: int = 10) -> list[tuple[int, float]]:
    vector = Vector(load_embedder("synthetic-384").embed_queries([text])[0])
    statement = "SELECT (key ->> 'id')::int, distance FROM pgmeaning.nearest(%s, %s, %s)"
    return db.execute(statement, (collection, vector, k)).fetchall()


def test_the_table_and_the_view_keep_two_bytes_a_number(halves: Connection) -> None:
    types = halves.execute("SELECT pg_typeof(embedding)::text, pg_column_size(embedding) FROM halves_embedding LIMIT 1")
    assert types.fetchone() == ("halfvec", 384 * 2 + 8)


def test_what_is_kept_is_the_vector_rounded(halves: Connection) -> None:
    (kept,) = halves.execute("SELECT embedding::vector FROM halves_embedding WHERE id = 7").fetchall()[0]
    expected = load_embedder("synthetic-384").embed_documents(["body 7"])[0]
    np.testing.assert_array_equal(np.asarray(kept.to_numpy(), np.float16), expected.astype(np.float16))


def test_searches_find_what_full_precision_finds(halves: Connection) -> None:
    half, whole = nearest(halves, "halves", "body 7"), nearest(halves, "wholes", "body 7")
    assert {key for key, _ in half} == {key for key, _ in whole}
    np.testing.assert_allclose([distance for _, distance in half], [distance for _, distance in whole], atol=1e-3)


def test_more_like_this_works(halves: Connection) -> None:
    statement = "SELECT key ->> 'id' FROM pgmeaning.similar(%s, '7', 5)"
    half, whole = (halves.execute(statement, (name,)).fetchall() for name in ("halves", "wholes"))
    assert set(half) == set(whole)


def test_the_view_is_ordered_by_a_vector_in_a_statement_of_ones_own(halves: Connection) -> None:
    vector = Vector(load_embedder("synthetic-384").embed_queries(["body 7"])[0])
    row = halves.execute("SELECT id FROM halves_embedding ORDER BY embedding <=> %s LIMIT 1", (vector,)).fetchone()
    assert row == (nearest(halves, "wholes", "body 7", 1)[0][0],)


@pytest.mark.parametrize("kind", ["direct", "signature", "prefix"])
def test_every_kind_of_index_is_built_measured_and_used(halves: Connection, dsn: str, kind: str) -> None:
    settings = Settings()
    halves.execute("SELECT pgmeaning.want_index('halves', %s)", (kind,))
    with indexing.connected(dsn) as connection:
        (plan,) = indexing.plans(connection, settings, "halves")
        indexing.build(connection, plan, settings)
        indexing.measure(connection, plan, settings)
    report = "SELECT index, recall >= 0.99 FROM pgmeaning.index_report WHERE collection = 'halves'"
    assert halves.execute(report).fetchone() == (kind, True)
    found = {key for key, _ in nearest(halves, "halves", "body 7")}
    assert len(found & {key for key, _ in nearest(halves, "wholes", "body 7")}) >= 9


def test_the_report_tells_vector_type_and_size(halves: Connection) -> None:
    rows = halves.execute(
        "SELECT collection, vector_type, bytes_per_vector FROM pgmeaning.index_report ORDER BY collection"
    ).fetchall()
    (_, half, small), (_, whole, large) = rows
    assert (half, whole) == ("halfvec", "vector")
    assert small < large


def test_a_plan_for_halves_takes_hnsw_up_to_4000_dimensions(db: Connection) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute(
        "SELECT pgmeaning.attach('docs', '{body}', model => 'synthetic-4096', dimensions => 3000, "
        "vector_type => 'halfvec')"
    )
    plan = db.execute("SELECT kind, statement FROM pgmeaning.plan_index('docs', min_rows => 0)").fetchone()
    assert plan is not None
    assert plan[0] == "direct"
    assert "embedding public.halfvec_cosine_ops" in plan[1]
    db.execute(plan[1].encode())


@pytest.mark.parametrize("wrong", ["float16", ""])
def test_an_unknown_vector_type_is_refused(db: Connection, wrong: str) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    with pytest.raises(psycopg.Error, match="there is no vector type") as caught:
        db.execute("SELECT pgmeaning.attach('docs', '{body}', vector_type => %s)", (wrong,))
    assert caught.value.sqlstate == "PM014"


def test_no_vector_type_means_vector(db: Connection) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', '{body}', vector_type => NULL)")
    assert db.execute("SELECT vector_type FROM pgmeaning.index_report").fetchone() == ("vector",)


def test_the_client_attaches_in_half_precision(db: Connection, dsn: str) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    with pgmeaning.connect(dsn) as client:
        client.attach("docs", ["body"], vector_type="halfvec")
    assert db.execute("SELECT vector_type FROM pgmeaning.index_report").fetchone() == ("halfvec",)
