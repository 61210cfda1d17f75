"""Training on a mixture from published backbones: five kinds of stage, a kill, two processes, packed and padded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.train.conftest import Backbones
from transformers import SiglipVisionModel

from nvila import config as config_files
from nvila.errors import CheckpointError, ConfigError
from nvila.train import stages
from nvila.train.recipe import Batches, ModelRecipe, Recipe, Run, Stage, Visual

STAGES = {
    "projector": ("projector",),
    "vision": ("vision", "projector"),
    "pretrain": ("projector", "llm"),
    "images": ("vision", "projector", "llm"),
}
"""Table 7's stages: what each of them trains."""


def make_stage(mixture: Path, name: str = "images", **changes: Any) -> Stage:
    stage = Stage(
        name=name,
        mixture=str(mixture),
        batches=Batches(max_tokens=256, rows_per_step=4, window=16),
        train=STAGES[name],  # type: ignore[arg-type]
        steps=6,
        learning_rate=3e-3,
        weight_decay=0.0,
        schedule="cosine",
        warmup_ratio=0.2,
        final_ratio=0.0,
        dense_weight=0.0,
        loss="token",
    )
    return replace(stage, **changes)


def make_recipe(backbones: Backbones, *stage: Stage, **run: Any) -> Recipe:
    model = ModelRecipe(
        vision=str(backbones.vision), language=str(backbones.language), image_mode="dynamic", max_tiles=4
    )
    plain = {"seed": 3, "threads": 1, "workers": 0, "bf16": False, "compile": False, "log_steps": 1, "probe_samples": 0}
    return Recipe(name="tiny", stage=stage, run=Run(**{**plain, **run}), model=model)


def losses(folder: Path) -> dict[int, float]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {entry["step"]: entry["loss"] for entry in map(json.loads, lines) if "loss" in entry}


@pytest.mark.parametrize("pack", [True, False])
def test_the_loss_falls(pack: bool, backbones: Backbones, mixture: Path, tmp_path: Path) -> None:
    batches = Batches(max_tokens=256, rows_per_step=4, window=16, pack=pack, global_batch=8, micro_batch=4)
    stages.run_recipe(
        make_recipe(backbones, make_stage(mixture, batches=batches, steps=30, learning_rate=2e-2)), tmp_path
    )
    curve = losses(tmp_path)
    assert curve[1] > 5.0
    assert curve[30] < 0.6 * curve[1]


def test_a_stage_trains_its_parts_from_the_backbones(backbones: Backbones, mixture: Path, tmp_path: Path) -> None:
    recipe = make_recipe(backbones, *(make_stage(mixture, name, steps=2) for name in STAGES))
    stages.run_recipe(recipe, tmp_path)
    before = {f"model.vision_tower.vision_model.{name}": w for name, w in _tower(backbones.vision).items()}
    for name, trained in STAGES.items():
        after = load_file(tmp_path / name / stages.FINAL_FILE)
        moved = {key for key, weight in before.items() if not torch.equal(weight, after[key])}
        prefixes = {"vision": "model.vision_tower", "projector": "model.mm_projector", "llm": "model.llm"}
        allowed = tuple(prefixes[part] for part in trained)
        assert all(key.startswith(allowed) for key in moved), name
        if name != "projector":
            assert {part for part in trained if any(key.startswith(prefixes[part]) for key in moved)} == set(trained)
        before = after


def _tower(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = SiglipVisionModel.from_pretrained(folder).state_dict()
    plain = {name.removeprefix("vision_model."): weight for name, weight in state.items()}
    return {name: weight for name, weight in plain.items() if not name.startswith("head.")}


def test_accumulation_and_recomputation_change_nothing(backbones: Backbones, mixture: Path, tmp_path: Path) -> None:
    """Micro-batches of one row and of four, and layers that run twice, give the same losses."""
    one = make_stage(mixture)
    four = replace(one, batches=replace(one.batches, micro_batch=4))
    again = replace(one, gradient_checkpointing=("vision", "llm"))
    curves = []
    for number, stage in enumerate((one, four, again)):
        stages.run_recipe(make_recipe(backbones, stage), tmp_path / str(number))
        curves.append(list(losses(tmp_path / str(number)).values()))
    assert len(curves[0]) == 6
    assert curves[1] == pytest.approx(curves[0], abs=1e-5)
    assert curves[2] == pytest.approx(curves[0], abs=1e-6)


def test_the_last_stage_sets_the_visual_settings(backbones: Backbones, mixture: Path, tmp_path: Path) -> None:
    stage = make_stage(mixture, steps=1, visual=Visual(temporal_pool=4, num_video_frames=16))
    learner = stages.run_recipe(make_recipe(backbones, stage), tmp_path)
    assert learner.model.config.visual.temporal_pool == learner.model.visual.temporal_pool == 4
    assert learner.model.config.visual.num_video_frames == 16


def test_epochs_become_steps(backbones: Backbones, mixture: Path, tmp_path: Path) -> None:
    batches = Batches(max_tokens=256, pack=False, global_batch=20, micro_batch=4)
    stage = make_stage(mixture, batches=batches, steps=1_000_000, epochs=0.5)
    stages.run_recipe(make_recipe(backbones, stage), tmp_path)
    assert max(losses(tmp_path)) == 2  # half of 70 samples, 20 a step


def test_backbones_that_do_not_fit_are_refused(backbones: Backbones, mixture: Path, tmp_path: Path) -> None:
    recipe = make_recipe(backbones, make_stage(mixture))
    with pytest.raises(CheckpointError, match="nowhere"):
        stages.run_recipe(replace(recipe, model=replace(recipe.model, vision=str(tmp_path / "nowhere"))), tmp_path)
    with pytest.raises(ConfigError, match="no tokenizer"):
        stages.run_recipe(replace(recipe, model=replace(recipe.model, language="")), tmp_path / "fresh")


def command(recipe: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "nvila", "train", str(recipe), "--out", str(out)]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_a_killed_run_goes_on_bit_for_bit(backbones: Backbones, mixture: Path, tmp_path: Path) -> None:
    """SIGKILL at some moment between two steps or within one, with workers reading ahead."""
    stage = make_stage(mixture, steps=40)
    recipe = make_recipe(backbones, stage, checkpoint_steps=3, workers=1)
    path = tmp_path / "recipe.toml"
    path.write_text(config_files.dump(recipe), encoding="utf-8")
    stages.run_recipe(recipe, tmp_path / "whole")
    process = subprocess.Popen(command(path, tmp_path / "parts"), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    metrics = tmp_path / "parts" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text(encoding="utf-8").splitlines()) >= 8):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the run did not start"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "parts" / stage.name / stages.FINAL_FILE).exists()
    half = tmp_path / "parts" / stage.name / "checkpoint-39"
    half.mkdir(exist_ok=True)  # what a kill within the saving leaves
    (half / "model.safetensors").write_bytes(b"half")
    subprocess.run(command(path, tmp_path / "parts"), env=ENVIRONMENT, check=True, capture_output=True)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    whole, parts = (load_file(tmp_path / run / stage.name / stages.FINAL_FILE) for run in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize("name", STAGES)
def test_two_processes_give_the_losses_of_one(name: str, backbones: Backbones, mixture: Path, tmp_path: Path) -> None:
    recipe = make_recipe(backbones, make_stage(mixture, name, steps=4), checkpoint_steps=2)
    path = tmp_path / "recipe.toml"
    path.write_text(config_files.dump(recipe), encoding="utf-8")
    stages.run_recipe(recipe, tmp_path / "one")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = command(path, tmp_path / "two")[1:]
    done = subprocess.run([*torchrun, *arguments], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert one.keys() == two.keys()
    assert list(two.values()) == pytest.approx(list(one.values()), rel=1e-5)
