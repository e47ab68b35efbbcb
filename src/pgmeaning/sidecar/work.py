"""The values that the sidecar's steps pass on: Claimed -> Work -> Output; all frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pgmeaning.models.base import Embedder
from pgmeaning.models.vectors import Vectors
from pgmeaning.tracing import Origin
from pgmeaning.types import Claim, Document, Row, Target


@dataclass(frozen=True, slots=True)
class Claimed:
    """Claims of one target, held, and the model that will embed their rows."""

    target: Target
    claims: tuple[Claim, ...]
    embedder: Embedder
    urgent: bool = False  # goes before other work
    origin: Origin = None  # for the spans of what becomes of it


@dataclass(frozen=True, slots=True)
class Work:
    """Rows of one target, read and cut, and the model that will embed them."""

    target: Target
    rows: tuple[Row, ...]
    embedder: Embedder
    lengths: tuple[int, ...] = ()  # tokens of each distinct document, once they are counted
    urgent: bool = False
    characters: int | None = None  # of a longer column only the beginning was read; None: all
    origin: Origin = None


@dataclass(frozen=True, slots=True)
class Output:
    """Rows with their outcome: vectors (float32 [n, d]) of those that need one, in order; errors; or handed back."""

    target: Target
    rows: tuple[Row, ...]
    vectors: Vectors
    errors: tuple[tuple[Claim, str], ...] = ()
    tokens: int = 0
    seconds: float = 0.0
    handed_back: tuple[Claim, ...] = ()  # untried; nothing is wrong with these rows
    origin: Origin = None

    @property
    def claims(self) -> list[Claim]:
        """All claims that this settles."""
        return [row.claim for row in self.rows] + [claim for claim, _ in self.errors] + list(self.handed_back)


def embedded(
    target: Target, rows: Sequence[Row], vectors: Vectors, errors: Sequence[tuple[Row, str]],
    *, tokens: int = 0, seconds: float = 0.0,
) -> Output:  # fmt: skip
    """The output of a batch. Its rows wait to be written without their images, which would fill the memory."""
    failed = tuple((row.claim, error) for row, error in errors)
    return Output(target, tuple(map(_without_media, rows)), vectors, failed, tokens, seconds)


def without_vectors(
    target: Target, rows: Sequence[Row] = (), errors: Sequence[tuple[Row, str]] = (), handed_back: Sequence[Row] = ()
) -> Output:
    """The output for rows that need no vector, rows that failed, and rows not tried yet."""
    output = embedded(target, rows, np.empty((0, target.dimensions), np.float32), errors)
    return replace(output, handed_back=tuple(row.claim for row in handed_back))


def _without_media(row: Row) -> Row:
    has_media = row.document is not None and (row.document.images or row.document.videos)
    return replace(row, document=Document()) if has_media else row
