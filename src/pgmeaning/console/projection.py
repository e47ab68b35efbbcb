"""Vectors in two dimensions: by principal components at once, or better by UMAP or PaCMAP where one is installed."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import Any

import numpy as np

from pgmeaning.models.vectors import Vectors

KEPT = 50  # components; what is left out of a model's hundreds is noise to the eye
FITTED = 2_000  # vectors that they are found on
NAMES = {"pca": "PCA", "umap": "UMAP", "pacmap": "PaCMAP"}


def methods() -> list[str]:
    """Those that are installed; pca always is, and first: the others may take minutes, compiling on first use."""
    return [name for name in NAMES if name == "pca" or find_spec(name) is not None]


class Components:
    """The principal components of a sample, float32 [n, d]."""

    def __init__(self, sample: Vectors) -> None:
        some = sample[:FITTED]
        self._mean = some.mean(axis=0)
        self._axes = np.linalg.svd(some - self._mean, full_matrices=False)[2][:KEPT]

    def of(self, vectors: Vectors) -> Vectors:
        """float32 [n, up to 50]."""
        return np.asarray((vectors - self._mean) @ self._axes.T, np.float32)


def arranged(reduced: Vectors, method: str) -> Vectors:
    """Places in a square, float32 [n, 2] in 0..1; the same for the same vectors."""
    places = _by(method, reduced) if len(reduced) > 20 else reduced
    flat = np.zeros((len(reduced), 2), np.float32)
    width = min(2, places.shape[1])
    flat[:, :width] = places[:, :width]
    low, high = flat.min(axis=0), flat.max(axis=0)
    return np.asarray((flat - low) / np.where(high > low, high - low, 1), np.float32)


def _by(method: str, reduced: Vectors) -> Any:
    with warnings.catch_warnings(action="ignore"):  # what these libraries say is nothing to a page's reader
        if method == "umap":
            from umap import UMAP

            return UMAP(random_state=0, n_jobs=1).fit_transform(reduced)
        if method == "pacmap":
            from pacmap import PaCMAP

            return PaCMAP(random_state=0, apply_pca=False).fit_transform(reduced)
    return reduced
