"""What is measured of ranked lists: against judgements by ir-measures, and of two lists how alike they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pgmeaning.errors import PgmeaningError

Values = NDArray[np.float64]
NDCG, MRR = "nDCG@10", "MRR"
K = 10
# How much the first ranks count in rank-biased overlap: the first ten have 86 % of the weight.
PERSISTENCE = 0.9


def measure_names(recall: Sequence[int]) -> list[str]:
    """The names of what is measured, with recall at these depths."""
    return [NDCG, *(f"recall@{k}" for k in recall), MRR]


def measured(
    judged: Mapping[str, Mapping[str, int]], found: Mapping[str, Sequence[str]], recall: Sequence[int]
) -> dict[str, Values]:
    """Each measure's values, float64 [n], in the order of `judged`: query -> key -> grade.

    `found` has the keys of each query, the best first. Grades count in nDCG; MRR is of the list as far as it goes.
    Raises PgmeaningError if ir-measures is not installed.
    """
    try:
        import ir_measures
    except ImportError as error:
        raise PgmeaningError("measuring needs ir-measures", hint="pip install 'pgmeaning[evaluate]'") from error
    wanted = {ir_measures.nDCG @ K: NDCG, ir_measures.RR: MRR}
    wanted |= {ir_measures.R @ k: f"recall@{k}" for k in recall}
    # By rank: the library would order equal scores by their keys.
    run = {id: {key: -float(place) for place, key in enumerate(keys)} for id, keys in found.items() if id in judged}
    place = {id: number for number, id in enumerate(judged)}
    values = {name: np.zeros(len(judged)) for name in measure_names(recall)}
    for metric in ir_measures.iter_calc(list(wanted), {id: dict(rows) for id, rows in judged.items()}, run):
        values[wanted[metric.measure]][place[metric.query_id]] = metric.value
    return values


def overlap(one: Sequence[str], other: Sequence[str], k: int = K) -> float:
    """The share of the first k that both have, 0..1; of as many as the longer list has, if it is shorter than k."""
    first, second = set(one[:k]), set(other[:k])
    return len(first & second) / max(len(first), len(second)) if first or second else 1.0


def rank_biased_overlap(one: Sequence[str], other: Sequence[str], p: float = PERSISTENCE) -> float:
    """How alike two rankings are, 0..1, the first ranks most: RBO, extrapolated (Webber and others, 2010, eq. 32)."""
    short, long = sorted((one, other), key=len)
    if not short:
        return float(not long)
    s, depth = len(short), len(long)
    common = _agreements(short, long)
    total = sum(common[d] / d * p**d for d in range(1, depth + 1))
    total += sum(common[s] * (d - s) / (s * d) * p**d for d in range(s + 1, depth + 1))
    return (1 - p) / p * total + ((common[depth] - common[s]) / depth + common[s] / s) * p**depth


def _agreements(short: Sequence[str], long: Sequence[str]) -> list[int]:
    """How many keys the first d of both have in common, for each d from 0 to the length of the longer."""
    counts, seen_short, seen_long = [0], set[str](), set[str]()
    for place, key in enumerate(long):
        seen_long.add(key)
        seen_short.update(short[place : place + 1])
        counts.append(len(seen_short & seen_long))
    return counts
