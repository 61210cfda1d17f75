"""Runs a recipe: builds the model, then trains it stage by stage, picking up where an earlier run stopped.

A run's folder holds the resolved recipe, the tokenizer, a folder with checkpoints a stage, and `metrics.jsonl`. A stage
that ended leaves `final.safetensors`; running the same command again continues with whatever is not done.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from transformers import set_seed
from transformers.trainer_utils import get_last_checkpoint

from nvila import config as config_files
from nvila.data.corpus import Assets, dense_labels
from nvila.errors import ConfigError
from nvila.train.dense import DenseKind, DenseRaster, dense_kinds
from nvila.train.encode import SampleEncoder
from nvila.train.learner import Learner, compile_layers, normalised
from nvila.train.recipe import Recipe, Stage
from nvila.train.report import Probe, Reporter
from nvila.train.schedule import StageClock
from nvila.train.start import build_learner, calibrate, load_or_build_tokenizer
from nvila.train.stream import BatchStream
from nvila.train.trainer import CLOCK_FILE, StageTrainer

logger = logging.getLogger(__name__)
FINAL_FILE = "final.safetensors"
CALIBRATION_BATCHES = 8


def run_recipe(recipe: Recipe, folder: Path, assets: Assets, *, stop_after: str | None = None) -> Learner:
    """Trains all stages of `recipe` that are not done in `folder` and returns the learner after the last.

    `stop_after` names a stage behind which to stop. Interrupted by SIGTERM or SIGINT, it saves and returns early.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text(config_files.dump(recipe), encoding="utf-8")
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    set_seed(recipe.run.seed)
    tokenizer = load_or_build_tokenizer(folder / "tokenizer", assets, recipe.model.init)
    kinds = dense_kinds(dense_labels(assets))
    learner = build_learner(recipe.model, tokenizer, kinds)
    if recipe.run.compile:
        compile_layers(learner.model)
    encoder = build_encoder(learner, tokenizer, kinds)
    for stage in recipe.stage:
        if not run_stage(recipe, stage, learner, encoder, assets, folder / stage.name) or stage.name == stop_after:
            break
    return learner


def is_finished(recipe: Recipe, folder: Path) -> bool:
    """Whether the last stage of the run in `folder` is done."""
    return (folder / recipe.stage[-1].name / FINAL_FILE).exists()


def build_encoder(learner: Learner, tokenizer: Any, kinds: Iterable[DenseKind]) -> SampleEncoder:
    """The encoder that fits the learner's model."""
    visual = learner.model.config.visual
    return SampleEncoder(tokenizer, visual, DenseRaster(tuple(kinds), visual.tile_size, visual.patch_size))


def run_stage(
    recipe: Recipe, stage: Stage, learner: Learner, encoder: SampleEncoder, assets: Assets, folder: Path
) -> bool:
    """Trains one stage, or loads its weights when it is done; False when it was interrupted."""
    final = folder / FINAL_FILE
    if final.exists():
        load_model(learner, str(final))
        return True
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = get_last_checkpoint(str(folder))
    first_step, seconds = _progress(checkpoint)
    prepare(learner, stage)
    clock = StageClock(stage, seconds)
    stream = BatchStream(stage, assets, encoder, seed=recipe.run.seed, first_step=first_step)
    if stage.calibrate and checkpoint is None:
        calibrate(learner.model, torch.cat([_pixels(stream, step) for step in range(CALIBRATION_BATCHES)]))
    trainer = StageTrainer(learner, stream, clock, recipe.run, folder)
    reporter = Reporter(folder.parent, stage.name)
    trainer.add_callback(reporter)
    if recipe.run.probe_samples:
        trainer.add_callback(
            Probe(learner, stream, reporter, seconds=recipe.run.probe_seconds, samples=recipe.run.probe_samples)
        )
    trainer.train(resume_from_checkpoint=checkpoint)
    if clock.progress(trainer.state.global_step) < 1.0:
        trainer.save_model(str(folder / "interrupted"))
        return False
    save_model(learner, str(final) + ".part")
    Path(str(final) + ".part").rename(final)
    return True


def _pixels(stream: BatchStream, step: int) -> torch.Tensor:
    batch = stream.batch(step)
    return normalised(batch["tiles"], batch["frames"])


def prepare(learner: Learner, stage: Stage) -> None:
    """Sets the weights of the losses and which parts are trained."""
    learner.dense_weight, learner.answer_weight = stage.dense_weight, stage.answer_weight
    learner.grounding_weight = stage.grounding_weight
    for name, part in learner.parts().items():
        part.requires_grad_(name in stage.train)
    learner.dense_head.requires_grad_(stage.dense_weight > 0)
    learner.grounding_head.requires_grad_(stage.grounding_weight > 0)
    # Behind the layer whose output is used; kept for the checkpoint's shape alone.
    tower = learner.model.vision_tower.vision_model
    tower.encoder.layers[-1].requires_grad_(False)
    tower.post_layernorm.requires_grad_(False)


def _progress(checkpoint: str | None) -> tuple[int, float]:
    """Steps and seconds that a checkpoint stands for."""
    if checkpoint is None:
        return 0, 0.0
    try:
        state = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
        clock = json.loads((Path(checkpoint) / CLOCK_FILE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(
            f"the checkpoint {checkpoint} is incomplete ({error}); delete it to use the one before"
        ) from error
    return int(state["global_step"]), float(clock["seconds"])
