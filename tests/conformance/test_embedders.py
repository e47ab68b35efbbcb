"""Every embedder that runs here passes the suite, and the suite fails the ones that it should."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np
import pytest

from pgmeaning.errors import InputError
from pgmeaning.models import conformance
from pgmeaning.models.base import Embedder, load_embedder
from pgmeaning.models.conformance import EMBEDDER_CHECKS, check_embedder
from pgmeaning.models.vectors import Vectors
from pgmeaning.types import Document

EMBEDDERS = [
    "synthetic-384",
    "synthetic-4096",
    pytest.param("all-MiniLM-L6-v2", marks=pytest.mark.local_model),
]

# One thread: more of them wait for each other where the processor is shared.
loaded = cache(partial(load_embedder, threads=1))


@pytest.mark.parametrize("check", EMBEDDER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", EMBEDDERS)
def test_an_embedder_conforms(name: str, check: Callable[[Embedder], None]) -> None:
    check(loaded(name))


class Proper:
    """Passes: a text's vector is made of its hash."""

    dimensions = 8

    def embed_documents(self, documents: Sequence[Document]) -> Vectors:
        if any(document.images for document in documents):
            raise InputError("no images")
        if not documents:
            return np.empty((0, self.dimensions), np.float32)
        return np.stack([self.vector(document.text or "") for document in documents])

    def embed_queries(self, queries: Sequence[Document]) -> Vectors:
        return self.embed_documents(queries)

    def count_tokens(self, documents: Sequence[Document]) -> list[int]:
        return [len(document.text or "") for document in documents]

    def vector(self, text: str) -> Vectors:
        numbers = np.random.default_rng([0, *text.encode()]).normal(size=self.dimensions)
        return (numbers / np.linalg.norm(numbers)).astype(np.float32)


class Unnormalised(Proper):
    def vector(self, text: str) -> Vectors:
        return super().vector(text) * 3


class Overflowing(Proper):
    def vector(self, text: str) -> Vectors:
        return np.full(self.dimensions, np.nan, np.float32)


class Double(Proper):
    def embed_documents(self, documents: Sequence[Document]) -> Vectors:
        return super().embed_documents(documents).astype(np.float64)


class Sorting(Proper):
    """Forgets to put the vectors back into the order that they came in."""

    def embed_documents(self, documents: Sequence[Document]) -> Vectors:
        return super().embed_documents(sorted(documents, key=lambda document: len(document.text or "")))


class Blind(Proper):
    def vector(self, text: str) -> Vectors:
        return super().vector("")


class Padded(Proper):
    """Lets the longest text of a batch into every vector."""

    def embed_documents(self, documents: Sequence[Document]) -> Vectors:
        vectors = super().embed_documents(documents)
        if len(documents):
            vectors[:, 0] += max(len(document.text or "") for document in documents) * 0.001
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors


class Choosy(Proper):
    def vector(self, text: str) -> Vectors:
        if not text:
            raise InputError("empty")
        return super().vector(text)


class Crashing(Proper):
    def embed_documents(self, documents: Sequence[Document]) -> Vectors:
        if any(document.images for document in documents):
            raise RuntimeError("out of order")
        return super().embed_documents(documents)


class Miscounting(Proper):
    def count_tokens(self, documents: Sequence[Document]) -> list[int]:
        return [1 for _ in documents]


def test_the_suite_passes_a_proper_embedder() -> None:
    check_embedder(Proper())


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (Unnormalised(), "lengths"),
        (Overflowing(), "NaN"),
        (Double(), "float64"),
        (Sorting(), "alone and in a batch"),
        (Blind(), "same vector"),
        (Padded(), "alone and in a batch"),
        (Crashing(), "RuntimeError, not InputError"),
        (Miscounting(), "no more tokens"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_the_suite_fails_a_broken_embedder(broken: Embedder, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_embedder(broken)


def test_the_suite_fails_an_embedder_that_refuses_an_empty_text() -> None:
    with pytest.raises(InputError):
        conformance.an_empty_text_has_a_vector(Choosy())
