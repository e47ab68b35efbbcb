"""The two seams: what an embedder and a reranker must do, and how one is found by its entry point."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from pgmeaning.errors import BadVector, ModelUnavailable
from pgmeaning.types import Document, Model

Vectors = NDArray[np.float32]

EMBEDDERS = "pgmeaning.embedders"
RERANKERS = "pgmeaning.rerankers"


class Embedder(Protocol):
    """Turns documents and queries into vectors that can be compared."""

    @property
    def dimensions(self) -> int:
        """Length of every vector."""

    def embed_documents(self, documents: Sequence[Document]) -> Vectors:
        """float32 [n, dimensions], unit length, in the order given; raises InputError for an input it cannot take."""

    def embed_queries(self, queries: Sequence[Document]) -> Vectors:
        """The same for queries, with the model's query prompt."""

    def count_tokens(self, documents: Sequence[Document]) -> list[int]:
        """Tokens that each document costs the model, for batches by budget; cheap, an estimate will do."""


class Reranker(Protocol):
    """Judges (query, document) pairs."""

    def score(self, query: Document, documents: Sequence[Document], instruction: str | None = None) -> Vectors:
        """float32 [n], 0..1, higher is better, in the order given."""


def load_embedder(model: Model, dimensions: int | None = None, **options: Any) -> Embedder:  # noqa: ANN401
    """Load an embedder through its entry point; raises ModelUnavailable where it cannot run here."""
    wanted = dimensions or model.dimensions
    check_dimensions(model, wanted)
    return cast(Embedder, _factory(EMBEDDERS, model)(model, dimensions=wanted, **options))


def load_reranker(model: Model, **options: Any) -> Reranker:  # noqa: ANN401
    """Load a reranker through its entry point; raises ModelUnavailable where it cannot run here."""
    return cast(Reranker, _factory(RERANKERS, model)(model, **options))


def check_dimensions(model: Model, wanted: int) -> None:
    """Raise ModelUnavailable unless the model gives vectors of that length (its own, or a Matryoshka prefix)."""
    smallest = model.min_dimensions or model.dimensions
    if not smallest <= wanted <= model.dimensions:
        raise ModelUnavailable(
            f"model {model.name!r} has no {wanted}-dimensional vectors",
            hint=f"ask for {smallest} to {model.dimensions}" if model.min_dimensions else f"it gives {smallest}",
        )


def check_vectors(vectors: Vectors, count: int, dimensions: int) -> Vectors:
    """Return the vectors, or raise BadVector when they are not [count, dimensions], finite and not zero."""
    if vectors.shape != (count, dimensions):
        raise BadVector(f"the model returned an array of shape {vectors.shape}, not ({count}, {dimensions})")
    if not np.isfinite(vectors).all():
        raise BadVector("the model returned NaN or infinity", hint="half precision overflows in some models")
    if count and not vectors.any(axis=1).all():
        raise BadVector("the model returned a vector of zeros, which has no direction")
    return vectors


def unit_length(vectors: Vectors) -> Vectors:
    """Rows divided by their Euclidean norm; a row of zeros stays as it is, for `check_vectors` to refuse."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(norms == 0, 1, norms)).astype(np.float32)


def _factory(group: str, model: Model) -> Any:  # noqa: ANN401
    found = list(entry_points(group=group, name=model.backend))
    if not found:
        known = sorted(entry.name for entry in entry_points(group=group))
        raise ModelUnavailable(
            f"model {model.name!r} needs the backend {model.backend!r}, which is not installed",
            hint=f"installed here: {', '.join(known) or 'none'}; a package can add one under the entry point {group}",
        )
    try:
        return found[0].load()
    except ImportError as error:
        raise ModelUnavailable(
            f"model {model.name!r} cannot run here: {error}", hint="install its packages: pip install 'pgmeaning[local]'"
        ) from error
