"""The models that Table 3 needs, and what they make of the corpus: a small one, a student, scores, selections.

The large model is the start itself (nvila-mini). The small one has the same tower, as NVILA's sizes share theirs, half
of its decoder's layers and a new projector; decoder and projector learn for a short while. The student has the start's
tower and decoder and a new projector, which has learned for a short while alone: it has everything to learn from the
corpus that lies between seeing and saying, and soon enough for one CPU. Both prepare on generators, not on the corpus.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from redundant_corpus import EASY, FRESH
from small_scale import model_recipe, phase, start_config, trained

from nvila.layouts import resolve
from nvila.model import NVILAForConditionalGeneration
from nvila.processing import NVILAProcessor
from nvila.pruning.features import FeatureOptions, score_by_features
from nvila.pruning.features.criteria import FeatureReport
from nvila.pruning.score.criteria import ScoreReport, score
from nvila.pruning.score.options import DataOptions, RunOptions, ScoreOptions
from nvila.pruning.select import SelectOptions, select
from nvila.train.export import export
from nvila.train.recipe import ModelRecipe, Part, Recipe, Run
from nvila.train.start import build_processor, calibrate, model_config
from nvila.utils.atomic import atomic_write_text

BATCH = 32
"""Samples of a step while models are prepared."""
CHUNK = 512
"""Samples of a part of scores: rows are packed within a part."""
BY_FEATURES = ("cluster", "coverage")


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How a model is made from the start: the part of the decoder's layers that it keeps, what learns, from how many
    generated samples, how fast."""

    depth: float
    train: tuple[Part, ...]
    samples: int
    rate: float


def prepared(
    name: str,
    start: str,
    preparation: Preparation,
    work: Path,
    pictures: Sequence[Path],
    *,
    assets: Path | None,
    seed: int,
    run: Run,
) -> Path:
    """The checkpoint `work/name`, made where it is missing. Its projector is new, fitted to these pictures."""
    done = work / name
    if done.exists():
        return done
    whole = model_recipe(start_config(start), "")
    sizes = replace(whole, text_layers=math.ceil(preparation.depth * whole.text_layers))
    init = write_start(sizes, start, work / f"{name}-start", pictures, seed=seed)
    stage = phase(
        "prepare",
        write_generators(work / "generators.toml", assets),
        batch=BATCH,
        steps=round(preparation.samples / BATCH),
        rate=preparation.rate,
        train=preparation.train,
    )
    recipe = Recipe(name=name, stage=(stage,), run=replace(run, seed=seed), model=replace(sizes, init=str(init)))
    learner = trained(recipe, work / f"{name}-run")
    partial = work / f"{name}.part"
    export(learner.model, tokenizer_of(start), partial)
    partial.rename(done)
    shutil.rmtree(work / f"{name}-run" / "prepare")
    return done


def seconds_of_preparing(name: str, work: Path) -> float:
    """What training the model `prepared` as `name` took, by its log."""
    lines = (work / f"{name}-run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return max(float(entry["seconds"]) for entry in map(json.loads, lines) if "seconds" in entry)


@torch.no_grad()
def write_start(sizes: ModelRecipe, start: str, folder: Path, pictures: Sequence[Path], *, seed: int) -> Path:
    """A checkpoint in `folder` of these sizes: the weights of `start`, where the decoder is shorter those of layers
    evenly chosen, the first and the last among them, and a new projector."""
    if folder.exists():
        return folder
    torch.manual_seed(seed)
    tokenizer = tokenizer_of(start)
    model = NVILAForConditionalGeneration(model_config(sizes, tokenizer)).eval()
    source = NVILAForConditionalGeneration.from_pretrained(resolve(start), dtype=torch.float32)
    layers: Any = source.llm.model.layers
    chosen = np.linspace(0, len(layers) - 1, sizes.text_layers).round().astype(int)
    source.llm.model.layers = torch.nn.ModuleList([layers[number] for number in chosen])
    model.vision_tower.load_state_dict(source.vision_tower.state_dict())
    model.llm.load_state_dict(source.llm.state_dict())
    processor = build_processor(model.config.visual, tokenizer)
    given = processor.image_processor([str(path) for path in pictures], return_tensors="pt")
    calibrate(model, given["pixel_values"])
    partial = folder.with_name(f"{folder.name}.part")
    export(model, tokenizer, partial)
    partial.rename(folder)
    return folder


def tokenizer_of(start: str) -> Any:
    """The tokenizer of a checkpoint."""
    return NVILAProcessor.from_pretrained(resolve(start)).tokenizer


def write_generators(path: Path, assets: Path | None) -> Path:
    """A mixture of all generators of the corpus, each with the same weight, drawing from `assets` (None: the usual)."""
    tasks = dict.fromkeys(task for side in (FRESH, EASY) for found in side.values() for task in found)
    place = "" if assets is None else f"media_root = {json.dumps(str(assets))}\n"
    sources = [
        f'[[source]]\nname = "{task}"\npath = "{task}"\nformat = "generator"\nweight = 1.0\n{place}' for task in tasks
    ]
    atomic_write_text(path, "\n".join(['name = "generators"\n', *sources]))
    return path


def scored(criterion: Any, mixture: Path, out: Path, models: Mapping[str, Any], *, seed: int = 0) -> dict[str, Any]:
    """Scores the mixture anew into `out`; returns seconds and samples, of each pass too.

    A scoring that was stopped is begun again, since a part of one has no time that could be compared.
    """
    shutil.rmtree(out / criterion, ignore_errors=True)
    data = DataOptions(data=str(mixture), chunk_samples=CHUNK)
    run = RunOptions(device="cpu")
    report: ScoreReport | FeatureReport
    if criterion in BY_FEATURES:
        report = score_by_features(out, FeatureOptions(data=data, criterion=criterion, seed=seed, run=run, **models))
        passes = {"features": report.seconds}
    else:
        report = score(out, ScoreOptions(data=data, criterion=criterion, seed=seed, run=run, **models))
        passes = {one.name: one.seconds for one in report.passes}
    assert report.is_complete, f"{out / criterion} has one shard"
    return {
        "samples": report.num_samples,
        "seconds": sum(passes.values()),
        "passes": passes,
        "status": dict(report.by_status),
    }


def selected(root: Path, out: Path, method: str, keep: float) -> tuple[Path, set[str]]:
    """The folder with the keep-lists and the mixture, and the ids that are kept."""
    if not out.exists():
        select(root, out, SelectOptions(method=method, keep=keep))
    return out, set(pq.read_table(out / "all.parquet", columns=["id"])["id"].to_pylist())
