"""The stream: complete over ranks and workers, the same with any number of workers, and exact when it goes on."""

from __future__ import annotations

import itertools
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.data.mixture.fakes import FakeSource, identify, make_mixture, small_mixture

from nvila.data.mixture import Mixture, MixtureStream, merge_states
from nvila.errors import ConfigError, DataError, MediaError
from nvila.types import Sample

# More workers than the cores of a small machine, on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def stream(mixture: Mixture, **options: Any) -> MixtureStream[str]:
    return MixtureStream(mixture, identify, **{"seed": 3, **options})


def take(source: MixtureStream[str], count: int) -> list[str]:
    return list(itertools.islice(source, count))


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(state))


def test_ranks_and_workers_together_give_the_epoch() -> None:
    mixture = small_mixture()
    whole = list(stream(mixture, num_epochs=2))
    assert len(whole) == 2 * mixture.samples_per_epoch
    for world_size, num_workers in ((2, 3), (3, 2)):
        shares = [
            list(stream(mixture, num_epochs=2, rank=rank, world_size=world_size, num_workers=num_workers))
            for rank in range(world_size)
        ]
        assert [whole[rank::world_size] for rank in range(world_size)] == shares


def test_more_ranks_and_workers_than_samples() -> None:
    mixture = make_mixture([FakeSource("a", 3)])
    shares = [list(stream(mixture, num_epochs=1, rank=rank, world_size=5, num_workers=2)) for rank in range(5)]
    assert sorted(itertools.chain(*shares)) == ["a/0", "a/1", "a/2"]


def test_iterating_goes_on_where_it_stopped() -> None:
    mixture = small_mixture()
    whole = take(stream(mixture), 100)
    source = stream(mixture)
    assert take(source, 30) + take(source, 70) == whole
    assert source.position == 100
    assert source.epoch == 1


def test_draws_tell_positions_that_can_be_read_again() -> None:
    source = stream(small_mixture(), rank=1, world_size=2)
    for draw in itertools.islice(source.draws(), 60):
        assert source.read(draw.position) == draw
    assert source.position == 1 + 60 * 2


@pytest.mark.parametrize("consumed", [0, 1, 17, 26, 27, 60])
@pytest.mark.parametrize("num_workers", [0, 3])
def test_a_resumed_rank_goes_on_exactly(consumed: int, num_workers: int) -> None:
    mixture = small_mixture()
    for rank in range(2):
        whole = take(stream(mixture, rank=rank, world_size=2), 90)
        first = stream(mixture, rank=rank, world_size=2, num_workers=num_workers)
        assert take(first, consumed) == whole[:consumed]
        state = through_json(first.state_dict())
        resumed = stream(mixture, rank=rank, world_size=2, num_workers=2 if num_workers == 0 else 1)
        resumed.load_state_dict(state)
        assert take(resumed, 90 - consumed) == whole[consumed:]


def test_the_state_of_one_rank_speaks_for_all_in_step() -> None:
    mixture = small_mixture()
    first = stream(mixture, rank=0, world_size=3)
    take(first, 11)
    for rank in range(3):
        resumed = stream(mixture, rank=rank, world_size=3)
        resumed.load_state_dict(first.state_dict())
        assert take(resumed, 20) == take(stream(mixture, rank=rank, world_size=3), 31)[11:]


@pytest.mark.parametrize("worlds", [(2, 3), (4, 1), (1, 4), (3, 8, 2)])
def test_another_world_size_loses_and_repeats_nothing(worlds: tuple[int, ...]) -> None:
    mixture = small_mixture()
    state, seen = None, []
    for world_size in worlds:
        ranks = [stream(mixture, num_epochs=1, rank=rank, world_size=world_size) for rank in range(world_size)]
        for rank in ranks:
            if state is not None:
                rank.load_state_dict(state)
        last = world_size == worlds[-1]
        for rank in ranks:
            seen += list(rank) if last else take(rank, 3)
        state = through_json(ranks[0].state_dict())
    assert Counter(seen) == Counter(stream(mixture, num_epochs=1))


@pytest.mark.parametrize("worlds", [((2, 7, 0), (1, 0, 5, 2), (100, 100)), ((0, 15, 0), (1, 0), (100,) * 5)])
def test_ranks_out_of_step_are_merged(worlds: tuple[tuple[int, ...], ...]) -> None:
    """Ranks that pack rows hand out unequal numbers of samples; twice another world size, nothing lost or repeated."""
    mixture = small_mixture()
    states: list[dict[str, Any]] = []
    seen: list[str] = []
    for consumed in worlds:
        world_size = len(consumed)
        ranks = [stream(mixture, num_epochs=1, rank=rank, world_size=world_size) for rank in range(world_size)]
        for rank, count in zip(ranks, consumed, strict=True):
            if states:
                rank.load_state_dict(merge_states(states))
            seen += take(rank, count)
        states = [through_json(rank.state_dict()) for rank in reversed(ranks)]
    assert Counter(seen) == Counter(stream(mixture, num_epochs=1))


def test_a_merged_state_leaves_each_rank_its_own() -> None:
    mixture = small_mixture()
    ranks = [stream(mixture, rank=rank, world_size=2) for rank in range(2)]
    for rank, count in zip(ranks, (3, 9), strict=True):
        take(rank, count)
    merged = merge_states([rank.state_dict() for rank in ranks])
    for number, count in enumerate((3, 9)):
        resumed = stream(mixture, rank=number, world_size=2, num_workers=2)
        resumed.load_state_dict(merged)
        assert take(resumed, 40) == take(stream(mixture, rank=number, world_size=2), count + 40)[count:]


def test_states_that_do_not_fit_are_refused() -> None:
    mixture = small_mixture()
    states = [stream(mixture, rank=rank, world_size=3).state_dict() for rank in range(3)]
    with pytest.raises(ConfigError, match=r"seed 4, but the mixture 'test' has 3"):
        stream(mixture).load_state_dict(stream(mixture, seed=4).state_dict())
    other = make_mixture([FakeSource("a", 20)])
    with pytest.raises(ConfigError, match=r"has fingerprint \w+, but the mixture 'test' has \w+; resume with"):
        stream(other).load_state_dict(states[0])
    with pytest.raises(ConfigError, match=r"of the ranks 0, 1 \(2 states\), but the world has 3 ranks"):
        merge_states(states[:2])
    with pytest.raises(ConfigError, match=r"of the ranks 0, 1 \(3 states\)"):
        merge_states([states[0], states[1], states[1]])
    with pytest.raises(ConfigError, match=r"differ in 'world_size' \(2 and 3\)"):
        merge_states([states[0], stream(mixture, rank=1, world_size=2).state_dict()])
    with pytest.raises(ConfigError, match="has no 'fingerprint'"):
        stream(mixture).load_state_dict({"epoch": 1})
    with pytest.raises(ConfigError, match="no state to merge"):
        merge_states([])


def test_a_rank_outside_the_world_is_refused() -> None:
    with pytest.raises(ConfigError, match="rank 2 is not in a world of 2 ranks; give 0 to 1"):
        stream(small_mixture(), rank=2, world_size=2)


def test_the_stream_leaves_the_training_s_random_numbers_alone() -> None:
    source = stream(small_mixture(), num_workers=1)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    take(source, 3)
    assert torch.equal(torch.rand(3), expected)


def test_a_stream_can_be_sent_to_another_process() -> None:
    source = stream(small_mixture())
    take(source, 5)
    assert take(pickle.loads(pickle.dumps(source)), 20) == take(stream(small_mixture()), 25)[5:]


BROKEN = FakeSource("a", 200, broken=frozenset({5, 77, 78}))


def test_broken_samples_are_replaced_alike_everywhere(caplog: pytest.LogCaptureFixture) -> None:
    mixture = make_mixture([BROKEN, FakeSource("b", 30)])
    whole = list(stream(mixture, num_epochs=1))
    good = list(stream(make_mixture([FakeSource("a", 200), FakeSource("b", 30)]), num_epochs=1))
    replaced = {before: after for before, after in zip(good, whole, strict=True) if before != after}
    assert set(replaced) == {"a/5", "a/77", "a/78"}
    assert all(after.startswith("a/") for after in replaced.values())
    shares = [list(stream(mixture, num_epochs=1, rank=rank, world_size=2, num_workers=2)) for rank in range(2)]
    assert [whole[0::2], whole[1::2]] == shares
    # The same stand-in in every epoch, whatever the position.
    with caplog.at_level(logging.ERROR):
        long = stream(mixture, num_epochs=3)
        list(long)
    assert long.tally.num_broken[0] >= 9


def test_a_broken_sample_is_logged_once_with_its_place(caplog: pytest.LogCaptureFixture) -> None:
    source = stream(make_mixture([BROKEN]), num_epochs=4, num_workers=2)
    with caplog.at_level(logging.WARNING, logger="nvila"):
        list(source)
    places = [record.getMessage() for record in caplog.records]
    assert len(places) == 3
    assert any("a: broken sample at a.jsonl:6, replaced by another" in place for place in places)
    assert source.tally.num_broken == [source.tally.num_read[0] - 4 * 200]


def test_counts_of_broken_samples_are_resumed() -> None:
    mixture = make_mixture([BROKEN])
    whole = stream(mixture, num_epochs=2)
    list(whole)
    first = stream(mixture, num_epochs=2)
    take(first, 210)
    resumed = stream(mixture, num_epochs=2, num_workers=2)
    resumed.load_state_dict(through_json(first.state_dict()))
    list(resumed)
    assert resumed.tally.state_dict() == whole.tally.state_dict()


def test_counts_survive_another_world_size() -> None:
    mixture = make_mixture([BROKEN])
    ranks = [stream(mixture, rank=rank, world_size=2) for rank in range(2)]
    for rank in ranks:
        take(rank, 100)
    merged = merge_states([rank.state_dict() for rank in ranks])
    resumed = [stream(mixture, rank=rank, world_size=3) for rank in range(3)]
    for rank in resumed:
        rank.load_state_dict(merged)
    assert sum(rank.tally.num_broken[0] for rank in resumed) == sum(rank.tally.num_broken[0] for rank in ranks) >= 3


def test_too_many_broken_samples_stop_the_stream() -> None:
    bad = FakeSource("bad", 1000, broken=frozenset(range(0, 1000, 10)))
    mixture = make_mixture([FakeSource("good", 1000), bad])
    with pytest.raises(DataError, match=r"source 'bad': (\d+) of \d+ samples read are broken, more than the 5.0%"):
        list(stream(mixture, num_epochs=1, num_workers=2))
    lenient = make_mixture([FakeSource("good", 1000), bad], max_broken_share=0.2)
    assert len(list(stream(lenient, num_epochs=1))) == 2000


def test_no_broken_sample_may_be_allowed() -> None:
    with pytest.raises(DataError, match=r"1 of \d+ samples read are broken, more than the 0.0%"):
        list(stream(make_mixture([BROKEN], max_broken_share=0.0), num_epochs=1))


@pytest.mark.parametrize("size", [1, 7])
def test_a_source_without_a_good_sample_stops_the_stream(size: int) -> None:
    mixture = make_mixture([FakeSource("bad", size, broken=frozenset(range(size)))])
    with pytest.raises(DataError, match=rf"source 'bad': none of {size} samples tried .* the last is bad.jsonl:\d"):
        list(stream(mixture, num_epochs=1))


def undecodable(sample: Sample) -> str:
    """A transform that fails on one sample's picture, and on another in a way that is no fault of the sample."""
    if sample.id == "a/3":
        raise MediaError("a.png is truncated")
    if sample.id == "a/1001":
        raise RuntimeError("a bug")
    return sample.id


def test_errors_of_the_transform_count_too_but_bugs_are_not_swallowed() -> None:
    source = MixtureStream(make_mixture([FakeSource("a", 200)]), undecodable, seed=1, num_epochs=1)
    assert "a/3" not in list(source)
    assert source.tally.num_broken == [1]
    bug = MixtureStream(make_mixture([FakeSource("a", 1002)]), undecodable, seed=1, num_epochs=1)
    with pytest.raises(RuntimeError, match="a bug"):
        list(bug)


TRAINING = """
import json, sys, time
from pathlib import Path
from tests.data.mixture.fakes import identify, small_mixture
from nvila.data.mixture import MixtureStream
from nvila.utils.atomic import atomic_write_text

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
stream = MixtureStream(small_mixture(), identify, seed=3, rank=rank, world_size=2, num_workers=2)
seen = []
for step, name in enumerate(stream, start=1):
    seen.append(name)
    if step % 3 == 0:
        atomic_write_text(folder / f"rank{rank}.json", json.dumps({"seen": seen, "state": stream.state_dict()}))
    time.sleep(0.005)
"""
NUM_EPOCHS = 60


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, root: Path) -> list[dict[str, Any]]:
    """What two ranks had saved, each with what it had seen, when they were killed at some moment."""
    folder = tmp_path_factory.mktemp("killed")
    files = [folder / f"rank{rank}.json" for rank in range(2)]
    command = [sys.executable, "-c", TRAINING, str(folder)]
    ranks = [subprocess.Popen([*command, str(rank)], cwd=root, start_new_session=True) for rank in range(2)]
    try:
        deadline = time.monotonic() + 120
        while not all(file.is_file() for file in files):
            assert all(rank.poll() is None for rank in ranks), "a rank ended by itself"
            assert time.monotonic() < deadline, "the ranks do not start"
            time.sleep(0.02)
    finally:
        for rank in ranks:
            if rank.poll() is None:
                os.killpg(rank.pid, signal.SIGKILL)  # its workers too
            rank.wait()
    return [json.loads(file.read_text()) for file in files]


def test_killed_ranks_go_on_as_if_never_stopped(killed: list[dict[str, Any]]) -> None:
    mixture = small_mixture()
    for rank, saved in enumerate(killed):
        resumed = stream(mixture, rank=rank, world_size=2, num_workers=3, num_epochs=NUM_EPOCHS)
        resumed.load_state_dict(saved["state"])
        uninterrupted = list(stream(mixture, rank=rank, world_size=2, num_epochs=NUM_EPOCHS))
        assert saved["seen"] + list(resumed) == uninterrupted


def test_killed_ranks_go_on_in_another_world(killed: list[dict[str, Any]]) -> None:
    mixture = small_mixture()
    seen = Counter(itertools.chain(*(saved["seen"] for saved in killed)))
    for rank in range(3):
        resumed = stream(mixture, rank=rank, world_size=3, num_workers=2, num_epochs=NUM_EPOCHS)
        resumed.load_state_dict(merge_states([saved["state"] for saved in killed]))
        seen.update(resumed)
    assert seen == Counter(stream(mixture, num_epochs=NUM_EPOCHS))
