"""What the tables at small scale share: a row's start, its training by a recipe, its scores and costs, the results.

Every (row, seed) leaves one JSON file when it is done and is not run again; a training that was interrupted goes on.
Training is `nvila.train.stages.run_recipe`, answering is the evaluation's, operations are those of `--plan`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from answer_metrics import METRICS

from nvila.eval.runner import circumstances, model_answerer
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


class Results:
    """The finished (row, seed) pairs of one table, a JSON file each in `folder`."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """`settings` say what was asked for; results of other settings are an error, never taken over."""
        self.folder = folder
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.key = hashlib.blake2b(json.dumps(self.settings, sort_keys=True).encode(), digest_size=4).hexdigest()
        """For names of folders that hold what depends on the settings."""

    def load(self, row: str, seed: int) -> dict[str, Any] | None:
        """What is known of a row and seed; None where it is not done. Exits with a line for other settings."""
        path = self._path(row, seed)
        if not path.exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key in self.settings if found["settings"].get(key) != self.settings[key]]
        if changed:
            pairs = ", ".join(f"{key} {found['settings'].get(key)} and not {self.settings[key]}" for key in changed)
            sys.exit(f"{path}: was made with {pairs}; remove it, or choose another --out")
        return found

    def save(self, row: str, seed: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """Keeps what was found, with the settings and the circumstances; returns it all."""
        entry = {"row": row, "seed": seed, "settings": self.settings, **circumstances(), **values}
        atomic_write_text(self._path(row, seed), json.dumps(entry, indent=1, ensure_ascii=False) + "\n")
        return entry

    def complete(
        self, rows: Sequence[str], seeds: Sequence[int], make: Callable[[str, int], Mapping[str, Any]]
    ) -> dict[str, list[dict[str, Any]]]:
        """The results of every row and seed, one seed after the other; `make` is asked for those that are missing."""
        runs: dict[str, list[dict[str, Any]]] = {row: [] for row in rows}
        for seed in seeds:
            for row, found in runs.items():
                entry = self.load(row, seed)
                if entry is None:
                    say(f"{row}, seed {seed}")
                    entry = self.save(row, seed, make(row, seed))
                say(f"{row}, seed {seed}: average {entry['scores']['average']:.1f}")
                found.append(entry)
        return runs

    def _path(self, row: str, seed: int) -> Path:
        return self.folder / f"{row}-seed{seed}.json"


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
    """Seconds a sample of a finished run by its log, a mean over the stages by their samples.

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


def mean_and_spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, half the range, and the values."""
    return {
        "mean": round(statistics.fmean(values), 3),
        "spread": round((max(values) - min(values)) / 2, 3),
        "values": [round(value, 3) for value in values],
    }


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row of the result: scores and costs over its seeds, and what does not depend on them."""
    columns = runs[0]["scores"]
    costs = runs[0]["costs"]
    return {
        "scores": {name: mean_and_spread([run["scores"][name] for run in runs]) for name in columns},
        "costs": {name: mean_and_spread([run["costs"][name] for run in runs]) for name in costs},
        "load": runs[0]["load"],
        "seeds": [run["seed"] for run in runs],
        "losses": [run["losses"] for run in runs],
        "dates": sorted({run["date"] for run in runs}),
        "wrong": runs[0]["wrong"],
    }


def side_by_side(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned text; columns of the paper stand left of a bar, ours right of it."""
    widths = [max(len(row[place]) for row in (header, *rows)) for place in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows)]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def shown(value: Mapping[str, Any], digits: int = 1) -> str:
    """A mean with its spread, such as 61.3 ±0.4."""
    return f"{value['mean']:.{digits}f} ±{value['spread']:.{digits}f}"


def finish(out: Path, table: str, result: Mapping[str, Any]) -> None:
    """Writes the whole result, prints the table, and the JSON without single answers as the last line."""
    atomic_write_text(out, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(table)
    print(f"\n{out}")
    rows = {name: {key: row[key] for key in ("scores", "costs", "load")} for name, row in result["rows"].items()}
    print(json.dumps({**{key: result[key] for key in result if key != "rows"}, "rows": rows}, ensure_ascii=False))


def say(text: str) -> None:
    """A line on standard error."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def machine(threads: int) -> dict[str, Any]:
    """Date, hardware and versions, for the whole table."""
    return {**circumstances(), "threads": threads, "system": platform.platform(), "cores": os.cpu_count()}


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
