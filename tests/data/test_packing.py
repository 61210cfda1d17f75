"""Packing: every sample exactly once, within the budgets, full rows, even steps, and the same again after a resume."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pytest

from nvila.data.packing import Item, PackingOptions, RowPacker
from nvila.errors import ConfigError, DataError


def random_items(rng: random.Random, count: int, *, max_tokens: int = 100, max_tiles: int = 10) -> list[Item]:
    return [Item(key, rng.randint(1, max_tokens), rng.randint(0, max_tiles)) for key in range(count)]


def random_options(rng: random.Random) -> PackingOptions:
    return PackingOptions(
        max_tokens=rng.randint(100, 300),
        max_tiles=rng.choice([None, 10, 25]),
        window=rng.choice([1, 2, 7, 40]),
        rows_per_step=rng.choice([1, 1, 3, 8]),
        pool=rng.choice([1, 2, 5]),
        patience=rng.choice([1, 3, 64]),
    )


def skewed_mixture(seed: int, count: int, shares: tuple[float, float, float]) -> Iterator[Item]:
    """Text, pictures (a tile every 256 tokens) and clips (a frame every 64), most of each kind near its short end."""
    rng = random.Random(seed)
    kinds = ((50, 300, 0.0), (200, 3_200, 1 / 256), (2_000, 16_000, 1 / 64))
    for key in range(count):
        shortest, longest, density = rng.choices(kinds, shares)[0]
        tokens = round(shortest + (longest - shortest) * rng.random() ** 2)
        yield Item(key, tokens, round(tokens * density))


def tiles_of(row: Sequence[Item]) -> int:
    return sum(item.num_tiles for item in row)


@pytest.mark.parametrize("seed", range(30))
def test_every_sample_once_within_the_budgets(seed: int) -> None:
    rng = random.Random(seed)
    options, items = random_options(rng), random_items(rng, rng.randint(0, 300))
    steps = list(RowPacker(options).pack(items))
    rows = [row for step in steps for row in step]
    assert sorted(item for row in rows for item in row) == sorted(items)
    for row in rows:
        assert row
        assert sum(item.num_tokens for item in row) <= options.max_tokens
        assert options.max_tiles is None or tiles_of(row) <= options.max_tiles
    assert all(len(step) == options.rows_per_step for step in steps[:-1])
    if steps and len(steps[-1]) < options.rows_per_step:
        assert all(len(row) == 1 for row in steps[-1])


@pytest.mark.parametrize("seed", range(30))
def test_a_resume_at_any_step_goes_on_as_if_nothing_had_happened(seed: int) -> None:
    rng = random.Random(seed)
    options, items = random_options(rng), random_items(rng, rng.randint(20, 200))
    wanted = list(RowPacker(options).pack(items))
    stop = rng.randint(0, len(wanted))
    first = RowPacker(options)
    before = list(islice(first.pack(items), stop))
    state = json.loads(json.dumps(first.state_dict()))
    second = RowPacker(options)
    second.load_state_dict(state)
    assert before + list(second.pack(items[second.num_taken :])) == wanted


def test_other_samples_are_saved_by_their_keys() -> None:
    class Encoded:
        def __init__(self, name: str) -> None:
            self.name, self.num_tokens, self.num_tiles = name, len(name), 0

    names = ["a" * length for length in (5, 3, 9, 2, 7, 7, 1)]
    options = PackingOptions(max_tokens=10, window=3)

    def named(steps: Any) -> list[list[str]]:
        return [[sample.name for sample in row] for step in steps for row in step]

    wanted = named(RowPacker(options).pack(map(Encoded, names)))
    first: RowPacker[Encoded] = RowPacker(options)
    before = named(islice(first.pack(map(Encoded, names)), 2))
    state = first.state_dict(save=lambda sample: sample.name)
    second: RowPacker[Encoded] = RowPacker(options)
    second.load_state_dict(state, restore=Encoded)
    assert before + named(second.pack(map(Encoded, names[second.num_taken :]))) == wanted


@pytest.mark.parametrize("shares", [(0.6, 0.3, 0.1), (0.34, 0.33, 0.33), (0.85, 0.12, 0.03)])
def test_rows_are_full_and_ranks_even_on_a_skewed_mixture(shares: tuple[float, float, float]) -> None:
    items = list(skewed_mixture(0, 20_000, shares))
    steps = list(RowPacker(PackingOptions(max_tokens=16_384, rows_per_step=8)).pack(items))
    num_rows = sum(len(step) for step in steps)
    assert num_rows == 8 * len(steps), "a rank has no row in some step"
    assert sum(item.num_tokens for item in items) / (num_rows * 16_384) >= 0.97
    most = sum(max(tiles_of(row) for row in step) for step in steps)
    mean = sum(tiles_of(row) for step in steps for row in step) / 8
    assert most / mean <= 1.1, "the ranks wait for the one with the most tiles"


def test_rows_take_the_largest_sample_that_fits() -> None:
    items = [Item("old", 10), Item("large", 60), Item("larger", 85), Item("fits", 30), Item("small", 5)]
    (row,), *_ = RowPacker(PackingOptions(max_tokens=100)).pack(items)
    assert [item.key for item in row] == ["old", "larger", "small"]


def test_tiles_limit_a_row_before_tokens_do() -> None:
    items = [Item(0, 10, 6), Item(1, 50, 5), Item(2, 20, 4), Item(3, 40, 0)]
    rows = [row for (row,) in RowPacker(PackingOptions(max_tokens=1_000, max_tiles=10)).pack(items)]
    assert [[item.key for item in row] for row in rows] == [[0, 3, 2], [1]]


def test_no_sample_waits_for_ever() -> None:
    """An awkward sample (nothing fits beside it, and its tiles are like no other's) is not put off again and again."""
    awkward = Item("awkward", 100, 9)
    items = [awkward, *(Item(key, 10 + key % 7, 0) for key in range(4_000))]
    options = PackingOptions(max_tokens=100, window=16, rows_per_step=4, pool=2, patience=5)
    seen = next(
        index for index, step in enumerate(RowPacker(options).pack(items)) if any(awkward in row for row in step)
    )
    assert seen == 5


def test_the_last_step_has_work_for_every_rank() -> None:
    items = [Item(key, 10, 1) for key in range(5)]
    steps = list(RowPacker(PackingOptions(max_tokens=100, rows_per_step=4)).pack(items))
    assert sorted(len(row) for row in steps[0]) == [1, 1, 1, 2]
    few = list(RowPacker(PackingOptions(max_tokens=100, rows_per_step=4)).pack(items[:3]))
    assert [[len(row) for row in step] for step in few] == [[1, 1, 1]]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            Item("shop/7", 101, 0),
            "sample shop/7 has 101 tokens, but a row of the packing may have 100; raise its max_tokens",
        ),
        (Item(3, 10, 6), "sample 3 has 6 tiles, but a row of the packing may have 5; raise its max_tiles"),
    ],
)
def test_a_sample_that_no_row_can_hold(item: Item, message: str) -> None:
    packer: RowPacker[Item] = RowPacker(PackingOptions(max_tokens=100, max_tiles=5))
    with pytest.raises(DataError, match=message):
        packer.add(item)
    assert packer.num_taken == 0


@pytest.mark.parametrize("name", ["max_tokens", "max_tiles", "window", "rows_per_step", "pool", "patience"])
def test_options_out_of_range(name: str) -> None:
    with pytest.raises(ConfigError, match=f"packing: {name} is 0"):
        PackingOptions(**{"max_tokens": 10, name: 0})
