"""A swap and the snapshots of those who search meanwhile: every answer is of one generation."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest

from pgmeaning.models.base import load_embedder
from pgmeaning.models.vectors import prefix
from pgmeaning.sidecar.process import Sidecar
from tests.integration.test_swap import ROWS, activate, docs, one, start
from tests.types import Connect, Connection, Drain

__all__ = ["docs"]

QUERY = "a question"
BY_VIEW = (
    "SELECT id, embedding <=> (SELECT pgmeaning.embed('a question', collection => 'docs')) AS distance, model "
    "FROM docs JOIN docs_embedding USING (id) ORDER BY distance LIMIT 5"
)
SAME_LENGTH = "model => 'synthetic-4096', dimensions => 384"


def old_snapshot(connect: Connect) -> Connection:
    reader = connect(autocommit=False)
    reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    reader.execute("SELECT count(*) FROM docs")
    return reader


def swapped(db: Connection, drain: Drain) -> None:
    start(db, SAME_LENGTH)
    assert drain() == 0


def test_an_old_snapshot_never_compares_a_query_of_one_model_with_vectors_of_another(
    docs: None, sidecar: Sidecar, db: Connection, connect: Connect
) -> None:
    start(db, SAME_LENGTH)
    db.execute("CALL pgmeaning.wait_for('docs@2')")
    reader = old_snapshot(connect)
    activate(db)
    with pytest.raises(psycopg.errors.SerializationFailure) as caught:
        reader.execute(BY_VIEW.encode())
    assert caught.value.diag.message_hint == "Begin a new transaction."
    reader.rollback()
    assert {model for _, _, model in reader.execute(BY_VIEW.encode()).fetchall()} == {"synthetic-4096"}


def test_a_snapshot_from_before_the_swap_began_does_not_find_an_empty_view(
    docs: None, db: Connection, connect: Connect, drain: Drain
) -> None:
    reader = old_snapshot(connect)
    swapped(db, drain)
    activate(db)
    with pytest.raises(psycopg.errors.SerializationFailure):
        reader.execute("SELECT count(*) FROM docs_embedding")


@pytest.mark.parametrize("what", ["search('docs', 'a question')",
                                  "nearest('docs', pgmeaning.embed('a question', collection => 'docs'))"])  # fmt: skip
def test_an_old_snapshot_is_searched_by_the_generation_that_it_sees(
    docs: None, sidecar: Sidecar, db: Connection, connect: Connect, what: str
) -> None:
    start(db, SAME_LENGTH)
    db.execute("CALL pgmeaning.wait_for('docs@2')")
    reader = old_snapshot(connect)
    activate(db)
    query = f"SELECT (key ->> 'id')::int, distance, model FROM pgmeaning.{what}".encode()
    found = reader.execute(query).fetchall()
    assert len(found) == 10
    check(found)
    assert {model for _, _, model in found} == {"synthetic-384"}


def check(found: list[Any]) -> None:
    """Each distance is that of the model that is named beside it, and all name one."""
    assert len({model for _, _, model in found}) == 1
    embedder = load_embedder(found[0][2])
    made = prefix(embedder.embed_documents([f"body {key}" for key, _, _ in found]), 384)
    asked = prefix(embedder.embed_queries([QUERY]), 384)[0]
    assert np.allclose([distance for _, distance, _ in found], 1 - made @ asked, atol=1e-4)


def test_the_vectors_of_a_detached_collection_can_still_be_read(docs: None, db: Connection) -> None:
    db.execute("SELECT pgmeaning.detach('docs', keep_vectors => true)")
    assert one(db, "SELECT count(*) FROM docs_embedding") == ROWS


def test_the_view_looks_once_whether_it_serves_and_uses_its_index(docs: None, db: Connection) -> None:
    db.execute("SET enable_seqscan = off")
    for query in ("SELECT e.* FROM docs JOIN docs_embedding AS e USING (id) WHERE id < 3",
                  "SELECT * FROM docs_embedding WHERE id = 3"):  # fmt: skip
        plan = "\n".join(line for (line,) in db.execute(f"EXPLAIN {query}".encode()).fetchall())
        assert "docs__synthetic-384_pkey" in plan
        assert plan.count("One-Time Filter") == 1
        assert "SubPlan" not in plan


def test_an_order_by_distance_uses_the_index(docs: None, db: Connection) -> None:
    db.execute('CREATE INDEX ON pgmeaning_data."docs__synthetic-384" USING hnsw (embedding vector_cosine_ops)')
    db.execute("SET enable_seqscan = off")
    query = "EXPLAIN SELECT id FROM docs_embedding ORDER BY embedding <=> (SELECT pgmeaning.embed('a')) LIMIT 3"
    plan = "\n".join(line for (line,) in db.execute(query.encode()).fetchall())
    assert "embedding_idx" in plan
    assert "Sort" not in plan
