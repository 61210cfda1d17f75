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

import pytest
import torch
from safetensors.torch import load_file
from tests.train.conftest import Backbones
from tests.train.tiny_runs import GOLDEN, KINDS, curve, losses, make_recipe, make_stage
from transformers import AutoTokenizer, SiglipVisionModel

from nvila import config as config_files
from nvila.errors import CheckpointError, ConfigError
from nvila.train import stages
from nvila.train.recipe import Batches, Visual
from nvila.train.start import build_processor

STAGES = ("projector", "vision", "pretrain", "images")
"""Table 7's stages, by what they train; the fifth trains what the fourth does."""


@pytest.mark.parametrize("name", [*KINDS, "fp8"])
def test_fifty_steps_give_the_losses_they_gave(name: str, backbones: Backbones, mixture: Path, tmp_path: Path) -> None:
    """Another processor adds in another order, which training amplifies; on one and the same they are equal.

    A decoder of random weights that stays frozen gives a projector nothing to learn by.
    """
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))[name]
    assert name in ("projector", "vision") or expected[-1] < 0.6 * expected[0]
    assert curve(name, backbones, mixture, tmp_path) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("pack", [True, False])
def test_the_loss_falls(pack: bool, backbones: Backbones, mixture: Path, tmp_path: Path) -> None:
    batches = Batches(max_tokens=256, rows_per_step=4, window=16, pack=pack, global_batch=8, micro_batch=4)
    stages.run_recipe(
        make_recipe(backbones, make_stage(mixture, "images", batches=batches, steps=30, learning_rate=2e-2)), tmp_path
    )
    curve = losses(tmp_path)
    assert curve[1] > 5.0
    assert curve[30] < 0.6 * curve[1]


def test_answers_weigh_alike_and_are_counted_by_source(backbones: Backbones, mixture: Path, tmp_path: Path) -> None:
    stages.run_recipe(make_recipe(backbones, make_stage(mixture, "images", steps=3, loss="answer")), tmp_path)
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    shares = [value for line in lines for key, value in line.items() if key.startswith("exact_")]
    assert shares
    assert all(0.0 <= share <= 1.0 for share in shares)


def test_a_stage_trains_its_parts_from_the_backbones(backbones: Backbones, mixture: Path, tmp_path: Path) -> None:
    recipe = make_recipe(backbones, *(make_stage(mixture, name, steps=2) for name in STAGES))
    stages.run_recipe(recipe, tmp_path)
    before = {f"model.vision_tower.vision_model.{name}": w for name, w in _tower(backbones.vision).items()}
    for name in STAGES:
        trained = KINDS[name]["train"]
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
    four = make_stage(mixture, "images", steps=6)
    one = replace(four, batches=replace(four.batches, micro_batch=1))
    again = replace(one, gradient_checkpointing=("vision", "llm"))
    curves = []
    for number, stage in enumerate((one, four, again)):
        stages.run_recipe(make_recipe(backbones, stage), tmp_path / str(number))
        curves.append(list(losses(tmp_path / str(number)).values()))
    assert len(curves[0]) == 6
    assert curves[1] == pytest.approx(curves[0], abs=1e-5)
    assert curves[2] == pytest.approx(curves[0], abs=1e-6)


def test_the_last_stage_sets_the_visual_settings(backbones: Backbones, mixture: Path, tmp_path: Path) -> None:
    stage = make_stage(mixture, "images", steps=1, visual=Visual(temporal_pool=4, num_video_frames=16, fps=2.0))
    learner = stages.run_recipe(make_recipe(backbones, stage), tmp_path)
    assert learner.model.config.visual.temporal_pool == learner.model.visual.temporal_pool == 4
    assert learner.model.config.visual.num_video_frames == 16
    processor = build_processor(learner.model.config.visual, AutoTokenizer.from_pretrained(tmp_path / "tokenizer"))
    assert (processor.video_processor.num_frames, processor.video_processor.fps) == (16, 2.0)


def test_epochs_become_steps(backbones: Backbones, mixture: Path, tmp_path: Path) -> None:
    batches = Batches(max_tokens=256, pack=False, global_batch=20, micro_batch=4)
    stage = make_stage(mixture, "images", batches=batches, steps=1_000_000, epochs=0.5)
    stages.run_recipe(make_recipe(backbones, stage), tmp_path)
    assert max(losses(tmp_path)) == 3  # half of 82 samples, 20 a step


def test_backbones_that_do_not_fit_are_refused(backbones: Backbones, mixture: Path, tmp_path: Path) -> None:
    recipe = make_recipe(backbones, make_stage(mixture, "images", steps=6))
    with pytest.raises(CheckpointError, match="nowhere"):
        stages.run_recipe(replace(recipe, model=replace(recipe.model, vision=str(tmp_path / "nowhere"))), tmp_path)
    with pytest.raises(ConfigError, match="no tokenizer"):
        stages.run_recipe(replace(recipe, model=replace(recipe.model, language="")), tmp_path / "fresh")


def test_text_alone_may_be_in_a_mixture(backbones: Backbones, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("one two three. " * 40 + "\n\n" + "three two one. " * 30, encoding="utf-8")
    mixture = tmp_path / "mixture.toml"
    source = f'name = "book"\npath = "{tmp_path}/book.txt"\nformat = "text"\n'
    mixture.write_text(f'name = "text"\n[[source]]\n{source}', encoding="utf-8")
    stage = make_stage(mixture, "decoder", steps=30, batches=Batches(max_tokens=256, rows_per_step=2, window=2))
    stages.run_recipe(make_recipe(backbones, stage), tmp_path / "run")
    curve = losses(tmp_path / "run")
    assert curve[30] < 0.8 * curve[1]


def test_time_tokens_are_new_words_whose_neighbours_are_nearly_right(backbones: Backbones, tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "When?"}, {"from": "gpt", "value": "<t3> <t5>"}]
    (tmp_path / "times.jsonl").write_text(json.dumps({"id": "a", "conversations": turns}) + "\n", encoding="utf-8")
    mixture = tmp_path / "mixture.toml"
    mixture.write_text(f'name = "m"\n[[source]]\nname = "t"\npath = "{tmp_path}/times.jsonl"\n', encoding="utf-8")
    batches = Batches(pack=False, global_batch=1, max_tokens=256)
    recipe = make_recipe(backbones, make_stage(mixture, "decoder", steps=120, batches=batches, learning_rate=3e-2))
    soft = replace(recipe, model=replace(recipe.model, num_time_tokens=10))
    learner = stages.run_recipe(soft, tmp_path / "soft")
    assert learner.soft_targets is not None
    assert learner.model.config.num_time_tokens == learner.soft_targets.num_tokens == 10
    # What is certain costs nothing; what may be one of several times cannot cost less than its entropy.
    assert losses(tmp_path / "soft")[120] > 0.4
    stages.run_recipe(recipe, tmp_path / "hard")
    assert losses(tmp_path / "hard")[120] < 0.1


def test_dense_labels_need_the_assets_that_name_them(backbones: Backbones, mixture: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --assets"):
        stages.run_recipe(make_recipe(backbones, make_stage(mixture, "tower", dense_weight=0.3)), tmp_path)


def command(recipe: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "nvila", "train", str(recipe), "--out", str(out)]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_a_killed_run_goes_on_bit_for_bit(backbones: Backbones, mixture: Path, tmp_path: Path) -> None:
    """SIGKILL at some moment between two steps or within one, with workers reading ahead."""
    stage = make_stage(mixture, "images", steps=40)
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
    # A small rate: AdamW's first steps have the size of the rate whatever the gradient's, even where that is all noise.
    batches = Batches(max_tokens=256, rows_per_step=4, window=16)
    stage = make_stage(mixture, name, steps=4, learning_rate=1e-4, batches=batches)
    recipe = make_recipe(backbones, stage, checkpoint_steps=2)
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
