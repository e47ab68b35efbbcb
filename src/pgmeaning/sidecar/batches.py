"""Sends one batch through the model; if that fails, narrows the failure down to the document that causes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pgmeaning.errors import EndpointDown, ModelDrifted, describe
from pgmeaning.models.base import Embedder
from pgmeaning.models.pipeline import begin, budget_of
from pgmeaning.models.vectors import Vectors, check_vectors, prefix
from pgmeaning.types import Document


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of the documents that could be embedded, by position, and why the others could not."""

    places: tuple[int, ...]
    vectors: Vectors  # float32 [len(places), d]
    errors: dict[int, str]


def failed(error: BaseException, dimensions: int) -> Embedded:
    """The outcome of one document that never got to the model."""
    return Embedded((), np.empty((0, dimensions), np.float32), {0: describe(error)})


def launch(embedder: Embedder, documents: Sequence[Document], dimensions: int) -> Callable[[], Embedded]:
    """Embed a batch, or begin to if its device works asynchronously; what is returned waits for the vectors.

    Raises EndpointDown and ModelDrifted alone; what is returned raises whatever the device did, and the batch is to be
    embedded again.
    """
    budget = budget_of(embedder)
    if budget is not None and budget.launched:
        try:
            finish = begin(embedder, documents)
        except BaseException:  # `embed` shows which document it is
            pass
        else:
            places = tuple(range(len(documents)))
            return lambda: Embedded(places, _checked(finish(), embedder, len(documents), dimensions), {})
    found = embed(embedder, documents, dimensions)
    return lambda: found


def embed(embedder: Embedder, documents: Sequence[Document], dimensions: int) -> Embedded:
    """Embed a batch; if it fails, halve it until the document that causes the failure is alone.

    Raises only EndpointDown and ModelDrifted, never an error that an input causes.
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
    except (EndpointDown, ModelDrifted):
        raise
    except BaseException as error:  # whatever a model raises, a panic too, must fail only that input
        if len(documents) == 1:
            errors[start] = describe(error)
            return
        middle = len(documents) // 2
        _embed(embedder, dimensions, documents[:middle], start, found, errors)
        _embed(embedder, dimensions, documents[middle:], start + middle, found, errors)


def _vectors(embedder: Embedder, documents: Sequence[Document], dimensions: int) -> Vectors:
    return _checked(embedder.embed_documents(documents), embedder, len(documents), dimensions)


def _checked(found: Vectors, embedder: Embedder, count: int, dimensions: int) -> Vectors:
    vectors = check_vectors(np.asarray(found, np.float32), count, embedder.dimensions)
    if dimensions == embedder.dimensions:
        return vectors
    return check_vectors(prefix(vectors, dimensions), count, dimensions)
