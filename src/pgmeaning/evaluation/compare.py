"""Whether a difference is more than chance: bootstrap over the queries, paired where two ways answer the same ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pgmeaning.evaluation.measures import Values

CONFIDENCE = 0.95
RESAMPLES = 5_000
AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Estimate:
    """The mean of n queries, with its 95 % interval; None where a single query says nothing of others."""

    n: int
    mean: float
    low: float | None
    high: float | None

    @property
    def is_certain(self) -> bool:
        """Of a difference: whether zero is outside of its interval."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def estimate(values: Values, seed: int = 0) -> Estimate:
    """The mean of values, float64 [n], with n at least 1; the interval by the percentile bootstrap over queries.

    For the difference of two ways pass the differences of each query: they are drawn in pairs.
    """
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(len(values), mean, None, None)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(_resampled_means(values, seed), [tail, 1 - tail])
    return Estimate(len(values), mean, float(low), float(high))


def _resampled_means(values: Values, seed: int) -> Values:
    """float64 [RESAMPLES]. A few at a time, so that the memory does not grow with resamples times queries."""
    random, n = np.random.default_rng(seed), len(values)
    portions = [values[random.integers(0, n, (AT_ONCE, n))].mean(axis=1) for _ in range(RESAMPLES // AT_ONCE)]
    return np.concatenate(portions)
