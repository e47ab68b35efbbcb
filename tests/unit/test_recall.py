"""The queries of a recall test: stored vectors, moved away."""

from __future__ import annotations

import numpy as np
import pytest

from pgmeaning.indexes.recall import moved_away
from pgmeaning.models.vectors import unit_length


def test_vectors_are_moved_to_the_cosines_asked_for_and_stay_of_unit_length() -> None:
    vectors = unit_length(np.random.default_rng(1).standard_normal((50, 64)).astype(np.float32))
    wanted = np.linspace(0, 1, 50, dtype=np.float32)
    moved = moved_away(vectors, wanted)
    assert (moved * vectors).sum(axis=1) == pytest.approx(wanted, abs=1e-4)
    assert np.linalg.norm(moved, axis=1) == pytest.approx(1, abs=1e-4)


def test_vectors_stay_in_the_space_that_they_span() -> None:
    flat = np.zeros((30, 64), np.float32)
    flat[:, :5] = np.random.default_rng(1).standard_normal((30, 5))
    moved = moved_away(unit_length(flat), np.full(30, 0.5, np.float32))
    assert np.abs(moved[:, 5:]).max() < 1e-6


def test_equal_vectors_have_no_direction_to_move_in() -> None:
    same = unit_length(np.ones((10, 8), np.float32))
    assert moved_away(same, np.zeros(10, np.float32)) == pytest.approx(same)
