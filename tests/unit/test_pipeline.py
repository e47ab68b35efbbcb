"""What an embedder may offer beside its protocol, and bulk work that lets queries through."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from pgmeaning.models import pipeline
from pgmeaning.models.base import LoadedEmbedder, load_embedder
from pgmeaning.models.batches import batches
from pgmeaning.models.loaded import PriorityLock
from pgmeaning.types import Document

DOCUMENTS = [Document("how to cook rice"), Document("x")]


@pytest.fixture
def plain() -> LoadedEmbedder:
    return load_embedder("synthetic-384")


def test_an_embedder_that_offers_nothing_is_used_all_the_same(plain: LoadedEmbedder) -> None:
    pipeline.prepare(plain, DOCUMENTS)
    pipeline.let_in(plain, lambda: None)
    np.testing.assert_array_equal(pipeline.begin(plain, DOCUMENTS)(), plain.embed_documents(DOCUMENTS))
    assert pipeline.budget_of(plain) is None
    assert plain.checkpoint is None


def test_packed_batches_are_filled_to_the_budget() -> None:
    found = list(batches([10, 90, 50, 40, 10], 100, padded=False))
    assert [batch.tokens for batch in found] == [90, 100, 10]
    assert sorted(place for batch in found for place in batch.places) == [0, 1, 2, 3, 4]


def test_a_packed_batch_has_no_more_rows_than_are_allowed() -> None:
    assert [len(batch.places) for batch in batches([1] * 5, 100, 2, padded=False)] == [2, 2, 1]


def test_a_document_beyond_the_budget_is_alone() -> None:
    assert [batch.places for batch in batches([5, 500], 100, padded=False)] == [[1], [0]]


def test_bulk_work_gives_way_to_a_query_that_waits() -> None:
    lock, order = PriorityLock(), []
    with lock.bulk():
        query = _waiting(lock, lambda: order.append("query"))
        lock.give_way()
        order.append("bulk")
    query.join()
    assert order == ["query", "bulk"]


def test_bulk_work_goes_on_where_nobody_waits() -> None:
    lock = PriorityLock()
    with lock.bulk():
        lock.give_way()
        assert lock._busy


def test_a_query_gives_way_to_nobody() -> None:
    lock, order = PriorityLock(), []
    with lock.query():
        other = _waiting(lock, lambda: order.append("other"))
        lock.give_way()
        order.append("query")
    other.join()
    assert order == ["query", "other"]


def _waiting(lock: PriorityLock, work: Callable[[], None]) -> threading.Thread:
    """A thread that waits for the lock as a query, once it does."""

    def run() -> None:
        with lock.query():
            work()

    thread = threading.Thread(target=run)
    thread.start()
    with lock._condition:
        while not lock._waiting_queries:
            lock._condition.wait(0.001)
    return thread
