"""`loss.png` shows what the log says, also a log that a kill left behind."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nvila.errors import DataError
from nvila.train.curves import RATES, SIZE, SMOOTH, Colour, loss_axis, read_stages, smoothed, write_curves


def log_of(path: Path, entries: list[dict[str, Any]], tail: str = "") -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + tail, encoding="utf-8")
    return path


def stage(name: str, losses: list[float], **more: float) -> list[dict[str, Any]]:
    return [{"stage": name, "step": step, "time": 0.0, "loss": loss, **more} for step, loss in enumerate(losses, 1)]


def heights(path: Path, colour: Colour, rows: slice) -> dict[int, float]:
    """The mean row of the pixels of `colour`, by column, within `rows`."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    near = np.abs(pixels - np.array(colour)).sum(axis=2) < 40
    found = {x: np.flatnonzero(near[rows, x]) for x in range(80, SIZE[0])}
    return {x: float(ys.mean()) + rows.start for x, ys in found.items() if len(ys)}


LOSSES, RATE_ROWS = slice(45, 412), slice(460, 590)


def test_a_falling_loss_falls_from_corner_to_corner(tmp_path: Path) -> None:
    metrics = log_of(tmp_path / "metrics.jsonl", stage("align", [8.0 - 0.06 * step for step in range(100)]))
    write_curves(metrics, tmp_path / "loss.png")
    assert Image.open(tmp_path / "loss.png").size == SIZE
    curve = heights(tmp_path / "loss.png", SMOOTH, LOSSES)
    ys = [curve[x] for x in sorted(curve)]
    assert len(ys) > 800
    assert all(later >= earlier - 1 for earlier, later in pairwise(ys))
    assert ys[0] < 75
    assert ys[-1] > 370


@pytest.mark.parametrize("levels", [(1.0, 2.0, 3.0), (1.0, 10.0, 100.0)], ids=["even", "by logarithm"])
def test_the_middle_level_lies_in_the_middle(tmp_path: Path, levels: tuple[float, float, float]) -> None:
    entries = [entry for name, level in zip("abc", levels, strict=True) for entry in stage(name, [level] * 60)]
    write_curves(log_of(tmp_path / "metrics.jsonl", entries), tmp_path / "loss.png")
    curve = heights(tmp_path / "loss.png", SMOOTH, LOSSES)
    third = (SIZE[0] - 105) / 3
    low, middle, high = (curve[round(80 + (number + 0.5) * third)] for number in range(3))
    assert low > middle > high
    assert middle == pytest.approx((low + high) / 2, abs=1.5)


def test_learning_rates_are_drawn_below_one_colour_each(tmp_path: Path) -> None:
    entries = stage("tune", [2.0] * 50, learning_rate_llm=1e-3, learning_rate_vision=5e-4)
    write_curves(log_of(tmp_path / "metrics.jsonl", entries), tmp_path / "loss.png")
    llm, vision = (heights(tmp_path / "loss.png", colour, RATE_ROWS)[500] for colour in RATES[:2])
    bottom = 585
    assert (bottom - llm) / (bottom - vision) == pytest.approx(2.0, abs=0.1)


def test_stages_follow_each_other_in_steps_of_the_run(tmp_path: Path) -> None:
    metrics = log_of(tmp_path / "m", stage("first", [3.0, 2.0]) + stage("second", [1.5]))
    first, second = read_stages(metrics)
    assert (first.name, first.end, first.losses) == ("first", 2, [(1.0, 3.0), (2.0, 2.0)])
    assert (second.name, second.end, second.losses) == ("second", 3, [(3.0, 1.5)])


def test_what_a_kill_and_other_entries_leave_is_passed_over(tmp_path: Path) -> None:
    entries = [
        *stage("align", [3.0, 2.0]),
        {"stage": "align", "step": 2, "time": 0.0, "heldout_words": 0.5},
        {"stage": "align", "step": 3, "loss": float("nan")},
        {"stage": "align", "step": 3, "loss": 10**400},
        {"stage": "align", "step": 3, "loss": "2.0"},
        {"stage": "align", "loss": 2.0},
        {"step": 4, "loss": 2.0},
    ]
    metrics = log_of(tmp_path / "m", entries, tail='[1]\n{"stage": "align", "step": 4, "lo')
    assert [one.losses for one in read_stages(metrics)] == [[(1.0, 3.0), (2.0, 2.0)]]
    write_curves(metrics, tmp_path / "loss.png")
    assert Image.open(tmp_path / "loss.png").size == SIZE


def test_a_restart_undoes_what_was_logged_behind_its_checkpoint(tmp_path: Path) -> None:
    before, after = stage("align", [5.0, 4.0, 9.0, 9.0]), stage("align", [5.0, 4.0, 3.0])[2:]
    (only,) = read_stages(log_of(tmp_path / "m", before + after))
    assert [loss for _, loss in only.losses] == [5.0, 4.0, 3.0]


def test_one_entry_is_a_dot(tmp_path: Path) -> None:
    write_curves(log_of(tmp_path / "m", stage("align", [2.0])), tmp_path / "loss.png")
    assert heights(tmp_path / "loss.png", SMOOTH, LOSSES)


def test_smoothing_is_unbiased_and_calms() -> None:
    rng = np.random.default_rng(0)
    noisy = [(float(step), 2.0 + rng.normal()) for step in range(5000)]
    calm = np.array([value for _, value in smoothed(noisy)])
    assert [value for _, value in smoothed([(0.0, 7.0), (1.0, 7.0)])] == pytest.approx([7.0, 7.0])
    assert abs(calm[500:].mean() - 2.0) < 0.1
    assert calm[500:].std() < 0.2


def test_the_axis_is_logarithmic_from_a_decade_on() -> None:
    assert loss_axis([0.1, 1.0]).log
    assert not loss_axis([0.2, 1.0]).log
    assert not loss_axis([0.0, 100.0]).log
    assert loss_axis([2.0, 2.0]).share(2.0) == 0.5


@pytest.mark.parametrize("content", [None, "", "no json\n", '{"stage": "a", "step": 1}\n'])
def test_without_losses_it_says_which_file(tmp_path: Path, content: str | None) -> None:
    metrics = tmp_path / "metrics.jsonl"
    if content is not None:
        metrics.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"metrics\.jsonl"):
        write_curves(metrics, tmp_path / "loss.png")
    assert not (tmp_path / "loss.png").exists()
