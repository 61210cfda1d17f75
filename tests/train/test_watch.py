"""The watch stops what is broken, names the samples, and leaves noisy trainings alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from nvila.errors import ConfigError, DataError
from nvila.train.notes import SampleNote
from nvila.train.watch import LossWatch

SAMPLES = [SampleNote(id=f"page-{number}", source="documents") for number in range(3)]


def decaying(seed: int, num_steps: int) -> np.ndarray:
    """A power law from about 9 to 1, times log-normal noise, with one step in fifty 2 to 30 times too high."""
    rng = np.random.default_rng(seed)
    steps = np.arange(num_steps)
    curve = 1.0 + 8.0 * (1.0 + steps / 50) ** -0.5
    tails = np.where(rng.random(num_steps) < 0.02, rng.uniform(2, 30, num_steps), 1.0)
    return curve * np.exp(0.15 * rng.standard_t(3, num_steps).clip(-15, 15)) * tails


def feed(watch: LossWatch, losses: np.ndarray, first: int = 1) -> None:
    for step, loss in enumerate(losses.tolist(), first):
        watch.observe(step, loss, 1.0, SAMPLES)


@pytest.mark.parametrize("seed", range(4))
def test_no_alarm_on_noisy_decaying_losses(tmp_path: Path, seed: int) -> None:
    feed(LossWatch(tmp_path), decaying(seed, 10_000))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seed", range(4))
def test_no_alarm_when_a_quarter_of_the_steps_becomes_much_harder(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    easy, hard = rng.normal(0.5, 0.03, 10_000), rng.normal(5.0, 0.3, 10_000)
    is_hard = (rng.random(10_000) < 0.25) & (np.arange(10_000) > 300)
    feed(LossWatch(tmp_path), np.where(is_hard, hard, easy))


def test_no_alarm_on_losses_that_are_equal_or_nothing(tmp_path: Path) -> None:
    watch = LossWatch(tmp_path)
    feed(watch, np.concatenate([np.full(300, 2.0), np.full(300, 2.1), np.zeros(300)]))


@pytest.mark.parametrize("seed", range(8))
def test_a_tenfold_jump_is_found_within_patience(tmp_path: Path, seed: int) -> None:
    losses = decaying(seed, 2000)
    watch = LossWatch(tmp_path, patience=3)
    feed(watch, losses[:1500])
    jump = 10.0 * np.median(losses[1400:1500])
    watch.observe(1501, jump, 1.0, SAMPLES)
    watch.observe(1502, jump, 1.0, SAMPLES)
    with pytest.raises(DataError, match=r"step 1503: the loss is .* times its running median .* for 3 steps in a row"):
        watch.observe(1503, jump, 1.0, SAMPLES)


def test_a_spike_shorter_than_patience_passes(tmp_path: Path) -> None:
    watch = LossWatch(tmp_path, patience=3)
    for first in range(1, 2000, 102):
        feed(watch, np.array([*[2.0] * 100, 40.0, 40.0]), first)


def test_nothing_is_a_spike_during_warmup(tmp_path: Path) -> None:
    feed(LossWatch(tmp_path, warmup=50, patience=2), np.array([*[1.0] * 49, *[50.0] * 2]))
    with pytest.raises(DataError, match="step 52"):
        feed(LossWatch(tmp_path, warmup=50, patience=2), np.array([*[1.0] * 50, *[50.0] * 2]))


@pytest.mark.parametrize(
    ("loss", "grad_norm", "said"),
    [
        (math.nan, 1.0, "the loss is nan"),
        (math.inf, None, "the loss is inf"),
        (2.5, math.nan, r"the gradient norm is nan \(the loss is 2.5\)"),
        (2.5, math.inf, "the gradient norm is inf"),
    ],
)
def test_numbers_that_are_not_finite_stop_at_once(
    tmp_path: Path, loss: float, grad_norm: float | None, said: str
) -> None:
    watch = LossWatch(tmp_path)
    watch.observe(1, 3.0, None, SAMPLES)
    with pytest.raises(DataError, match=rf"step 2: {said}.*, its running median 3\."):
        watch.observe(2, loss, grad_norm, SAMPLES)


def test_the_samples_are_named_and_written_down_first(tmp_path: Path) -> None:
    watch = LossWatch(tmp_path, patience=2)
    watch.observe(6, 2.0, 0.5, [SampleNote(id="before", source="charts")])
    many = [SampleNote(id=f"s{number}", source="charts") for number in range(20)]
    with pytest.raises(DataError) as caught:
        watch.observe(7, math.nan, math.inf, many)
    message = str(caught.value)
    assert "'s0' (charts), 's1' (charts)" in message
    assert "'s8'" not in message
    assert "and 12 more" in message
    assert str(tmp_path / "bad_batch.json") in message
    assert "\n" not in message
    report = json.loads((tmp_path / "bad_batch.json").read_text(encoding="utf-8"))
    assert (report["step"], report["median"]) == (7, 2.0)
    assert [batch["step"] for batch in report["batches"]] == [6, 7]
    assert report["batches"][0] == {
        "step": 6,
        "loss": 2.0,
        "grad_norm": 0.5,
        "samples": [{"id": "before", "source": "charts"}],
    }
    assert (report["batches"][1]["loss"], report["batches"][1]["grad_norm"]) == ("nan", "inf")
    assert len(report["batches"][1]["samples"]) == 20


def test_a_spike_is_written_with_all_its_steps_and_the_one_before(tmp_path: Path) -> None:
    watch = LossWatch(tmp_path, patience=3, warmup=10)
    with pytest.raises(DataError):
        feed(watch, np.array([1.0] * 20 + [30.0] * 3))
    batches = json.loads((tmp_path / "bad_batch.json").read_text(encoding="utf-8"))["batches"]
    assert [(batch["step"], batch["loss"]) for batch in batches] == [(20, 1.0), (21, 30.0), (22, 30.0), (23, 30.0)]


def test_ranks_write_files_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"bad_batch\.rank2\.json"):
        LossWatch(tmp_path, rank=2).observe(1, math.nan, None, [])
    assert (tmp_path / "bad_batch.rank2.json").exists()


def test_a_folder_that_cannot_be_written_does_not_hide_the_reason(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file", encoding="utf-8")
    with pytest.raises(DataError, match=r"the loss is nan.*bad_batch\.json.*cannot be written"):
        LossWatch(tmp_path / "run").observe(1, math.nan, None, SAMPLES)


@pytest.mark.parametrize(
    "options", [{"ratio": 1.0}, {"patience": 0}, {"zscore": 0.0}, {"window": 50}, {"warmup": 0}], ids=str
)
def test_options_that_cannot_work_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=str(next(iter(options.values())))):
        LossWatch(tmp_path, **options)
