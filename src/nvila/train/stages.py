"""Runs a recipe: builds the model, then trains it stage by stage, picking up where an earlier run stopped.

A run's folder holds the resolved recipe, the tokenizer, a folder with checkpoints a stage, and `metrics.jsonl`. A stage
that ended leaves `final.safetensors`; running the same command again continues with whatever is not done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from safetensors.torch import load_model
from transformers import TrainingArguments, set_seed

from nvila import config as config_files
from nvila.adapters.options import AdapterOptions
from nvila.adapters.tune import attach, train_parts
from nvila.data.corpus import Assets, dense_labels
from nvila.data.encode import EncodeOptions
from nvila.data.mixture import Mixture, MixtureConfig
from nvila.data.text_pairs import TextAndChatEncoder
from nvila.errors import ConfigError
from nvila.processing import NVILAProcessor
from nvila.train.curves import write_curves
from nvila.train.dense import DenseKind, DenseRaster, dense_kinds
from nvila.train.encode import SampleEncoder
from nvila.train.extras import Extras
from nvila.train.feed import MixtureFeed, num_steps
from nvila.train.learner import Learner, all_pixels, checkpoint_layers, compile_layers
from nvila.train.meter import TimeLeft
from nvila.train.precision.convert import apply_precision
from nvila.train.precision.options import PrecisionOptions
from nvila.train.recipe import Batches, Recipe, Stage, Visual
from nvila.train.report import METRICS_FILE, Probe, Reporter, ShowProgress
from nvila.train.schedule import StageClock
from nvila.train.start import build_learner, build_processor, calibrate, load_or_build_tokenizer, set_visual
from nvila.train.stream import BatchStream
from nvila.train.trainer import WEIGHTS_FILE, Feed, StageTrainer, cpu_backend, last_checkpoint, training_arguments
from nvila.utils.atomic import atomic_write_text

logger = logging.getLogger(__name__)
FINAL_FILE = "final.safetensors"
CALIBRATION_BATCHES = 8


def run_recipe(
    recipe: Recipe,
    folder: Path,
    assets: Assets | None = None,
    *,
    stop_after: str | None = None,
    extend: Callable[[StageTrainer], None] | None = None,
) -> Learner:
    """Trains all stages of `recipe` that are not done in `folder` and returns the learner after the last.

    `assets` are what generators draw from; a recipe whose stages are all fed by mixtures, and whose tokenizer comes
    from elsewhere, needs none. `stop_after` names a stage behind which to stop; `extend` may add callbacks to a
    stage's trainer before it starts. Interrupted by SIGTERM or SIGINT, it
    saves and returns early. Raises ConfigError for what is missing.
    """
    ranks = process_state()
    folder.mkdir(parents=True, exist_ok=True)
    if ranks.is_main_process:
        atomic_write_text(folder / "recipe.toml", config_files.dump(recipe))
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    set_seed(recipe.run.seed)
    with ranks.main_process_first():
        tokenizer = load_or_build_tokenizer(folder / "tokenizer", assets, recipe.model)
    kinds = () if assets is None else dense_kinds(dense_labels(assets))
    learner = new_learner(recipe, tokenizer, kinds)
    for stage in recipe.stage:
        ended = run_stage(recipe, stage, learner, tokenizer, assets, folder / stage.name, extend=extend)
        if ended == "sharded":
            learner = unsharded(learner, new_learner(recipe, tokenizer, kinds), folder / stage.name / FINAL_FILE)
        if ended == "interrupted" or stage.name == stop_after:
            break
    return learner


def new_learner(recipe: Recipe, tokenizer: Any, kinds: tuple[DenseKind, ...]) -> Learner:
    """What the first stage starts from, in the recipe's precision."""
    has_contrast = any(stage.contrast_weight for stage in recipe.stage)
    learner = build_learner(recipe.model, tokenizer, kinds, has_contrast=has_contrast)
    attach(learner.model, recipe.adapters)
    if recipe.precision != PrecisionOptions():
        logger.info("%s", apply_precision(learner.model, recipe.precision).summary())
    if recipe.run.compile:
        compile_layers(learner.model)
    return learner


def unsharded(learner: Learner, new: Learner, final: Path) -> Learner:
    """`new`, with what a stage made of `learner`.

    FSDP and DeepSpeed change a module for good, and the next stage, which trains other parts, needs an untouched one.
    """
    config = learner.model.config
    set_visual(new.model, Visual(**{field.name: getattr(config, field.name) for field in fields(Visual)}))
    load_model(new, str(final))
    return new


def process_state() -> PartialState:
    """The processes of this run, by accelerate: those that torchrun or accelerate started, or this one alone."""
    backend = cpu_backend()
    return PartialState(cpu=not torch.cuda.is_available(), **({} if backend is None else {"backend": backend}))


def is_finished(recipe: Recipe, folder: Path) -> bool:
    """Whether the last stage of the run in `folder` is done."""
    return (folder / recipe.stage[-1].name / FINAL_FILE).exists()


def build_encoder(learner: Learner, tokenizer: Any, kinds: Iterable[DenseKind]) -> SampleEncoder:
    """The generators' encoder that fits the learner's model."""
    visual = learner.model.config.visual
    return SampleEncoder(tokenizer, visual, DenseRaster(tuple(kinds), visual.tile_size, visual.patch_size))


def run_stage(
    recipe: Recipe,
    stage: Stage,
    learner: Learner,
    tokenizer: Any,
    assets: Assets | None,
    folder: Path,
    *,
    extend: Callable[[StageTrainer], None] | None = None,
) -> Literal["whole", "sharded", "interrupted"]:
    """Trains one stage, or loads its weights when it is done; says how it left the learner."""
    final = folder / FINAL_FILE
    set_visual(learner.model, stage.visual)
    if final.exists():
        prepare(learner, stage, adapters=recipe.adapters)
        load_weights(learner, final, recipe.adapters)
        return "whole"
    folder.mkdir(parents=True, exist_ok=True)
    found = last_checkpoint(folder)
    args = training_arguments(stage, recipe.run, folder)
    feed, stage = build_feed(recipe, stage, learner, tokenizer, assets, args)
    args.max_steps = stage.steps
    prepare(learner, stage, has_others=args.world_size > 1, adapters=recipe.adapters)
    clock = StageClock(stage, 0.0 if found is None else float(found[1]["seconds"]))
    if found is not None:
        feed.load_state_dict(found[1]["feed"])
        load_weights(learner, found[0] / WEIGHTS_FILE, recipe.adapters)
    elif stage.calibrate and isinstance(feed, BatchStream):
        calibrate(learner.model, torch.cat([_pixels(feed, step) for step in range(CALIBRATION_BATCHES)]))
    trainer = StageTrainer(learner, feed, stage, clock, recipe.run, args)
    trainer.learned_only = not recipe.adapters.is_plain
    reporter = Reporter(folder.parent, stage.name)
    trainer.add_callback(reporter)
    # The ranks' clocks differ, and a forward pass of shards needs all ranks at once.
    if recipe.run.probe_samples and isinstance(feed, BatchStream) and not trainer.shards:
        trainer.add_callback(
            Probe(learner, feed, reporter, seconds=recipe.run.probe_seconds, samples=recipe.run.probe_samples)
        )
    if extend is not None:
        extend(trainer)
    left = TimeLeft(stage.steps, step=0 if found is None else int(found[1]["step"]), name=stage.name)
    trainer.add_callback(ShowProgress(left))
    with left.shown():
        trainer.train(resume_from_checkpoint=None if found is None else str(found[0]))
    if args.should_save:
        write_curves(folder.parent / METRICS_FILE, folder.parent / "loss.png")
    if clock.progress(trainer.state.global_step) < 1.0:
        return "interrupted"
    trainer.write_weights(final)
    trainer.accelerator.wait_for_everyone()
    return "sharded" if trainer.shards else "whole"


def build_feed(
    recipe: Recipe, stage: Stage, learner: Learner, tokenizer: Any, assets: Assets | None, args: TrainingArguments
) -> tuple[Feed, Stage]:
    """The batches of a stage, for the rank that `args` knows, and the stage with its number of steps."""
    ranks = {"rank": args.process_index, "world_size": args.world_size}
    if not stage.mixture:
        if assets is None:
            raise ConfigError(f"stage {stage.name!r} has generators, which need the training's assets; give --assets")
        encoder = build_encoder(learner, tokenizer, learner.dense_head.kinds)
        return BatchStream(stage, assets, encoder, seed=recipe.run.seed, **ranks), stage
    mixture = Mixture.open(config_files.load(MixtureConfig, Path(stage.mixture)))
    processor = build_processor(learner.model.config.visual, tokenizer)
    feed = MixtureFeed(
        mixture,
        TextAndChatEncoder(processor, encode_options(stage.batches)),
        stage.batches,
        seed=recipe.run.seed,
        name=stage.name,
        pad_id=tokenizer.pad_token_id,
        extras=_extras(recipe, stage, learner, processor),
        **ranks,
    )
    if not stage.epochs:
        return feed, stage
    steps = min(stage.steps, num_steps(mixture, stage.epochs, stage.batches.global_batch))
    return feed, replace(stage, steps=steps)


def _extras(recipe: Recipe, stage: Stage, learner: Learner, processor: NVILAProcessor) -> Extras | None:
    """What a stage learns from besides answers; None where it is nothing."""
    visual, kinds = learner.model.config.visual, learner.dense_head.kinds
    if stage.dense_weight and not kinds:
        raise ConfigError(f"stage {stage.name!r}: dense labels are those of the training's assets; give --assets")
    raster = DenseRaster(kinds, visual.tile_size, visual.patch_size) if stage.dense_weight else None
    if raster is None and not stage.contrast_weight:
        return None
    return Extras(processor, captions=stage.contrast_weight > 0, raster=raster, seed=recipe.run.seed)


def encode_options(batches: Batches) -> EncodeOptions:
    """A sample's limits are those of the row that must hold it."""
    return EncodeOptions(
        max_tokens=batches.max_tokens,
        max_num_tiles=batches.max_num_tiles,
        too_long=batches.too_long,
    )


def _pixels(stream: BatchStream, step: int) -> torch.Tensor:
    batch = stream.batch(step)
    pixels = all_pixels(batch["pixel_values"], batch["pixel_values_videos"])
    assert pixels is not None
    return pixels


def load_weights(learner: Learner, path: Path, adapters: AdapterOptions) -> None:
    """Loads a checkpoint's weights: all, or with adapters those that learn. Raises ConfigError where one is missing."""
    missing, unexpected = load_model(learner, str(path), strict=adapters.is_plain)
    learning = {name for name, weight in learner.named_parameters() if weight.requires_grad}
    faults = sorted(learning & set(missing)) + sorted(unexpected)
    if not adapters.is_plain and faults:
        raise ConfigError(f"{path}: is of other settings, the first tensor that does not fit is {faults[0]}")


def prepare(
    learner: Learner, stage: Stage, *, has_others: bool = False, adapters: AdapterOptions | None = None
) -> None:
    """Sets the losses and their weights, which parts are trained, and which run twice to save memory.

    `has_others`: whether other ranks train the same parameters.
    """
    # Or else, in a step of texts alone, one rank would leave the projector as it is, where several give it a gradient
    # of zero, with which AdamW goes on moving it.
    mixes = bool(stage.mixture) and set(stage.train) != {"llm"}
    learner.always_sees = has_others or mixes or "llm" not in stage.train
    learner.loss = stage.loss
    learner.dense_weight, learner.answer_weight = stage.dense_weight, stage.answer_weight
    learner.grounding_weight, learner.contrast_weight = stage.grounding_weight, stage.contrast_weight
    train_parts(learner.parts(), stage.train, adapters or AdapterOptions())
    checkpoint_layers(learner, stage.gradient_checkpointing)
    learner.dense_head.requires_grad_(stage.dense_weight > 0)
    learner.grounding_head.requires_grad_(stage.grounding_weight > 0)
    if learner.contrast_head is not None:
        learner.contrast_head.requires_grad_(stage.contrast_weight > 0)
    # Behind the layer whose output is used; kept for the checkpoint's shape alone.
    tower = learner.model.vision_tower.vision_model
    tower.encoder.layers[-1].requires_grad_(False)
    tower.post_layernorm.requires_grad_(False)
