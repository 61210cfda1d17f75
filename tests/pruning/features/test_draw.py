"""Turns: even and weighted draws that hold for every number of samples."""

from __future__ import annotations

import numpy as np
import pytest

from nvila.pruning.features.draw import coverage_turns, even_turns, turns


def drawn(turn: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """How many of each cluster are among the first `count` turns."""
    return np.bincount(labels[np.argsort(turn)[:count]], minlength=labels.max() + 1)


def test_an_even_draw_takes_as_many_of_each_cluster_until_it_is_empty() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2, 3], [5, 50, 200, 1]).astype(np.int32)
    turn, _ = even_turns(labels, rng.random(len(labels)))
    sizes = np.bincount(labels)
    for count in range(1, len(labels)):
        found = drawn(turn, labels, count)
        assert found.sum() == count
        assert found[found < sizes].size == 0 or found.max() - found[found < sizes].min() <= 1


def test_places_count_the_samples_that_come_before_in_the_cluster() -> None:
    labels = np.array([1, 0, 1, 1, 0], np.int32)
    order = np.array([3.0, 2.0, 1.0, 2.0, 1.0])
    _, places = turns(labels, order, np.zeros(5), np.ones(2))
    assert places.tolist() == [2, 1, 0, 1, 0]


def test_counts_follow_the_weights() -> None:
    labels = np.repeat([0, 1], [1000, 1000]).astype(np.int32)
    keys = np.random.default_rng(1).random(2000)
    turn, _ = turns(labels, keys, keys, np.array([1.0, 3.0]))
    assert drawn(turn, labels, 800).tolist() == pytest.approx([200, 600], abs=2)


def test_coverage_takes_high_gains_first_and_useless_samples_last() -> None:
    labels = np.repeat([0, 1], [4, 16]).astype(np.int32)
    gain = np.array([0.1, 0.4, -1.0, 0.3, *np.linspace(0.05, 0.8, 15), 0.0])
    turn, places = coverage_turns(labels, gain, np.full(20, 0.5))
    assert places[:4].tolist() == [2, 0, 3, 1]
    assert set(np.argsort(turn)[-2:].tolist()) == {2, 19}
    assert drawn(turn, labels, 6).tolist() == [2, 4]


def test_an_unknown_gain_stands_in_the_middle() -> None:
    labels = np.zeros(5, np.int32)
    _, places = coverage_turns(labels, np.array([0.9, 0.8, np.nan, 0.1, -0.5]), np.zeros(5))
    assert places.tolist() == [0, 1, 2, 3, 4]


def test_no_samples_are_no_error() -> None:
    turn, places = even_turns(np.empty(0, np.int32), np.empty(0))
    assert len(turn) == len(places) == 0
