"""Measures are what the literature says they are, and intervals hold what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pgmeaning.evaluation.compare import estimate
from pgmeaning.evaluation.measures import measured, overlap, rank_biased_overlap
from tests.needs import needs_package

# Measures against judgements


def test_graded_gains_recall_and_reciprocal_rank_are_those_of_trec() -> None:
    needs_package("ir_measures", "evaluate")
    values = measured({"q": {"a": 2, "b": 1, "c": 1}}, {"q": ["x", "a", "b"]}, (2, 3))
    gain = 2 / math.log2(3) + 1 / math.log2(4)
    ideal = 2 + 1 / math.log2(3) + 1 / math.log2(4)
    assert values["nDCG@10"] == pytest.approx([gain / ideal])
    assert values["recall@2"] == pytest.approx([1 / 3])
    assert values["recall@3"] == pytest.approx([2 / 3])
    assert values["MRR"] == pytest.approx([1 / 2])


def test_a_query_that_found_nothing_counts_as_zero() -> None:
    needs_package("ir_measures", "evaluate")
    values = measured({"q": {"a": 1}, "r": {"a": 1}}, {"q": ["a"], "r": []}, (10,))
    assert values["nDCG@10"].tolist() == [1, 0]
    assert values["MRR"].tolist() == [1, 0]


def test_values_stand_in_the_order_of_the_judgements_and_queries_without_any_are_left_out() -> None:
    needs_package("ir_measures", "evaluate")
    values = measured({"z": {"a": 1}, "a": {"b": 1}}, {"a": ["x"], "m": ["x"], "z": ["a"]}, (10,))
    assert values["MRR"].tolist() == [1, 0]


# How alike two lists are


def test_overlap_is_the_share_of_the_first_k_whatever_their_order() -> None:
    assert overlap(list("abcd"), list("dcxa"), 4) == 0.75
    assert overlap(list("abcd"), list("xyzw"), 4) == 0
    assert overlap(list("ab"), list("abcd")) == 0.5
    assert overlap([], []) == 1


def test_rank_biased_overlap_is_one_for_equal_lists_and_zero_for_disjoint_ones() -> None:
    assert rank_biased_overlap(list("abcde"), list("abcde")) == pytest.approx(1)
    assert rank_biased_overlap(list("abcde"), list("vwxyz")) == 0
    assert rank_biased_overlap([], []) == 1
    assert rank_biased_overlap([], ["a"]) == 0


def test_rank_biased_overlap_is_what_its_formula_gives() -> None:
    # By hand, p = .5: agreements 0/1, 2/2; (1-p)/p * (0 + 1 * .25) + 1 * .25
    assert rank_biased_overlap(["a", "b"], ["b", "a"], 0.5) == pytest.approx(0.5)
    # Of unequal lengths: agreements 1/1, 1/2, and what the shorter one is expected to go on with.
    expected = 1 * (1 * 0.5 + 1 / 2 * 0.25 + 1 * (2 - 1) / (1 * 2) * 0.25) + (0 + 1) * 0.25
    assert rank_biased_overlap(["a"], ["a", "b"], 0.5) == pytest.approx(expected)


def test_a_change_at_the_top_weighs_more_than_one_at_the_end() -> None:
    base = list("abcdefghij")
    assert rank_biased_overlap(base, list("bacdefghij")) < rank_biased_overlap(base, list("abcdefghji"))


# Intervals


def test_an_interval_is_near_the_one_that_theory_gives() -> None:
    values = np.random.default_rng(1).normal(0.5, 0.2, 400)
    found = estimate(values)
    spread = 1.96 * values.std() / 20
    assert found.n == 400
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - spread, abs=0.003)
    assert found.high == pytest.approx(values.mean() + spread, abs=0.003)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    random = np.random.default_rng(2)
    held = sum(
        (found.low or 0) <= 0.3 <= (found.high or 0)
        for found in (estimate(random.binomial(1, 0.3, 60).astype(float)) for _ in range(150))
    )
    assert 0.88 <= held / 150 <= 0.99


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.arange(20.0)
    assert estimate(values, 7) == estimate(values, 7)
    assert estimate(values, 7) != estimate(values, 8)


def test_one_query_has_no_interval_and_says_nothing_for_certain() -> None:
    found = estimate(np.array([1.0]))
    assert (found.low, found.high, found.is_certain) == (None, None, False)


def test_a_difference_is_certain_if_zero_is_outside_of_its_interval() -> None:
    assert estimate(np.full(10, 0.1)).is_certain
    assert not estimate(np.array([0.5, -0.5] * 10)).is_certain
