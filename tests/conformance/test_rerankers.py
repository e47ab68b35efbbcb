"""Every reranker that runs here passes the suite, and the suite fails the ones that it should."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np
import pytest

from pgmeaning.errors import InputError
from pgmeaning.models.base import Reranker, load_reranker
from pgmeaning.models.conformance import RERANKER_CHECKS, check_reranker
from pgmeaning.models.vectors import Vectors
from pgmeaning.types import Document

RERANKERS = [pytest.param("all-MiniLM-L6-v2-late-interaction", marks=pytest.mark.local_model)]

# One thread: more of them wait for each other where the processor is shared.
loaded = cache(partial(load_reranker, threads=1))


@pytest.mark.parametrize("check", RERANKER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", RERANKERS)
def test_a_reranker_conforms(name: str, check: Callable[[Reranker], None]) -> None:
    check(loaded(name))


class Proper:
    """Passes: the share of a query's letters that the document has too, and fewer other words count for more."""

    def score(self, query: Document, documents: Sequence[Document], instruction: str | None = None) -> Vectors:
        if any(document.images for document in documents):
            raise InputError("no images")
        return np.array([self.judge(query.text or "", document.text or "") for document in documents], np.float32)

    def judge(self, query: str, document: str) -> float:
        synonyms = {"shares": "stock", "lost": "fell", "cook": "boiling"}
        wanted = {synonyms.get(word, word) for word in query.lower().split()}
        return len(wanted & set(document.lower().replace(":", "").split())) / max(1, len(wanted))


class Logits(Proper):
    def judge(self, query: str, document: str) -> float:
        return 8 * super().judge(query, document) - 4


class Reversed(Proper):
    def judge(self, query: str, document: str) -> float:
        return 1 - super().judge(query, document)


class Relative(Proper):
    """Makes the scores of a batch add up to 1."""

    def score(self, query: Document, documents: Sequence[Document], instruction: str | None = None) -> Vectors:
        scores = super().score(query, documents) + np.float32(0.1)
        shares: Vectors = scores / max(np.float32(1e-9), scores.sum(dtype=np.float32))
        return shares


class Sorted(Proper):
    def score(self, query: Document, documents: Sequence[Document], instruction: str | None = None) -> Vectors:
        return np.sort(super().score(query, documents))


class Crashing(Proper):
    def score(self, query: Document, documents: Sequence[Document], instruction: str | None = None) -> Vectors:
        if any(document.images for document in documents):
            raise RuntimeError("out of order")
        return super().score(query, documents)


def test_the_suite_passes_a_proper_reranker() -> None:
    check_reranker(Proper())


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (Logits(), "not 0..1"),
        (Reversed(), "unrelated text scores"),
        (Relative(), "one alone"),
        (Sorted(), "backwards|one alone"),
        (Crashing(), "RuntimeError, not InputError"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_the_suite_fails_a_broken_reranker(broken: Reranker, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_reranker(broken)
