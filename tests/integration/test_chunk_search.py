"""Searching documents that were cut into chunks: a row once, by its best chunk, or every chunk by itself."""

# ruff: noqa: E501  a statement of SQL reads better on one line

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import pgmeaning
from pgmeaning.cli.main import app
from pgmeaning.models.base import load_embedder
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running
from tests.integration.test_rerank import Judge
from tests.types import Connection, Drain, Rows

VECTORS = 'pgmeaning_data."docs__synthetic-384"'
CHUNKING = '{"method": "paragraphs", "size": 16}'


def rows(db: Connection, query: str, *arguments: Any) -> Rows:
    return db.execute(query.encode(), arguments).fetchall()


def unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


def as_text(vector: NDArray[Any]) -> str:
    return "[" + ",".join(f"{number:.7f}" for number in vector) + "]"


def attached(db: Connection, more: str = "") -> None:
    """docs without a trigger's work to do: vectors are put in by hand."""
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text, lang text DEFAULT 'en')")
    db.execute(f"SELECT pgmeaning.attach('docs', ARRAY['body'], chunking => %s{more})".encode(), (CHUNKING,))


def put(
    db: Connection, key: int, chunks: NDArray[np.float32], lang: str = "en", texts: list[str] | None = None
) -> None:
    db.execute("INSERT INTO docs VALUES (%s, 'text', %s)", (key, lang))
    with db.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {VECTORS} (id, chunk, chunk_text, model, embedding, content_hash) VALUES (%s, %s, %s, 'synthetic-384', %s, sha256('[\"text\"]'))".encode(),
            [
                (key, number, texts[number] if texts else f"chunk {number} of {key}", as_text(vector))
                for number, vector in enumerate(chunks)
            ],
        )


@pytest.fixture
def query() -> NDArray[np.float32]:
    return unit(np.random.default_rng(1).standard_normal(384))


def near(query: NDArray[np.float32], count: int, noise: float, seed: int) -> NDArray[np.float32]:
    away = unit(np.random.default_rng(seed).standard_normal((count, 384)))
    return unit(query + noise * away)


@pytest.fixture
def crowded(db: Connection, query: NDArray[np.float32]) -> Connection:
    """Row 1 has 300 chunks nearer than any other; rows 2 to 41 have 3 chunks each, ever farther."""
    attached(db)
    put(db, 1, near(query, 300, 0.1, 1))
    for key in range(2, 42):
        put(db, key, near(query, 3, 0.3 + 0.04 * key, key), lang="de" if key % 2 else "en")
    db.execute("ANALYZE")
    return db


MODES = ["exact", "signature", "index", None]


@pytest.mark.parametrize("mode", MODES)
def test_k_rows_come_back_even_if_one_has_all_the_nearest_chunks(
    crowded: Connection, query: NDArray[np.float32], mode: str | None
) -> None:
    if mode == "index":
        crowded.execute(f"CREATE INDEX ON {VECTORS} USING hnsw (embedding vector_cosine_ops)".encode())
    vector = as_text(query)
    found = rows(
        crowded,
        "SELECT (key ->> 'id')::int, chunk, distance FROM pgmeaning.nearest('docs', %s, 10, mode => %s)", vector, mode,
    )  # fmt: skip
    exact = rows(
        crowded,
        f"SELECT id, (array_agg(chunk ORDER BY embedding <=> %s))[1], min(embedding <=> %s) AS d FROM {VECTORS} GROUP BY id ORDER BY d LIMIT 10",
        vector, vector,
    )  # fmt: skip
    assert [(key, chunk) for key, chunk, _ in found] == [(key, chunk) for key, chunk, _ in exact]
    assert [d for *_, d in found] == pytest.approx([d for *_, d in exact], abs=1e-6)


def test_not_grouped_every_chunk_counts(crowded: Connection, query: NDArray[np.float32]) -> None:
    found = rows(
        crowded,
        "SELECT key, chunk, chunk_text FROM pgmeaning.nearest('docs', %s, 50, grouped => false)",
        as_text(query),
    )
    assert {key["id"] for key, *_ in found} == {1}
    assert len({chunk for _, chunk, _ in found}) == 50
    assert all(text == f"chunk {chunk} of 1" for _, chunk, text in found)


def test_with_a_filter_the_nearest_rows_of_those_come_back(crowded: Connection, query: NDArray[np.float32]) -> None:
    for condition in ("lang = 'de'", "id > 30", "id = 7", "id < 0", "body LIKE 't%'"):
        found = rows(
            crowded, "SELECT key ->> 'id' FROM pgmeaning.nearest('docs', %s, 5, %s)", as_text(query), condition
        )
        exact = rows(
            crowded,
            f"SELECT id::text FROM {VECTORS} JOIN docs USING (id) WHERE {condition.replace('%', '%%')} GROUP BY id ORDER BY min(embedding <=> %s) LIMIT 5",
            as_text(query),
        )
        assert found == exact


def test_more_rows_than_there_are_come_back_once_each(crowded: Connection, query: NDArray[np.float32]) -> None:
    found = rows(crowded, "SELECT key ->> 'id' FROM pgmeaning.nearest('docs', %s, 1000)", as_text(query))
    assert len(found) == len(set(found)) == 41


def test_similar_leaves_out_all_chunks_of_the_row(crowded: Connection) -> None:
    for grouped in (True, False):
        found = rows(crowded, "SELECT key FROM pgmeaning.similar('docs', '1', 5, grouped => %s)", grouped)
        assert len(found) == 5
        assert {"id": 1} not in [key for (key,) in found]


def test_grouped_search_finds_what_exact_search_does_among_many_rows(db: Connection) -> None:
    """Recall against exact grouped answers, on clusters, by signature."""
    attached(db)
    generator = np.random.default_rng(5)
    centers = generator.standard_normal((40, 384))
    for key in range(600):
        count = int(generator.integers(1, 9))
        put(db, key, unit(centers[generator.integers(0, 40, count)] + 0.6 * generator.standard_normal((count, 384))))
    db.execute("ANALYZE")
    hits = total = 0
    for _ in range(30):
        vector = as_text(unit(centers[generator.integers(0, 40)] + 0.6 * generator.standard_normal(384)))
        answers = [
            {
                str(key)
                for (key,) in rows(db, "SELECT key FROM pgmeaning.nearest('docs', %s, 10, mode => %s)", vector, mode)
            }
            for mode in ("exact", "signature")
        ]
        hits += len(answers[0] & answers[1])
        total += len(answers[0])
    assert total == 300
    assert hits / total >= 0.99


@pytest.fixture
def texts(db: Connection, drain: Drain) -> Connection:
    """Two long documents and a short one, embedded; a token is 256 characters to the synthetic model."""
    attached(db, ", language => 'simple'")
    for key, names in ((1, ["rice", "wheat", "rye"]), (2, ["oats", "rice"]), (3, ["rye"])):
        body = "\n\n".join(f"{name} {'x' * 3000}" for name in names)
        db.execute("INSERT INTO docs VALUES (%s, %s)", (key, "short rye" if key == 3 else body))
    assert drain() == 0
    return db


def test_a_chunk_is_found_by_its_text_with_its_number(texts: Connection, sidecar: Sidecar) -> None:
    wheat = f"wheat {'x' * 3000}"
    ((key, chunk, chunk_text, distance),) = rows(
        texts, "SELECT key, chunk, chunk_text, distance FROM pgmeaning.search('docs', %s, 1)", wheat
    )
    assert (key, chunk, chunk_text) == ({"id": 1}, 1, wheat)
    assert distance == pytest.approx(0, abs=1e-6)
    found = rows(
        texts, "SELECT query_index, key, chunk FROM pgmeaning.search_many('docs', %s, 1)", [wheat, "short rye"]
    )
    assert found == [(1, {"id": 1}, 1), (2, {"id": 3}, 0)]
    ((hit,),) = rows(texts, "SELECT (hit).id FROM pgmeaning.search(NULL::docs, %s, 1)", wheat)
    assert hit == 1


@pytest.mark.parametrize("grouped", [True, False])
def test_hybrid_search_ranks_rows_or_chunks(texts: Connection, sidecar: Sidecar, grouped: bool) -> None:
    found = rows(
        texts,
        "SELECT (key ->> 'id')::int, chunk, text_rank FROM pgmeaning.search('docs', 'rice wheat', 20, mode => 'hybrid', "
        "grouped => %s, filter => 'body LIKE ''%%''')",
        grouped,
    )
    by_words = {(key, chunk) for key, chunk, rank in found if rank is not None}
    if grouped:
        assert sorted(key for key, *_ in found) == [1, 2, 3]
        assert {key for key, _ in by_words} == {1, 2}
    else:
        assert by_words == {(1, 0), (1, 1), (2, 1)}
        assert len(found) == 6


def test_a_reranker_judges_the_text_of_the_chunk(texts: Connection, dsn: str) -> None:
    judge = Judge()
    wheat = f"wheat {'x' * 3000}"
    with running(Sidecar(dsn, Settings(), load_reranker=judge.load)):
        rows(texts, "SELECT key FROM pgmeaning.search('docs', %s, 1, rerank => 3)", wheat)
        rows(texts, "SELECT key FROM pgmeaning.search('docs', %s, 9, rerank => 9, grouped => false)", wheat)
    once, each = judge.batches
    assert wheat in once
    assert len(once) == 3
    assert Counter(text.split()[0] for text in each) == Counter(["rice", "wheat", "rye", "oats", "rice", "short"])


def test_the_client_hands_out_chunks(texts: Connection, dsn: str, sidecar: Sidecar) -> None:
    with pgmeaning.connect(dsn) as client:
        hits = client.search("docs", f"wheat {'x' * 3000}", k=3)
        assert (hits[0].key, hits[0].row["id"]) == ({"id": 1}, 1)
        assert (hits[0].chunk, str(hits[0].chunk_text)[:5]) == (1, "wheat")
        assert len(client.search("docs", "wheat", k=10, grouped=False)) == 6
        assert len(client.search_many("docs", ["wheat", "rye"], k=10, grouped=False)[1]) == 6
        vector = load_embedder("synthetic-384").embed_documents(["wheat"])[0]
        assert len(client.nearest("docs", vector, k=10, grouped=False)) == 6
        assert {hit.key["id"] for hit in client.similar("docs", 1, k=10, grouped=False)} == {2, 3}


def test_the_test_of_an_index_counts_chunks(crowded: Connection, drain: Drain) -> None:
    (plan,) = rows(crowded, "SELECT row_count FROM pgmeaning.plan_index('docs')")
    assert plan == (420,)
    assert rows(crowded, "SELECT vectors, source_rows FROM pgmeaning.status") == [(420, 41)]


def test_attach_takes_a_chunking_from_python_and_the_command_line(db: Connection, dsn: str) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    with pgmeaning.connect(dsn) as client:
        client.attach("docs", ["body"], collection="one", chunking={"method": "sentences", "size": 64, "overlap": 8})
        given = json.dumps({"method": "markdown", "size": 64})
        arguments = ["attach", "docs", "--column", "body", "--collection", "two", "--dsn", dsn, "--chunking"]
        assert CliRunner().invoke(app, [*arguments, given]).exit_code == 0
        assert CliRunner().invoke(app, [*arguments, "not json"]).exit_code == 2
        assert CliRunner().invoke(app, [*arguments, "[1]"]).exit_code == 2
        found = {row["collection"]: row["chunking"] for row in client.status()}
    assert found == {
        "one": {"method": "sentences", "size": 64, "overlap": 8},
        "two": {"method": "markdown", "size": 64, "overlap": 0},
    }
