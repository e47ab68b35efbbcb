"""A model behind an endpoint, where anybody may change what answers: its probes go before its work, now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pgmeaning.errors import EndpointDown, TimedOut
from pgmeaning.models.base import Embedder
from pgmeaning.models.pipeline import begin
from pgmeaning.models.vectors import Vectors
from pgmeaning.types import Document

T = TypeVar("T")


class Guarded:
    """An `Embedder` that calls `check` before its first call, after so many seconds, and after its endpoint was down.

    `check` raises ModelDrifted, and then no call gets through; it is asked again at the next one.
    """

    def __init__(self, embedder: Embedder, check: Callable[[], None], seconds: float) -> None:
        self._embedder = embedder
        self._check = check
        self._seconds = seconds
        self._due = 0.0  # at once

    def __getattr__(self, name: str) -> Any:
        """What the embedder offers beside: see `models.pipeline`."""
        return getattr(self._embedder, name)

    @property
    def dimensions(self) -> int:
        """Length of every vector."""
        return self._embedder.dimensions

    def embed_documents(self, documents: Sequence[Document]) -> Vectors:
        """float32 [n, dimensions]; raises ModelDrifted, and what the embedder does."""
        return self._sure(lambda: self._embedder.embed_documents(documents))

    def embed_queries(self, queries: Sequence[Document]) -> Vectors:
        """The same for queries."""
        return self._sure(lambda: self._embedder.embed_queries(queries))

    def begin_documents(self, documents: Sequence[Document]) -> Callable[[], Vectors]:
        """Send them; what is returned waits for the vectors."""
        finish = self._sure(lambda: begin(self._embedder, documents))
        return lambda: self._noticing(finish)

    def count_tokens(self, documents: Sequence[Document]) -> list[int]:
        """The tokens of each document."""
        return self._embedder.count_tokens(documents)

    def _sure(self, call: Callable[[], T]) -> T:
        if time.monotonic() >= self._due:
            self._due = 0.0  # until the check has passed
            self._noticing(self._check)
            self._due = time.monotonic() + self._seconds
        return self._noticing(call)

    def _noticing(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except (EndpointDown, TimedOut):
            self._due = 0.0  # whatever answers next may be another
            raise
