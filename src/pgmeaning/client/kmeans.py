"""Spherical k-means: unit vectors, compared by their cosine."""

from __future__ import annotations

import numpy as np

from pgmeaning.models.vectors import Vectors, unit_length

STEPS = 50
RESTARTS = 4


def centroids(sample: Vectors, k: int, seed: int) -> Vectors:
    """Up to k unit vectors, float32 [k, d], the best of several beginnings; fewer if fewer vectors differ."""
    random = np.random.default_rng(abs(seed))
    found = [_settled(sample, _beginning(sample, k, random)) for _ in range(RESTARTS)]
    return max(found, key=lambda one: float(nearest(sample, one)[1].sum()))


def nearest(vectors: Vectors, centres: Vectors) -> tuple[np.ndarray[tuple[int], np.dtype[np.intp]], Vectors]:
    """For each vector the place of the nearest centroid, and its cosine to it."""
    cosines = vectors @ centres.T
    places = cosines.argmax(axis=1)
    return places, np.take_along_axis(cosines, places[:, None], axis=1)[:, 0]


def _beginning(sample: Vectors, k: int, random: np.random.Generator) -> Vectors:
    """k-means++: each with a likelihood that grows with the square of its distance to those chosen before."""
    chosen = [int(random.integers(len(sample)))]
    away = np.full(len(sample), np.inf)
    while len(chosen) < min(k, len(sample)):
        away = np.minimum(away, np.maximum(0, 1 - sample @ sample[chosen[-1]]))
        weights = np.where(away < 1e-6, 0, away**2).astype(np.float64)
        if weights.sum() == 0:
            break
        chosen.append(int(random.choice(len(sample), p=weights / weights.sum())))
    return sample[chosen]


def _settled(sample: Vectors, centres: Vectors) -> Vectors:
    before = -np.inf
    for _ in range(STEPS):
        places, cosines = nearest(sample, centres)
        total = float(cosines.sum())
        if total - before < 1e-6 * len(sample):
            break
        before = total
        sums = np.zeros_like(centres)
        np.add.at(sums, places, sample)
        empty = ~np.any(sums, axis=1)
        centres = unit_length(np.where(empty[:, None], centres, sums))
    return centres
