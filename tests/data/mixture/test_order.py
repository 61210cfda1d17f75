"""The order: a permutation, the same from wherever it is entered, even over the sources, complete over the epochs."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from nvila.data.mixture.order import BLOCK, Order, Place, derive_key, permute, stand_ins


def permutation(size: int, key: int) -> list[int]:
    index = np.arange(size, dtype=np.uint64)
    return permute(index, np.full_like(index, size), np.full_like(index, key)).tolist()


def stream(order: Order, start: int, count: int, step: int = 1) -> list[Place]:
    return list(itertools.islice(order.walk(start, step=step), count))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000, 65537])
def test_permute_takes_every_index_to_another(size: int) -> None:
    assert sorted(permutation(size, derive_key("key"))) == list(range(size))


def test_permute_reaches_every_arrangement_of_a_small_source() -> None:
    seen = Counter(tuple(permutation(4, derive_key(number))) for number in range(2400))
    assert len(seen) == 24
    assert min(seen.values()) > 50


def test_permute_looks_random_in_a_large_source() -> None:
    moved = np.array(permutation(10_000, derive_key("large")))
    assert abs(np.corrcoef(np.arange(10_000), moved)[0, 1]) < 0.05
    steps = np.abs(np.diff(moved))
    assert 3_000 < steps.mean() < 3_700  # a third of the size, if neighbours are scattered


def test_elements_of_several_permutations_do_not_disturb_each_other() -> None:
    sizes = np.array([3, 100, 3, 100, 3], dtype=np.uint64)
    keys = np.array([5, 6, 5, 6, 5], dtype=np.uint64)
    mixed = permute(np.array([0, 7, 1, 8, 2], dtype=np.uint64), sizes, keys).tolist()
    assert mixed[0::2] == permutation(3, 5)
    assert mixed[1::2] == permutation(100, 6)[7:9]


def test_an_epoch_holds_every_sample_once() -> None:
    order = Order(counts=[50, 9, 1], sizes=[50, 9, 1], seed=1)
    for epoch in range(3):
        drawn = [(place.source, place.sample) for place in stream(order, epoch * 60, 60)]
        assert sorted(drawn) == [(source, index) for source, size in enumerate([50, 9, 1]) for index in range(size)]


def test_epochs_and_seeds_differ() -> None:
    orders = {seed: Order(counts=[200, 50], sizes=[200, 50], seed=seed) for seed in (1, 2)}
    first = [place[1:] for place in stream(orders[1], 0, 250)]
    assert first != [place[1:] for place in stream(orders[1], 250, 250)]
    assert first != [place[1:] for place in stream(orders[2], 0, 250)]
    assert first == [place[1:] for place in stream(Order(counts=[200, 50], sizes=[200, 50], seed=1), 0, 250)]


def test_the_order_stays_what_it_is() -> None:
    """A run resumed by a later version must find the same order: these numbers may never change."""
    order = Order(counts=[1000, 300, 7], sizes=[1000, 200, 20], seed=7)
    assert [place[1:] for place in stream(order, 1307, 8)] == [
        (0, 132),
        (1, 27),
        (0, 17),
        (0, 402),
        (0, 321),
        (1, 91),
        (0, 574),
        (0, 601),
    ]


def test_fractions_pass_through_a_source_before_repeating_it() -> None:
    order = Order(counts=[15, 30], sizes=[10, 100], seed=3)
    drawn = [place for place in stream(order, 0, 4 * 45) if place.source == 0]
    for first in range(0, 60, 10):
        assert sorted(place.sample for place in drawn[first : first + 10]) == list(range(10))
    capped = [place.sample for place in stream(order, 0, 3 * 45) if place.source == 1]
    assert len(set(capped)) == 90


def test_entering_anywhere_gives_the_rest() -> None:
    counts = [BLOCK, 3000, 500]
    order = Order(counts=counts, sizes=counts, seed=5)
    whole = stream(order, 0, order.samples_per_epoch + 100)
    for start in (1, BLOCK - 1, BLOCK, BLOCK + 3, order.samples_per_epoch - 1, order.samples_per_epoch):
        assert stream(order, start, 50) == whole[start : start + 50]
        assert order.locate(start) == whole[start]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64, BLOCK + 1])
def test_strides_part_the_stream(step: int) -> None:
    counts = [BLOCK, 3000, 500]
    order = Order(counts=counts, sizes=counts, seed=5)
    end = order.samples_per_epoch + 1000
    whole = list(order.walk(0, step=1, end=end))
    shares = [list(order.walk(rank, step=step, end=end)) for rank in range(min(step, 70))]
    for rank, share in enumerate(shares):
        assert share == whole[rank::step]


def test_sources_are_even_over_the_epoch() -> None:
    counts = [40_000, 9_000, 1_000, 10]
    order = Order(counts=counts, sizes=counts, seed=11)
    owners = np.array([place.source for place in stream(order, 0, sum(counts))])
    for source, count in enumerate(counts):
        seen = np.cumsum(owners == source)
        expected = np.arange(1, len(owners) + 1) * count / len(owners)
        # Each source has one sample in each of its equal parts; a prefix can be off by one of each source.
        assert np.abs(seen - expected).max() <= len(counts) + 1


def test_equal_sources_do_not_fall_into_step_with_the_ranks() -> None:
    order = Order(counts=[5000, 5000], sizes=[5000, 5000], seed=2)
    share = Counter(place.source for place in order.walk(0, step=2, end=10_000))
    assert 2300 < share[0] < 2700


def test_many_small_sources_are_numbered_beyond_a_byte() -> None:
    order = Order(counts=[2] * 300, sizes=[2] * 300, seed=2)
    assert sorted(place[1:] for place in stream(order, 0, 600)) == [(s, i) for s in range(300) for i in range(2)]


def test_stand_ins_depend_on_the_broken_index_alone() -> None:
    first = list(stand_ins(seed=1, source=0, index=3, size=10, limit=100))
    assert sorted([*first, 3]) == list(range(10))
    assert first == list(stand_ins(seed=1, source=0, index=3, size=10, limit=100))
    others = {tuple(stand_ins(seed=1, source=0, index=index, size=1000, limit=5)) for index in range(20)}
    assert len(others) == 20
    assert len(list(stand_ins(seed=1, source=0, index=3, size=1000, limit=100))) == 100
    assert list(stand_ins(seed=1, source=0, index=0, size=1, limit=100)) == []
