"""What a sidecar's steps report of themselves; they know neither Prometheus nor OpenTelemetry."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pgmeaning import tracing
from pgmeaning.tracing import Origin
from pgmeaning.types import Target


class Recorder:
    """Makes spans where OpenTelemetry is installed, and keeps nothing; `metrics.Metrics` also counts.

    For several threads. Seconds are those that have just passed. `origin`: the claim that it is part of, so that the
    spans of a claim make one trace.
    """

    def waited(self, step: str, seconds: float) -> None:
        """A step had to wait: for the step before it, for room in the next, or for the model."""

    @contextmanager
    def waits(self, step: str) -> Iterator[None]:
        """Measure what the body waits for."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.waited(step, time.monotonic() - started)

    def claimed(self, target: Target, rows: int) -> Origin:
        """Rows were claimed; returns the origin of what becomes of them."""
        return tracing.ended("claim", 0.0, collection=target.collection, model=target.model, rows=rows)

    def read(self, target: Target, rows: int, seconds: float, origin: Origin = None) -> None:
        """Rows were read and cut."""
        tracing.ended("read", seconds, origin, collection=target.collection, rows=rows)

    def fetched(self, target: Target, rows: int, seconds: float, origin: Origin = None) -> None:
        """What rows name as images and videos was fetched."""
        tracing.ended("fetch", seconds, origin, collection=target.collection, rows=rows)

    def embedded(
        self, target: Target, documents: int, tokens: int, seconds: float, *, padding: float, fill: float,
        origin: Origin = None,
    ) -> None:  # fmt: skip
        """A batch went through the model. `padding`: its share of the tokens; `fill`: how full it was, 0 to 1."""
        tracing.ended(
            "embed", seconds, origin, collection=target.collection, model=target.model, documents=documents,
            tokens=tokens, padding=padding,
        )  # fmt: skip

    def reused(self, target: Target, rows: int) -> None:
        """Rows took vectors over that were there."""

    def written(self, target: Target, rows: int, seconds: float, origin: Origin = None) -> None:
        """Rows were finished."""
        tracing.ended("write", seconds, origin, collection=target.collection, model=target.model, rows=rows)

    def failed(self, kind: str, number: int = 1, target: Target | None = None) -> None:
        """Attempts failed: rows of a target, or what belongs to none. The kinds are metrics.KINDS."""

    def lost(self, leases: int) -> None:
        """Claims lapsed, or were taken by another sidecar, before they were finished."""

    def outrun(self, rows: int) -> None:
        """Rows changed while they were embedded: their vectors were thrown away."""

    def answered(self, kind: str, model: str, age: float, seconds: float) -> None:
        """A request was answered, `age` seconds after it was made; the model took `seconds` of that."""
        tracing.ended(kind, seconds, model=model, age=age)

    def indexed(self, collection: str, seconds: float, outcome: str) -> None:
        """An index was built, or not: 'built', 'failed' or 'gave way'."""
        error = None if outcome == "built" else outcome
        tracing.ended("index", seconds, error=error, collection=collection, outcome=outcome)
