"""Table 5 at small scale: what to fine-tune, and with which rate, on five tasks that nvila-mini was not trained on.

Seven rows: LoRA, layer norms or all of the vision tower, with LoRA or QLoRA on the decoder, and everything on both.
Each learns each task (`downstream_tasks`) by itself, with the functions that `nvila finetune` runs, at the decoder's
rate and at rates for the tower that are 5, 10 and 50 times smaller. The ratio is chosen for each task by a validation
part, with the first seed; scores are those of a test part that no choice looks at. Further seeds train ratio 1 and the
chosen one. Memory and iterations a second are those of single steps with one sample, taken when all is trained.

    python reproduction/table5_finetuning.py               # within an hour and a half on two quiet cores
    python reproduction/table5_finetuning.py --quick       # a minute or two, to see that it works

A run that was stopped is continued by the same command, within a training too; a (row, ratio, task, seed) that is done
is kept beside `--out`.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from downstream_tasks import TASKS, commonest, write_tasks
from finetuning_rows import AS_GOOD, ROWS, Row, claims, table
from step_costs import Stepper, iterations_per_second
from tables import (
    SCRATCH,
    Results,
    add_training_options,
    finish,
    machine,
    mean_and_spread,
    places,
    say,
    seeds_of,
    table_parser,
    with_given,
)

from nvila.adapters.merge import attach_saved
from nvila.data.encode import EncodeOptions
from nvila.data.mixture import Mixture, data_config
from nvila.data.text_pairs import TextAndChatEncoder
from nvila.model import NVILAForConditionalGeneration
from nvila.processing import NVILAProcessor
from nvila.train.dense import DenseHead
from nvila.train.feed import MixtureFeed
from nvila.train.finetune.evaluate import HeldOut
from nvila.train.finetune.options import FinetuneOptions
from nvila.train.finetune.run import Prepared, prepare, run
from nvila.train.finetune.sweep import with_ratio
from nvila.train.learner import Learner
from nvila.train.recipe import Batches
from nvila.utils.device import choose_device, has_fast_bf16

CORPUS = SCRATCH.parent / "corpus-full"
EQUAL = 1.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What holds for all rows. Rates are peaks of a cosine with 3 % of warm-up, without weight decay."""

    start: str = "nvila-mini"
    train: int = 1000
    """Samples of each task."""
    valid: int = 80
    test: int = 200
    epochs: float = 1.0
    batch: int = 8
    rank: int = 16
    rate: float = 1e-3
    """Of the decoder's LoRA, and of the projector."""
    full_rate: float = 3e-4
    """Of everything, where the whole decoder learns."""
    ratios: tuple[float, ...] = (1.0, 5.0, 10.0, 50.0)
    """Of the decoder's rate to the tower's."""
    tasks: tuple[str, ...] = tuple(TASKS)
    timed: int = 15
    """Steps of each row that are timed."""


QUICK = Settings(train=24, valid=4, test=6, ratios=(1.0, 10.0), tasks=("screen", "slices"), timed=2)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all rows share."""

    settings: Settings
    data: Path
    work: Path
    results: Results
    processor: NVILAProcessor
    overrides: tuple[str, ...]
    """Of the recipe: threads, workers."""
    planned: dict[tuple[str, str, int], Prepared] = field(default_factory=dict)

    def held_out(self, task: str, part: str) -> HeldOut:
        """The validation or the test part of a task."""
        path = str(self.data / task / f"{part}.jsonl")
        return HeldOut(
            Mixture.open(data_config(path, format="openai")),
            TextAndChatEncoder(self.processor, EncodeOptions(max_tokens=None)),
            limit=max(self.settings.valid, self.settings.test),
            pad_id=self.processor.tokenizer.pad_token_id,
            workers=0,
        )


def options_of(row: Row, task: str, seed: int, bench: Bench) -> FinetuneOptions:
    """What `nvila finetune` would be asked for, at ratio 1."""
    settings = bench.settings
    steps = math.ceil(settings.epochs * settings.train / settings.batch)
    return FinetuneOptions(
        data=str(bench.data / task / "train.jsonl"),
        model=settings.start,
        format="openai",
        vision=row.vision,
        language=row.language,
        lr=settings.full_rate if row.language == "full" else settings.rate,
        lr_ratio=EQUAL,
        rank=settings.rank,
        epochs=settings.epochs,
        batch=settings.batch,
        eval_every=2 * steps,  # before and after; the weights of the last step are kept
        seed=seed,
    )


def prepared(bench: Bench, name: str, task: str, seed: int) -> Prepared:
    """A row's fine-tuning of a task, looked at and planned once. The survey of a task serves all rows."""
    key = (name, task, seed)
    if key not in bench.planned:
        out = bench.work / "runs" / task
        found = prepare(options_of(ROWS[name], task, seed, bench), out, overrides=bench.overrides)
        bench.planned[key] = replace(found, held_out=bench.held_out(task, "valid"))
    return bench.planned[key]


def tune(bench: Bench, name: str, task: str, ratio: float, seed: int) -> dict[str, Any]:
    """Fine-tunes and scores one row at one ratio on one task; scores are percent of exact answers."""
    unit = f"{name}-{task}-ratio{ratio:g}"
    found = bench.results.load(unit, seed)
    if found is None:
        say(f"{unit}, seed {seed}")
        planned = with_ratio(prepared(bench, name, task, seed), ratio)
        folder = bench.work / "runs" / task / f"{unit}-seed{seed}"
        result = run(planned, folder)
        if result.best is None or result.adapter is None:
            sys.exit(f"stopped within {folder.name}; the same command goes on there")
        values = {
            "valid": 100 * result.best.exact,
            "valid_loss": result.best.loss,
            "test": test_score(bench, task, result.adapter),
            "steps": result.best.step,
        }
        found = bench.results.save(unit, seed, values)
        shutil.rmtree(folder)
    say(f"{unit}, seed {seed}: {found['test']:.1f} (valid {found['valid']:.1f}, loss {found['valid_loss']:.3f})")
    return found


def test_score(bench: Bench, task: str, adapter: Path | None) -> float:
    """Percent of the test part that the start answers exactly, with an adapter or as it is."""
    device = choose_device()
    model: Any = NVILAForConditionalGeneration.from_pretrained(bench.settings.start, dtype=torch.float32)
    if adapter is not None:
        attach_saved(model, adapter)
    learner = Learner(model, DenseHead((), model.config.vision_config.hidden_size)).to(device)
    return 100 * bench.held_out(task, "test").score(learner, 0, bf16=has_fast_bf16(device)).exact


def run_row(bench: Bench, name: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Accuracies of a row: at ratio 1, and at the ratio that is best for each task by validation with the first seed.

    Of equals by exact answers that of the lower loss is taken, as the sweep of `nvila finetune` does.
    """
    settings = bench.settings
    ratios = settings.ratios if ROWS[name].searches else (EQUAL,)
    chosen: dict[str, float] = {}
    columns: dict[str, dict[str, list[float]]] = {"equal": {}, "best": {}}
    searched: dict[str, dict[str, float]] = {}
    for task in settings.tasks:
        first = {ratio: tune(bench, name, task, ratio, seeds[0]) for ratio in ratios}
        chosen[task] = max(first, key=lambda ratio: (first[ratio]["valid"], -first[ratio]["valid_loss"]))
        searched[task] = {f"{ratio:g}": found["test"] for ratio, found in first.items()}
        for column, ratio in (("equal", EQUAL), ("best", chosen[task])):
            columns[column][task] = [tune(bench, name, task, ratio, seed)["test"] for seed in seeds]
    return {"scores": {key: with_average(found) for key, found in columns.items()}, "load": {"ratios": chosen},
            "test_by_ratio": searched}  # fmt: skip


def with_average(values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Mean and spread over seeds of each task, and of the mean over tasks."""
    averages = [sum(of_seed) / len(of_seed) for of_seed in zip(*values.values(), strict=True)]
    found = {task: mean_and_spread(list(of_task)) for task, of_task in values.items()}
    return {**found, "average": mean_and_spread(averages)}


def measure(bench: Bench, names: Sequence[str]) -> dict[str, Any]:
    """Memory by component and iterations a second of rows, all taken together, one sample a step."""
    entry = f"costs-{'-'.join(names)}"
    found = bench.results.load(entry, 0)
    if found is None:
        say("measuring steps")
        task = bench.settings.tasks[0]
        mixture = Mixture.open(data_config(str(bench.data / task / "train.jsonl"), format="openai"))
        encoder = TextAndChatEncoder(bench.processor, EncodeOptions(max_tokens=None))
        single = Batches(pack=False, micro_batch=1, global_batch=1)
        feed = MixtureFeed(mixture, encoder, single, seed=0, pad_id=bench.processor.tokenizer.pad_token_id)
        batches = list(islice(feed.loader(0), bench.settings.timed))
        steppers = {name: Stepper(prepared(bench, name, task, 0).recipe, bench.work / "steps") for name in names}
        memory = {name: stepper.memory(batches[0]) for name, stepper in steppers.items()}
        speeds = iterations_per_second(steppers, batches)
        costs = {name: {"memory": memory[name], "iterations_per_s": speeds[name]} for name in names}
        found = bench.results.save(entry, 0, {"costs": costs})
    costs_of: dict[str, Any] = found["costs"]
    return costs_of


def baselines(bench: Bench) -> dict[str, dict[str, float]]:
    """Of each task: percent of the start as it is, and of always giving the commonest answer of the test part."""
    found = bench.results.load("before", 0)
    if found is None:
        say("scoring the start as it is")
        values = {
            task: {
                "before": test_score(bench, task, None),
                "commonest answer": commonest(bench.data / task / "test.jsonl"),
            }
            for task in bench.settings.tasks
        }
        found = bench.results.save("before", 0, {"tasks": values})
    tasks: dict[str, dict[str, float]] = found["tasks"]
    return tasks


def set_up(settings: Settings, results: Results, work: Path, corpus: Path, chosen: argparse.Namespace) -> Bench:
    """The tasks' data, made where they are missing."""
    data = work / f"data-{settings.train}-{settings.valid}-{settings.test}"
    if not data.exists():
        say("making the tasks")
        write_tasks(data, corpus=corpus, train=settings.train, valid=settings.valid, test=settings.test)
    return Bench(
        settings=settings,
        data=data,
        work=work / results.key,
        results=results,
        processor=NVILAProcessor.from_pretrained(settings.start),
        overrides=(
            f"run.threads={chosen.threads}",
            f"run.workers={chosen.workers}",
            "run.checkpoint_seconds=120.0",
        ),
    )


def main(arguments: list[str] | None = None) -> None:
    chosen = _parser().parse_args(arguments)
    given = ("start", "train", "valid", "test", "epochs", "batch", "rate", "full_rate")
    settings = with_given(QUICK if chosen.quick else Settings(), chosen, given)
    if chosen.tasks:
        settings = replace(settings, tasks=tuple(chosen.tasks))
    work, out = places(chosen, number=5)
    seeds = seeds_of(chosen)
    torch.set_num_threads(chosen.threads)
    results = Results(out.with_suffix(""), asdict(settings))
    bench = set_up(settings, results, work, chosen.corpus, chosen)
    names = chosen.rows or list(ROWS)
    rows = {name: run_row(bench, name, seeds) for name in names}
    for name, costs in measure(bench, names).items():
        rows[name]["costs"] = costs
    held = claims(rows)
    result = {
        "table": 5,
        "settings": results.settings,
        "tasks": {task: TASKS[task] for task in settings.tasks},
        "seeds": seeds,
        "spread": "half the range over seeds",
        "as_good": AS_GOOD,
        "metrics": "percent of exact answers; memory in bytes of a step with one sample, no checkpointing",
        **machine(chosen.threads),
        "paper": {name: asdict(row.paper) for name in rows if (row := ROWS[name]).paper},
        "baselines": baselines(bench),
        "held": held,
        "rows": rows,
    }
    finish(out, table(rows, settings.tasks, held), result)


def _parser() -> argparse.ArgumentParser:
    parser = table_parser(__doc__, number=5, rows=ROWS)
    add_training_options(parser)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), help="only these tasks")
    parser.add_argument("--train", type=int, help=f"samples of each task (default {Settings.train})")
    parser.add_argument("--valid", type=int, help=f"of each task, to choose a ratio by (default {Settings.valid})")
    parser.add_argument("--test", type=int, help=f"of each task, to score by (default {Settings.test})")
    parser.add_argument("--epochs", type=float, help=f"times that each is seen (default {Settings.epochs:g})")
    parser.add_argument("--batch", type=int, help=f"samples of a step (default {Settings.batch})")
    parser.add_argument("--rate", type=float, help=f"of LoRA and the projector (default {Settings.rate:g})")
    parser.add_argument("--full-rate", type=float, help=f"of the whole model (default {Settings.full_rate:g})")
    parser.add_argument(
        "--corpus", type=Path, default=CORPUS, help="a built corpus with slices (default: the full one)"
    )
    return parser


if __name__ == "__main__":
    main()
