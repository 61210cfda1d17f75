"""Table 6 at small scale: W4A16 for the decoder, W8A8 for the vision tower, against 16 bits and round-to-nearest.

Every row answers the same held-out questions as `nvila eval`, in bfloat16 where the machine computes it and else in
float32, and is timed to its first token on the same picture, rows alternating. Calibration is on the learning side of
the same generators and of the small corpus in the package. Perplexities of real language weights come from
`smollm_perplexity.py`, which needs an environment of its own, and are taken in where its result lies (--smollm).

    python reproduction/table6_quantization.py              # every task in full
    python reproduction/table6_quantization.py --quick      # few questions of few tasks, to see that it works

A run that was stopped is continued by the same command; rows that are done are kept beside `--out`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tables import machine, places, say, side_by_side, table_parser, with_given

from nvila.config import build
from nvila.data.corpus import Assets
from nvila.data.mixture import MixtureConfig
from nvila.eval.held_out import default_corpus, has_family
from nvila.eval.runner import model_answerer, run_task
from nvila.eval.task import Task
from nvila.eval.tasks import choose_tasks
from nvila.model import NVILAForConditionalGeneration
from nvila.processing import NVILAProcessor
from nvila.quant.calibrate import calibration_samples
from nvila.quant.export import quantise_checkpoint
from nvila.quant.options import QuantiseOptions
from nvila.quant.run import open_checkpoint
from nvila.utils.atomic import atomic_write_text
from nvila.utils.device import choose_device, choose_dtype

LIMIT_W8A8, LIMIT_W4A16 = 0.3, 1.5
"""Points that the tower in W8A8 (beside the same decoder) and the decoder in W4A16 may cost on any score."""
PAPER_COLUMNS = ("AI2D", "MMMU", "VideoMME", "TTFT s")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: the schemes of tower and decoder, how they are rounded, and what the paper has there."""

    vision: Any = None
    language: Any = None
    rounding: Any = "searched"
    paper: tuple[float, ...] = ()


ROWS = {
    "16+16": Row(paper=(91.0, 50.7, 63.9, 0.90)),
    "16+w4": Row(language="w4a16", paper=(90.9, 49.2, 62.0, 0.77)),
    "w8+16": Row(vision="w8a8"),
    "w8+w4": Row(vision="w8a8", language="w4a16", paper=(90.9, 49.3, 62.1, 0.65)),
    "16+w4 nearest": Row(language="w4a16", rounding="nearest"),
    "w8+w4 nearest": Row(vision="w8a8", language="w4a16", rounding="nearest"),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What holds for all rows."""

    model: str = "nvila-mini"
    tasks: tuple[str, ...] = ()
    """All that the corpus has, when empty."""
    limit: int | None = None
    samples: int = 128
    dtype: str = "auto"
    seed: int = 0
    timed: int = 15


QUICK = Settings(tasks=("words", "color", "motion"), limit=8, samples=8, timed=3)


def calibration_mixture(tasks: Sequence[Task], corpus: Path) -> MixtureConfig:
    """The learning side of the tasks' generators, in their sizes, and of the corpus, half and half."""
    drawn = {task.generator: task.size for task in tasks if task.generator}
    sources: list[dict[str, Any]] = [
        {"name": name, "path": name, "format": "generator", "weight": 1.0 / len(drawn), "sizes": [list(size)]}
        for name, size in drawn.items()
    ]
    sources.append({"name": "corpus", "path": str(corpus / "train"), "weight": 1.0})
    return build(MixtureConfig, {"name": "calibration", "source": sources, "samples_per_epoch": 4096})


def write_mixture(config: MixtureConfig, path: Path) -> Path:
    from nvila.config import dump

    atomic_write_text(path, dump(config))
    return path


def prepared(row: Row, settings: Settings, work: Path, tasks: Sequence[Task], corpus: Path) -> str:
    """The model of a row: quantised into `work` where it is not there yet."""
    if not (row.vision or row.language):
        return settings.model
    folder = work / f"{row.vision}-{row.language}-{row.rounding}-{settings.samples}-{settings.seed}"
    if not folder.exists():
        options = QuantiseOptions(
            vision=row.vision,
            language=row.language,
            rounding=row.rounding,
            samples=settings.samples,
            seed=settings.seed,
        )
        mixture = write_mixture(calibration_mixture(tasks, corpus), work / "calibration.toml")
        source = open_checkpoint(settings.model)
        drawn = calibration_samples(str(mixture), NVILAProcessor.from_pretrained(source.root), options)
        quantise_checkpoint(source, drawn, folder, options)
    return str(folder)


def score(model: Any, processor: Any, settings: Settings, tasks: Sequence[Task], assets: Assets) -> dict[str, float]:
    """The headline of every task in points, more being better."""
    answer = model_answerer(model, processor)
    found = {}
    for task in tasks:
        result = run_task(task, answer, assets, seed=settings.seed, limit=settings.limit, batch_size=32)
        value = 100 * next(iter(result["metrics"].values()))
        found[task.name] = 100 - value if task.less_is_better else value
    return found


def first_token_seconds(models: Mapping[str, Any], processor: Any, count: int) -> dict[str, float]:
    """Medians over `count` rounds, in which each model answers once: a page of tiles, one token."""
    page = Image.effect_noise((4 * 112, 3 * 112), 60).convert("RGB")
    content = [{"type": "image", "image": page}, {"type": "text", "text": "What does it say?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for number in range(count + 1):
        for name, model in models.items():
            started = time.perf_counter()
            with torch.inference_mode():
                model.generate(**inputs.to(model.device, model.dtype), max_new_tokens=1, do_sample=False)
            if number:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def judged(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The targets: what W8A8 and W4A16 cost on their worst task, and the averages against round-to-nearest."""

    def cost(row: str, reference: str) -> float:
        pairs = ((rows[reference]["scores"][task], value) for task, value in rows[row]["scores"].items())
        return max(before - after for before, after in pairs)

    def average(row: str) -> float:
        return statistics.fmean(rows[row]["scores"].values())

    found: dict[str, Any] = {}
    for name, row, reference, limit in (
        ("w8a8", "w8+16", "16+16", LIMIT_W8A8),
        ("w4a16", "16+w4", "16+16", LIMIT_W4A16),
    ):
        if row in rows and reference in rows:
            worst = cost(row, reference)
            found[name] = {"worst_cost": worst, "limit": limit, "met": worst <= limit}
    for name, row in (("16+w4", "16+w4 nearest"), ("w8+w4", "w8+w4 nearest")):
        if name in rows and row in rows:
            found[f"{name} against nearest"] = {"averages": [average(name), average(row)]}
    return found


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The paper's table and ours, side by side."""
    tasks = list(next(iter(rows.values()))["scores"])
    header = ("tower+decoder", *PAPER_COLUMNS, "|", "TTFT s", "MB", "average", *tasks)
    lines = []
    for name, row in rows.items():
        paper = [f"{value:g}" for value in ROWS[name].paper] or [""] * len(PAPER_COLUMNS)
        ours = [f"{row['ttft_s']:.4f}", f"{row['megabytes']:.1f}", f"{statistics.fmean(row['scores'].values()):.2f}"]
        lines.append((name, *paper, "|", *ours, *(f"{value:.1f}" for value in row["scores"].values())))
    return side_by_side(header, lines)


def run(names: Sequence[str], settings: Settings, work: Path, kept: Path) -> dict[str, dict[str, Any]]:
    """Scores of the rows, those in the folder `kept` as they are, and their times, all taken anew."""
    corpus = default_corpus()
    tasks = [task for task in choose_tasks(settings.tasks) if task.generator or has_family(corpus, task.family)]
    assets = Assets.load(None)
    dtype = choose_dtype(settings.dtype, choose_device())
    processor = NVILAProcessor.from_pretrained(settings.model)
    models: dict[str, Any] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name in names:
        say(name)
        folder = prepared(ROWS[name], settings, work, tasks, corpus)
        models[name] = NVILAForConditionalGeneration.from_pretrained(folder, dtype=dtype).to(choose_device()).eval()
        path = kept / f"{name.replace(' ', '-')}.json"
        stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if stored.get("settings") != json.loads(json.dumps(asdict(settings))):
            scores = score(models[name], processor, settings, tasks, assets)
            stored = {"settings": asdict(settings), "scores": scores}
            atomic_write_text(path, json.dumps(stored, indent=1) + "\n")
        size = sum(tensor.nbytes for tensor in models[name].state_dict(keep_vars=True).values()) / 1e6
        rows[name] = {"scores": stored["scores"], "megabytes": size}
    for name, seconds in first_token_seconds(models, processor, settings.timed).items():
        rows[name]["ttft_s"] = seconds
    return rows


def main(arguments: list[str] | None = None) -> None:
    chosen = _parser().parse_args(arguments)
    settings = with_given(QUICK if chosen.quick else Settings(), chosen, ("model", "limit", "samples", "dtype"))
    torch.set_num_threads(chosen.threads)
    work, out = places(chosen, number=6)
    rows = run(chosen.rows or list(ROWS), settings, work, out.with_suffix(""))
    smollm = chosen.smollm or out.with_suffix("") / "smollm.json"
    result = {
        "table": 6,
        "settings": asdict(settings),
        **machine(chosen.threads),
        "paper": {name: dict(zip(PAPER_COLUMNS, row.paper, strict=False)) for name, row in ROWS.items() if row.paper},
        "rows": rows,
        "targets": judged(rows),
        "smollm": json.loads(smollm.read_text(encoding="utf-8")) if smollm.is_file() else None,
    }
    atomic_write_text(out, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(table(rows))
    print(f"\n{out}")
    print(json.dumps(result, ensure_ascii=False))


def _parser() -> argparse.ArgumentParser:
    parser = table_parser(__doc__, number=6, rows=ROWS)
    parser.add_argument("--model", help="the checkpoint (default nvila-mini)")
    parser.add_argument("--limit", type=int, help="at most so many questions a task")
    parser.add_argument("--samples", type=int, help=f"samples to calibrate on (default {Settings.samples})")
    parser.add_argument("--dtype", help="auto, bfloat16 or float32 (default auto)")
    parser.add_argument("--smollm", type=Path, help="result of smollm_perplexity.py (default: beside the rows)")
    return parser


if __name__ == "__main__":
    main()
