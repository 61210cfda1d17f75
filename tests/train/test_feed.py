"""Batches of a mixture: the same whatever the workers and ranks, every sample once, resumed where a run stopped."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.conftest import Backbones
from transformers import AutoTokenizer

from nvila import config as config_files
from nvila.data.encode import SampleEncoder
from nvila.data.mixture import Mixture, MixtureConfig
from nvila.errors import ConfigError, DataError
from nvila.layouts import VisualSettings
from nvila.train.feed import MixtureFeed
from nvila.train.recipe import Batches
from nvila.train.stages import encode_options
from nvila.train.start import build_processor

VISUAL = VisualSettings(image_mode="dynamic", tile_size=28, patch_size=7, max_tiles=4)
PACKED = Batches(global_batch=8, max_tokens=256, rows_per_step=4, window=16)
PADDED = Batches(global_batch=4, pack=False, micro_batch=2, max_tokens=256)


@pytest.fixture
def opened(mixture: Path) -> Mixture:
    return Mixture.open(config_files.load(MixtureConfig, mixture))


def make_feed(mixture: Mixture, backbones: Backbones, batches: Batches, **kwargs: Any) -> MixtureFeed:
    tokenizer = AutoTokenizer.from_pretrained(backbones.language)
    encoder = SampleEncoder(build_processor(VISUAL, tokenizer), encode_options(batches))
    return MixtureFeed(mixture, encoder, batches, seed=5, name="one", pad_id=tokenizer.pad_token_id, **kwargs)


def ids(batch: dict[str, Any]) -> list[str]:
    return [note.id for note in batch["notes"].samples]


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[key]), key
        elif key != "notes":
            assert value == other[key], key
    assert ids(one) == ids(other)


@pytest.mark.parametrize("batches", [PACKED, PADDED], ids=["packed", "padded"])
def test_workers_change_nothing(batches: Batches, opened: Mixture, backbones: Backbones) -> None:
    plain = islice(make_feed(opened, backbones, batches).loader(0), 12)
    worked = islice(make_feed(opened, backbones, batches).loader(2), 12)
    for one, other in zip(plain, worked, strict=True):
        assert_equal(one, other)


@pytest.mark.parametrize("batches", [PACKED, PADDED], ids=["packed", "padded"])
def test_two_ranks_share_the_rows_of_one(batches: Batches, opened: Mixture, backbones: Backbones) -> None:
    alone = make_feed(opened, backbones, batches)
    ranks = [make_feed(opened, backbones, batches, rank=rank, world_size=2) for rank in range(2)]
    assert [rank.num_micro_batches * 2 for rank in ranks] == [alone.num_micro_batches] * 2
    for _, one, first, second in zip(range(5), _steps(alone), *(_steps(rank) for rank in ranks), strict=False):
        assert sorted(one) == sorted(first + second)


def _steps(feed: MixtureFeed) -> Any:
    """The ids of each step."""
    return _regroup(iter(feed.loader(0)), feed.num_micro_batches)


def test_every_sample_comes_once_an_epoch(opened: Mixture, backbones: Backbones) -> None:
    seen: list[str] = []
    for batch in make_feed(opened, backbones, PADDED).loader(0):
        seen += ids(batch)
        if len(seen) >= 3 * 82:
            break
    # The window and the pool move samples over the border of an epoch, but drop and double none.
    assert {seen.count(name) for name in set(seen)} <= {2, 3, 4}
    assert len(set(seen)) == 82


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_resumed_feed_goes_on_as_if_nothing_had_happened(
    world_size: int, opened: Mixture, backbones: Backbones
) -> None:
    """Another number of ranks goes on with the same rows."""
    whole = make_feed(opened, backbones, PACKED)
    batches = iter(whole.loader(0))
    for _ in range(3 * whole.num_micro_batches):
        next(batches)
    state = json.loads(json.dumps(whole.state_dict(3)))
    expected = [sorted(step) for step in islice(_regroup(batches, whole.num_micro_batches), 4)]
    resumed = [make_feed(opened, backbones, PACKED, rank=rank, world_size=world_size) for rank in range(world_size)]
    for feed in resumed:
        feed.load_state_dict(state)
    steps = list(zip(*(islice(_steps(feed), 4) for feed in resumed), strict=True))
    assert [sorted(chain.from_iterable(parts)) for parts in steps] == expected


def _regroup(batches: Any, count: int) -> Any:
    while True:
        yield [name for batch in islice(batches, count) for name in ids(batch)]


def test_rows_hold_what_a_step_should(opened: Mixture, backbones: Backbones) -> None:
    """Without a number of rows, a step has about `global_batch` samples."""
    feed = make_feed(opened, backbones, replace(PACKED, rows_per_step=0, global_batch=24))
    counts = [len(step) for step in islice(_steps(feed), 6)]
    assert 12 <= sum(counts) / len(counts) <= 48
    with pytest.raises(ConfigError, match="4 rows, which 3 ranks"):
        make_feed(opened, backbones, PACKED, world_size=3)


def test_a_picture_that_is_broken_is_replaced_and_counted(mixture: Path, backbones: Backbones, tmp_path: Path) -> None:
    """Its header is sound, so that only the encoding finds it."""
    root = tmp_path / "copy"
    shutil.copytree(mixture.parent, root)
    text = mixture.read_text(encoding="utf-8").replace(str(mixture.parent), str(root))
    (root / "mixture.toml").write_text(text, encoding="utf-8")
    data = bytearray((root / "3.png").read_bytes())
    data[-30] ^= 0xFF
    (root / "3.png").write_bytes(data)
    opened = Mixture.open(config_files.load(MixtureConfig, root / "mixture.toml"))
    feed = make_feed(opened, backbones, PADDED)
    seen = [name for step in islice(_steps(feed), 50) for name in step]
    assert "p4" in seen
    assert "p3" not in seen
    assert feed.tally.num_broken[0] > 0
    assert feed.tally.num_broken[1:] == [0, 0]
    for number in range(40):
        (root / f"{number}.png").write_bytes(data[:60])
    with pytest.raises(DataError, match="pictures"):
        list(islice(_steps(make_feed(opened, backbones, PADDED)), 20))
