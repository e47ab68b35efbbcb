"""A model behind an endpoint with limits that a user sets: bulk work waits for them, queries are counted and go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pgmeaning.models.base import Embedder
from pgmeaning.models.pipeline import begin
from pgmeaning.models.vectors import Vectors
from pgmeaning.types import Document


class Spend(Protocol):
    """Notes what is about to be sent; raises OverLimit, and notes nothing, if that must wait."""

    def __call__(self, requests: int, tokens: int, *, waits: bool) -> None:
        """`waits`: whether it may be told to."""


class Limited:
    """An `Embedder` whose documents raise OverLimit while a limit is used up. Queries are let through."""

    def __init__(self, embedder: Embedder, spend: Spend, *, waits: bool = True) -> None:
        self._embedder = embedder
        self._spend = spend
        self._waits = waits

    def __getattr__(self, name: str) -> Any:
        """What the embedder offers beside: see `models.pipeline`."""
        return getattr(self._embedder, name)

    @property
    def dimensions(self) -> int:
        """Length of every vector."""
        return self._embedder.dimensions

    def let_through(self) -> Limited:
        """The same, counted, but never told to wait: for a model's probes."""
        return Limited(self._embedder, self._spend, waits=False)

    def embed_documents(self, documents: Sequence[Document]) -> Vectors:
        """float32 [n, dimensions]; raises OverLimit, and what the embedder does."""
        return self.begin_documents(documents)()

    def begin_documents(self, documents: Sequence[Document]) -> Callable[[], Vectors]:
        """Send them; what is returned waits for the vectors. Raises OverLimit."""
        self._note(documents, waits=self._waits)
        return begin(self._embedder, documents)

    def embed_queries(self, queries: Sequence[Document]) -> Vectors:
        """The same for queries, which are counted and never wait."""
        self._note(queries, waits=False)
        return self._embedder.embed_queries(queries)

    def count_tokens(self, documents: Sequence[Document]) -> list[int]:
        """The tokens of each document."""
        return self._embedder.count_tokens(documents)

    def _note(self, documents: Sequence[Document], *, waits: bool) -> None:
        count = getattr(self._embedder, "requests", None)
        requests = count(documents) if count else 1
        self._spend(requests, sum(self._embedder.count_tokens(documents)), waits=waits)
