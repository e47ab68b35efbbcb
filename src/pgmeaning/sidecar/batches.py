"""Batches for the model: by token budget, not by row count; similar lengths together, equal inputs once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pgmeaning.errors import EndpointDown, InputError, ModelError
from pgmeaning.models.base import Embedder, Vectors, check_vectors, unit_length
from pgmeaning.types import Document


@dataclass(frozen=True, slots=True)
class Batch:
    """Places of documents that go through the model together, and the tokens that costs, padding included."""

    places: tuple[int, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of documents that could be embedded, by place, and why the others could not."""

    places: tuple[int, ...]
    vectors: Vectors  # float32 [len(places), d]
    errors: dict[int, str]


def batches(lengths: Sequence[int], budget: int, rows: int) -> Iterator[Batch]:
    """Cut documents of these lengths (in tokens) into batches, the longest first: padded, none exceeds the budget."""
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    start = 0
    while start < len(order):
        # Every document of a batch is padded to the longest, which comes first.
        longest = max(lengths[order[start]], 1)
        size = max(1, min(rows, budget // longest))
        places = tuple(order[start : start + size])
        yield Batch(places, longest * len(places))
        start += size


def unique(documents: Sequence[Document]) -> tuple[list[Document], list[int]]:
    """The distinct documents, and for each document its place among them."""
    seen: dict[object, int] = {}
    distinct: list[Document] = []
    places: list[int] = []
    for document in documents:
        media = _identity(document.images), _identity(document.videos)
        place = seen.setdefault((document.text, document.instruction, media), len(distinct))
        if place == len(distinct):
            distinct.append(document)
        places.append(place)
    return distinct, places


def _identity(value: object) -> object:
    """Equal for equal bytes and names, and for lists of such; else each object is its own."""
    if isinstance(value, tuple | list):
        return tuple(map(_identity, value))
    return value if isinstance(value, bytes | str) else id(value)


def lengths(embedder: Embedder, documents: Sequence[Document]) -> list[int]:
    """Tokens of each document; a rough guess where the model cannot count them: embedding shows which is to blame."""
    try:
        counted = embedder.count_tokens(documents)
    except Exception:
        counted = []
    return counted if len(counted) == len(documents) else [1 + len(document.text or "") // 4 for document in documents]


def embed(embedder: Embedder, documents: Sequence[Document], dimensions: int) -> Embedded:
    """Embed a batch; where it fails, halve it until the poison stands alone.

    Raises nothing that an input causes: EndpointDown alone.
    """
    found: list[tuple[int, Vectors]] = []
    errors: dict[int, str] = {}
    _embed(embedder, dimensions, documents, 0, found, errors)
    places = tuple(start + offset for start, vectors in found for offset in range(len(vectors)))
    empty = np.empty((0, dimensions), np.float32)
    return Embedded(places, np.concatenate([vectors for _, vectors in found]) if found else empty, errors)


def _embed(
    embedder: Embedder, dimensions: int, documents: Sequence[Document], start: int,
    found: list[tuple[int, Vectors]], errors: dict[int, str],
) -> None:  # fmt: skip
    try:
        found.append((start, _vectors(embedder, documents, dimensions)))
    except EndpointDown:
        raise
    except Exception as error:  # whatever a model raises for an input must stay that input's
        if len(documents) == 1:
            errors[start] = describe(error)
            return
        middle = len(documents) // 2
        _embed(embedder, dimensions, documents[:middle], start, found, errors)
        _embed(embedder, dimensions, documents[middle:], start + middle, found, errors)


def _vectors(embedder: Embedder, documents: Sequence[Document], dimensions: int) -> Vectors:
    vectors = np.asarray(embedder.embed_documents(documents), np.float32)
    check_vectors(vectors, len(documents), embedder.dimensions)
    return (
        vectors
        if dimensions == embedder.dimensions
        else check_vectors(prefix(vectors, dimensions), len(documents), dimensions)
    )


def prefix(vectors: Vectors, dimensions: int) -> Vectors:
    """The Matryoshka prefix of that length, unit length again."""
    return unit_length(vectors[:, :dimensions])


def describe(error: BaseException) -> str:
    """What a failed row keeps as its error."""
    if isinstance(error, InputError | ModelError):
        return str(error)
    return f"{type(error).__name__}: {error}"
