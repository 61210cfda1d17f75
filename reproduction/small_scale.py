"""What the tables at small scale share of their models: a row's start, its training by a recipe, its scores and costs.

A training that was interrupted goes on. Training is `nvila.train.stages.run_recipe`, answering is the evaluation's,
operations are those of `--plan`.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from answer_metrics import METRICS

from nvila.eval.runner import model_answerer
from nvila.layouts import read_settings, resolve
from nvila.model import NVILAConfig
from nvila.model.checkpoint import read_config
from nvila.processing import NVILAProcessor
from nvila.train.learner import Learner
from nvila.train.plan import Estimate, Workload, estimate
from nvila.train.recipe import Batches, ModelRecipe, Part, Recipe, Run, Stage
from nvila.train.stages import is_finished, run_recipe
from nvila.train.start import build_processor
from nvila.utils.atomic import atomic_write_text
from nvila.utils.device import choose_dtype

MAX_NEW_TOKENS = 32
PACE_STEPS = 9
"""Of each stage of a training that is only timed."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A held-out question about one picture or clip."""

    column: str
    messages: list[dict[str, Any]]
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Load:
    """Means over samples of what the model reads: tiles through the tower, tiles through the projector, tokens."""

    tiles: float
    projected: float
    visual_tokens: float
    tokens: float


def start_config(start: str) -> NVILAConfig:
    """The configuration of the checkpoint that all rows start from."""
    return read_config(read_settings(resolve(start)))


def model_recipe(config: NVILAConfig, init: str) -> ModelRecipe:
    """The recipe's sizes for a model of this configuration, starting from the checkpoint `init`."""
    vision, text, visual = config.vision_config, config.text_config, config.visual
    return ModelRecipe(
        init=init,
        tile_size=visual.tile_size,
        patch_size=visual.patch_size,
        vision_width=vision.hidden_size,
        vision_layers=vision.num_hidden_layers - 1,
        vision_heads=vision.num_attention_heads,
        text_width=text.hidden_size,
        text_layers=text.num_hidden_layers,
        text_heads=text.num_attention_heads,
        text_intermediate=text.intermediate_size,
        image_mode=visual.image_mode,
        s2_scales=visual.s2_scales,
        projector_type=visual.projector_type,
        max_tiles=visual.max_tiles,
        temporal_pool=visual.temporal_pool,
        num_video_frames=visual.num_video_frames,
        max_position_embeddings=text.max_position_embeddings,
    )


def run_options(threads: int, workers: int) -> Run:
    """What holds for every training here: a stop costs two minutes at most, and the log has a pace every ten steps."""
    return Run(threads=threads, workers=workers, compile=False, checkpoint_seconds=120.0, probe_samples=0, log_steps=10)


def in_order(batch: int) -> Batches:
    """Steps of `batch` samples in the mixture's order, whatever their sizes: the same ones for all rows."""
    return Batches(global_batch=batch, micro_batch=batch, pack=False, max_tokens=2048, window=1, pool=1)


def phase(
    name: str,
    mixture: Path,
    *,
    batch: int,
    steps: int,
    rate: float,
    train: tuple[Part, ...],
    part_rates: Mapping[str, float] | None = None,
) -> Stage:
    """A stage on a mixture: a cosine from the peak `rate` with 3 % of warm-up, no weight decay (section 3.1)."""
    return Stage(
        name=name,
        mixture=str(mixture),
        batches=in_order(batch),
        steps=max(1, steps),
        learning_rate=rate,
        part_learning_rates=dict(part_rates or {}),
        weight_decay=0.0,
        schedule="cosine",
        warmup_ratio=0.03,
        final_ratio=0.0,
        train=train,
        dense_weight=0.0,
    )


def write_mixture(data: Path) -> Path:
    """A mixture file beside the data `train.jsonl` that holds just it."""
    path = data / "mixture.toml"
    source = f'[[source]]\nname = "train"\npath = {json.dumps(str(data / "train.jsonl"))}\nformat = "openai"\n'
    atomic_write_text(path, f'name = "small-scale"\n\n{source}')
    return path


def read_held_out(data: Path) -> list[HeldOut]:
    """The questions of `heldout.jsonl` in `data`, with the full paths of their media."""
    found = []
    for line in (data / "heldout.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        parts = [_with_path(part, record, data) for part in record["messages"][0]["content"]]
        found.append(
            HeldOut(
                column=record["column"],
                messages=[{"role": "user", "content": parts}],
                answers=tuple(record["answers"][0]),
            )
        )
    return found


def trained(recipe: Recipe, folder: Path) -> Learner:
    """The learner after all stages of `recipe`, run in `folder`. Exits with a line where it was interrupted."""
    learner = run_recipe(recipe, folder)
    if not is_finished(recipe, folder):
        sys.exit(f"stopped within {folder.name}; the same command goes on there")
    return learner


def seconds_per_sample(recipe: Recipe, folder: Path) -> float:
    """Seconds a sample of a finished run by its log, a mean over the stages of `recipe` by their samples.

    Of each stage the median pace between two entries of the log counts, so that its start, its checkpoints and
    interruptions do not; a stage with one entry is too short for that, and its start counts.
    """
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = 0.0
    for stage in recipe.stage:
        marks = [(e["step"], e["seconds"]) for e in entries if e["stage"] == stage.name and "seconds" in e]
        paces = [(end[1] - start[1]) / (end[0] - start[0]) for start, end in pairwise(marks) if end[0] > start[0]]
        seconds += stage.steps * statistics.median(paces or [marks[-1][1] / marks[-1][0]])
    return seconds / num_samples(recipe)


def pace(recipe: Recipe, folder: Path, *, steps: int = PACE_STEPS) -> tuple[float, Learner]:
    """Seconds a sample of `recipe`, of which `steps` of each stage are run in `folder`, and what they leave."""
    stages = tuple(replace(stage, steps=steps) for stage in recipe.stage)
    short = replace(recipe, stage=stages, run=replace(recipe.run, log_steps=max(1, steps // 4)))
    learner = trained(short, folder)
    return seconds_per_sample(recipe, folder), learner


def num_samples(recipe: Recipe) -> int:
    """Samples of all stages, repetitions counted."""
    return sum(stage.steps * stage.batches.global_batch for stage in recipe.stage)


def last_losses(folder: Path) -> dict[str, float]:
    """The last logged loss of each stage."""
    entries = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return {entry["stage"]: round(entry["loss"], 4) for entry in entries if "loss" in entry}


def drop_weights(recipe: Recipe, folder: Path) -> None:
    """Removes a run's checkpoints, and what it started from where that was made for it; recipe, log and curve stay."""
    for name in ("start", *(stage.name for stage in recipe.stage)):
        shutil.rmtree(folder / name, ignore_errors=True)


def ready_to_answer(learner: Learner, init: str) -> tuple[Any, NVILAProcessor]:
    """The trained model in the precision of inference, and the processor of its settings."""
    model = learner.model.eval()
    model = model.to(choose_dtype("auto", model.device))
    tokenizer = NVILAProcessor.from_pretrained(resolve(init)).tokenizer
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, build_processor(model.config.visual, tokenizer)


def scores(model: Any, processor: NVILAProcessor, held_out: Sequence[HeldOut], *, batch_size: int) -> dict[str, Any]:
    """Mean score of each column in percent, their average, and the first wrong answers."""
    answer = model_answerer(model, processor)
    values: dict[str, list[float]] = {}
    wrong: list[dict[str, Any]] = []
    for start in range(0, len(held_out), batch_size):
        batch = held_out[start : start + batch_size]
        given = answer([item.messages for item in batch], MAX_NEW_TOKENS)
        for item, text in zip(batch, given, strict=True):
            value = METRICS[item.column](text, item.answers)
            values.setdefault(item.column, []).append(value)
            if value < 1.0 and len(wrong) < 12 * len(values):
                wrong.append({"column": item.column, "truth": item.answers[0], "answer": text})
    means = {column: 100 * statistics.fmean(found) for column, found in values.items()}
    return {"scores": {**means, "average": statistics.fmean(means.values())}, "wrong": wrong}


def load_of(processor: NVILAProcessor, samples: Sequence[HeldOut]) -> Load:
    """Means over held-out samples of what the model reads for them; counted on the processor's own output."""
    loads = [_load(processor, sample) for sample in samples]
    return Load(**{key: statistics.fmean(vars(load)[key] for load in loads) for key in vars(loads[0])})


def planned(config: NVILAConfig, load: Load, trainable: Sequence[str]) -> Estimate:
    """The plan's estimate of one sample of this load where these parts are trained (a hundred, for the rounding)."""
    workload = Workload(
        tokens_per_step=round(100 * load.tokens),
        tiles_per_step=round(100 * load.tiles),
        projected_tiles_per_step=round(100 * load.projected),
        sample_length=load.tokens,
        trainable=tuple(trainable),
        learned_share=0.1,
    )
    return estimate(config, workload)


def training_gflop(config: NVILAConfig, load: Load, recipe: Recipe) -> float:
    """Operations a sample of the whole training, a mean over the stages by their samples, in 1e9."""
    samples = [stage.steps * stage.batches.global_batch for stage in recipe.stage]
    work = [planned(config, load, stage.train).total_flops / 100 for stage in recipe.stage]
    return sum(count * each for count, each in zip(samples, work, strict=True)) / num_samples(recipe) / 1e9


def prefill_gflop(config: NVILAConfig, load: Load) -> float:
    """Operations of reading one sample, in 1e9."""
    return sum(entry.forward for entry in planned(config, load, ("llm",)).flops) / 100 / 1e9


def operations(
    recipe: Recipe, model: Any, processor: NVILAProcessor, held_out: Sequence[HeldOut]
) -> dict[str, dict[str, float]]:
    """What the model reads of a sample, as `load`, and the operations of it, as `costs`."""
    load = load_of(processor, held_out)
    costs = {
        "training_gflop_per_sample": training_gflop(model.config, load, recipe),
        "prefill_gflop_per_sample": prefill_gflop(model.config, load),
    }
    return {"load": asdict(load), "costs": costs}


def seconds(
    recipe: Recipe, init: str, folder: Path, held_out: Sequence[HeldOut], *, steps: int, num_timed: int
) -> dict[str, float]:
    """Seconds of a sample in training, by `steps` steps of each stage, and in prefill, by `num_timed` samples."""
    training, learner = pace(recipe, folder, steps=steps)
    model, processor = ready_to_answer(learner, init)
    drop_weights(recipe, folder)
    return {
        "training_seconds_per_sample": training,
        "prefill_seconds_per_sample": prefill_seconds(model, processor, held_out, count=num_timed),
    }


def prefill_seconds(model: Any, processor: NVILAProcessor, samples: Sequence[HeldOut], *, count: int) -> float:
    """Mean over `count` samples of the seconds from the pixels to the first token's logits, one sample at a time.

    The faster of two passes counts, after one that is not timed.
    """
    times = []
    for sample in spread(samples, count):
        inputs = _inputs(processor, sample).to(model.device, model.dtype)
        times.append(min(_forward_seconds(model, inputs) for _ in range(3)))
    return statistics.fmean(times)


def spread(samples: Sequence[HeldOut], count: int) -> list[HeldOut]:
    """`count` of the samples, evenly spread, so that every column is among them."""
    step = max(1, len(samples) // count)
    return list(samples[::step][:count])


def _with_path(part: Mapping[str, Any], record: Mapping[str, Any], data: Path) -> dict[str, Any]:
    if part["type"] == "text":
        return dict(part)
    (place,) = record["images" if part["type"] == "image" else "videos"]
    return {"type": part["type"], "path": str(data / place)}


def _inputs(processor: NVILAProcessor, sample: HeldOut) -> Any:
    return processor.apply_chat_template(
        sample.messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


def _load(processor: NVILAProcessor, sample: HeldOut) -> Load:
    inputs = _inputs(processor, sample)
    ids = inputs["input_ids"][0]
    frames = sum(inputs.get("video_lengths", ()))
    visual = (ids == processor.token_ids.image) | (ids == processor.token_ids.video)
    projected = sum(rows * cols for rows, cols in inputs.get("block_sizes", ()))
    return Load(
        tiles=float(frames or len(inputs["pixel_values"])),
        projected=float(frames or projected),
        visual_tokens=float(visual.sum()),
        tokens=float(len(ids)),
    )


def _forward_seconds(model: Any, inputs: Any) -> float:
    with torch.inference_mode():
        started = time.perf_counter()
        model(**inputs, logits_to_keep=1)
        return time.perf_counter() - started
