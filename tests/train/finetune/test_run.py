"""A run from start to end: it goes on where it stopped, keeps the best, and refuses to mix two runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.train.finetune.conftest import QUICK, RANK, llava, make_options, make_prepared, write

from nvila.adapters import store
from nvila.errors import ConfigError
from nvila.train import stages
from nvila.train.finetune.evaluate import Score, best_file, best_of, read_scores
from nvila.train.finetune.run import ADAPTER, disk_errors, run
from nvila.train.finetune.sweep import SWEEP_FILE, sweep
from nvila.train.learner import Learner

DROPOUT = "adapters.dropout=0.2"
"""So that the state of the random numbers matters."""


def files(adapter: Path) -> dict[str, torch.Tensor]:
    return load_file(adapter / store.LORA_WEIGHTS) | load_file(adapter / store.TUNED_WEIGHTS)


def test_a_run_that_stopped_ends_as_one_that_did_not(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = make_options(base, data, eval=str(data / "heldout.jsonl"), eval_every=2)
    changes = ("stage.0.steps=6", DROPOUT)
    whole = run(make_prepared(options, tmp_path / "whole", *changes), tmp_path / "whole")
    prepared = make_prepared(options, tmp_path / "parts", *changes)
    assert prepared.held_out is not None
    score = prepared.held_out.score

    def with_signal(learner: Learner, step: int, *, bf16: bool) -> Score:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return score(learner, step, bf16=bf16)

    told: list[str] = []
    monkeypatch.setattr(prepared.held_out, "score", with_signal)
    stopped = run(prepared, tmp_path / "parts", tell=told.append)
    assert stopped.adapter is None
    assert "interrupted; the same command goes on" in told[0]
    assert _logged(tmp_path / "parts") == [1, 2, 3]
    parts = run(make_prepared(options, tmp_path / "parts", *changes), tmp_path / "parts")
    assert _logged(tmp_path / "parts") == [1, 2, 3, 4, 5, 6]
    assert parts.scores == whole.scores
    assert [score.step for score in whole.scores] == [0, 2, 4, 6]
    assert parts.best == whole.best
    first, second = files(tmp_path / "whole" / ADAPTER), files(tmp_path / "parts" / ADAPTER)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_a_killed_command_goes_on(base: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sets = [part for value in (*QUICK, "stage.0.steps=200", "run.checkpoint_steps=2") for part in ("--set", value)]
    command = [sys.executable, "-m", "nvila", "finetune", str(data / "pictures.jsonl"), "--model", str(base)]
    command += ["--out", str(out), "--rank", str(RANK), "--batch", "4", *sets]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(out.glob("finetune/checkpoint-*/progress.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not (out / ADAPTER).exists()
    options = make_options(base, data, lr=None)
    prepared = make_prepared(options, out, "stage.0.steps=200", "run.checkpoint_steps=2")
    steps = len(_logged(out))
    assert 0 < steps < 200
    found = stages.last_checkpoint(out / "finetune")
    assert found is not None
    result = run(prepared, out)
    assert result.adapter is not None
    assert _logged(out)[-1] == 200


def _logged(out: Path) -> list[int]:
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry["step"] for entry in map(json.loads, lines) if "loss" in entry]


def test_checkpoints_hold_what_learns_and_no_more(base: Path, data: Path, tmp_path: Path) -> None:
    run(make_prepared(make_options(base, data), tmp_path, "stage.0.steps=1"), tmp_path)
    (checkpoint,) = tmp_path.glob("finetune/checkpoint-*/model.safetensors")
    names = load_file(checkpoint).keys()
    assert names == load_file(tmp_path / "finetune" / stages.FINAL_FILE).keys()
    assert all(".lora_" in name or ".layer_norm" in name or "mm_projector" in name for name in names)


def test_a_finished_run_is_not_run_again(base: Path, data: Path, tmp_path: Path) -> None:
    prepared = make_prepared(make_options(base, data), tmp_path, "stage.0.steps=1")
    run(prepared, tmp_path)
    logged = _logged(tmp_path)
    before = files(tmp_path / ADAPTER)
    told: list[str] = []
    again = run(make_prepared(make_options(base, data), tmp_path, "stage.0.steps=1", tell=told.append), tmp_path)
    assert again.adapter == tmp_path / ADAPTER
    assert _logged(tmp_path) == logged
    assert all(torch.equal(before[name], tensor) for name, tensor in files(again.adapter).items())


def test_a_run_of_other_settings_is_not_gone_on_with(base: Path, data: Path, tmp_path: Path) -> None:
    run(make_prepared(make_options(base, data), tmp_path, "stage.0.steps=1"), tmp_path)
    other = make_prepared(make_options(base, data, lr=1e-3), tmp_path, "stage.0.steps=1")
    with pytest.raises(ConfigError, match=r"holds a run of other settings \(learning_rate = 0.005, and now .* 0.001\)"):
        run(other, tmp_path)


def test_rates_follow_the_ratio(base: Path, data: Path, tmp_path: Path) -> None:
    (stage,) = make_prepared(make_options(base, data, lr=1e-3, lr_ratio=50.0), tmp_path).recipe.stage
    assert stage.learning_rate == 1e-3
    assert stage.part_learning_rates == {"vision": pytest.approx(2e-5)}


def test_fewer_tiles_in_training_are_fewer_afterwards(base: Path, data: Path, tmp_path: Path) -> None:
    many = make_prepared(make_options(base, data), tmp_path / "many").looked.survey
    prepared = make_prepared(make_options(base, data, max_tiles=1), tmp_path / "few", "stage.0.steps=1")
    result = run(prepared, tmp_path / "few")
    assert prepared.looked.survey.most_tiles == 1 < many.most_tiles
    assert result.adapter is not None
    assert store.read_card(result.adapter).visual == {"max_tiles": 1}


def test_the_best_step_is_kept(base: Path, data: Path, tmp_path: Path) -> None:
    records = [llava(f"q{number}", f"{number}.png", ("Which colour?", "ZZZZ")) for number in range(3)]
    unlike = write(data / "unlike.jsonl", records)  # of which the training leads away
    options = make_options(base, data, eval=str(unlike), eval_every=1, lr=0.03, best_by="loss")
    result = run(make_prepared(options, tmp_path, "stage.0.steps=4"), tmp_path)
    assert result.best is not None
    assert result.best.loss == min(score.loss for score in result.scores if score.step > 0)
    assert result.best.step < 4
    (path,) = tmp_path.glob("finetune/best-*")
    assert path == best_file(tmp_path / "finetune", result.best.step)
    kept = load_file(path)
    adapter = files(tmp_path / ADAPTER)
    assert _logged(tmp_path) == [1, 2, 3, 4]
    name = "mm_projector.layers.1.weight"
    assert torch.equal(kept[f"model.{name}"], adapter[name])
    last = load_file(tmp_path / "finetune" / stages.FINAL_FILE)
    assert not torch.equal(last[f"model.{name}"], adapter[name])
    assert store.read_card(tmp_path / ADAPTER).scores["step"] == result.best.step


def test_scores_rank_by_the_one_asked_for_and_then_by_the_other() -> None:
    scores = [
        Score(step=0, exact=1.0, loss=0.1),
        Score(step=1, exact=0.5, loss=2.0),
        Score(step=2, exact=0.5, loss=1.0),
    ]
    scores += [Score(step=3, exact=0.4, loss=0.5)]
    exact, loss = best_of(scores, "exact"), best_of(scores, "loss")
    assert (exact and exact.step, loss and loss.step) == (2, 3)
    assert best_of(scores[:1], "exact") is None


def test_a_sweep_keeps_the_best_ratio(base: Path, data: Path, tmp_path: Path) -> None:
    options = make_options(base, data, eval=str(data / "heldout.jsonl"), eval_every=2, best_by="loss")
    prepared = make_prepared(options, tmp_path, "stage.0.steps=2")
    found = sweep(prepared, (1.0, 50.0), tmp_path)
    assert [row.ratio for row in found.rows] == [1.0, 50.0]
    assert found.rows[0].before == found.rows[1].before
    assert found.rows[0].best != found.rows[1].best
    assert found.best is not None
    assert found.best.best.loss == min(row.best.loss for row in found.rows)
    kept = files(tmp_path / f"ratio-{found.best.ratio:g}" / ADAPTER)
    assert all(torch.equal(kept[name], tensor) for name, tensor in files(tmp_path / ADAPTER).items())
    assert json.loads((tmp_path / SWEEP_FILE).read_text())["best_ratio"] == found.best.ratio
    assert len(found.text().splitlines()) == 3


def test_a_sweep_needs_scores_and_a_tower_that_learns(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --eval DATA"):
        sweep(make_prepared(make_options(base, data), tmp_path), (1.0,), tmp_path)
    options = make_options(base, data, eval=str(data / "heldout.jsonl"), vision="frozen")
    with pytest.raises(ConfigError, match="--vision is frozen"):
        sweep(make_prepared(options, tmp_path), (1.0,), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_damaged_scores_are_named(tmp_path: Path) -> None:
    assert read_scores(tmp_path) == []
    (tmp_path / "scores.json").write_text('[{"step": 1}]')
    with pytest.raises(ValueError, match=r"scores\.json: is damaged"):
        read_scores(tmp_path)


def test_a_full_disk_is_one_error_and_a_bug_stays_a_bug(tmp_path: Path) -> None:
    full = "[enforce fail at inline_container.cc:672] . unexpected pos 3582784 vs 3582676"
    with pytest.raises(ConfigError, match=r"a checkpoint cannot be written .* are free"), disk_errors(tmp_path):
        raise RuntimeError(full)
    with pytest.raises(RuntimeError, match="shape"), disk_errors(tmp_path):
        raise RuntimeError("shape mismatch")
