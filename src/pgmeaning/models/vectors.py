"""Vectors and scores as models return them: checked, cut and normalised."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pgmeaning.errors import BadVector
from pgmeaning.types import Model

Vectors = NDArray[np.float32]


def check_vectors(vectors: Vectors, count: int, dimensions: int) -> Vectors:
    """Return the vectors, or raise BadVector unless they are [count, dimensions], finite and not zero."""
    if vectors.shape != (count, dimensions):
        raise BadVector(f"the model returned an array of shape {vectors.shape}, not ({count}, {dimensions})")
    # One pass over the numbers: if a component is NaN or infinite, so is its square, and the sum of squares.
    squared_lengths = np.einsum("ij,ij->i", vectors, vectors)
    if not np.isfinite(squared_lengths).all():
        raise BadVector("the model returned NaN or infinity", hint="half precision overflows in some models")
    if not squared_lengths.all():
        raise BadVector("the model returned a vector of zeros, which has no direction")
    return vectors


def check_scores(scores: Vectors, count: int) -> Vectors:
    """Return the scores, or raise BadVector unless they are [count], finite and 0..1."""
    if scores.shape != (count,):
        raise BadVector(f"the reranker returned an array of shape {scores.shape}, not ({count},)")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise BadVector(
            "the reranker returned a score that is not 0..1", hint="half precision overflows in some models"
        )
    return scores


def finished(vectors: Vectors, model: Model, dimensions: int) -> Vectors:
    """A model's vectors, cut to the requested length, and normalised if the registry says so."""
    if vectors.shape[1] > dimensions:
        if model.options.get("layer_norm_before_cut"):
            vectors = (vectors - vectors.mean(axis=1, keepdims=True)) / vectors.std(axis=1, keepdims=True)
        vectors = vectors[:, :dimensions]
    return unit_length(vectors) if model.normalize else vectors


def unit_length(vectors: Vectors) -> Vectors:
    """The rows divided by their Euclidean norm; a row of zeros stays as it is, for `check_vectors` to refuse."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(norms == 0, 1, norms)).astype(np.float32)


def prefix(vectors: Vectors, dimensions: int) -> Vectors:
    """The Matryoshka prefix of that length, at unit length again."""
    return unit_length(vectors[:, :dimensions])
