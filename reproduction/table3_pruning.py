"""Table 3 at small scale: half, 30 % and 10 % of a redundant corpus, chosen by DeltaLoss, cluster, chance, and ours.

Every row trains the same student (`pruning_models`) on its part of the same corpus (`redundant_corpus`) with the same
recipe, once for as many epochs as all of the corpus has, and once for as many steps. What is chosen is chosen by
`nvila.pruning`, within each sub-data-set (equation 1), by scores of nvila-mini and of a small model cut from it. Then
the paper's second experiment: a weaker source is added, raw and pruned.

    python reproduction/table3_pruning.py                  # a bit over an hour on two quiet cores
    python reproduction/table3_pruning.py --quick          # minutes, to see that it works; its scores mean nothing

A run that was stopped is continued by the same command; a (row, seed) that is done is kept beside `--out`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from kept_features import Kept, kept_features
from pruning_models import BY_FEATURES, Preparation, prepared, scored, seconds_of_preparing, selected
from pruning_report import claims, costs_of_scoring, table
from pruning_rows import ALL, CRITERIA, ROWS, START, Row
from redundant_corpus import FRESH, WEAK, Kind, Portions, count_kinds, mixture_text, read_kinds, write_corpus
from small_scale import (
    HeldOut,
    drop_weights,
    last_losses,
    model_recipe,
    num_samples,
    pace,
    phase,
    read_held_out,
    ready_to_answer,
    run_options,
    scores,
    seconds_per_sample,
    start_config,
    trained,
)
from tables import (
    Results,
    add_training_options,
    finish,
    machine,
    places,
    say,
    seeds_of,
    summary,
    table_parser,
    with_given,
)

from nvila.data.corpus import Assets
from nvila.model import NVILAForConditionalGeneration
from nvila.processing import NVILAProcessor
from nvila.train.recipe import Part, Recipe, Run
from nvila.utils.atomic import atomic_write_text
from nvila.utils.device import choose_dtype

NUM_CALIBRATED = 32
"""Pictures of the corpus that a new projector is fitted to."""
PACE_STEPS = 40
"""Of a training that is only timed."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What holds for all rows; rates are peaks of a cosine with 3 % of warm-up, without weight decay (section 3.1)."""

    start: str = "nvila-mini"
    """The large model, and what the small one and the student are made from."""
    samples: int = 1200
    """Of each of the three sub-data-sets."""
    portions: Portions = field(default_factory=Portions)
    weak_samples: int = 1200
    """Of the weaker source of the second experiment."""
    weak: Portions = field(default_factory=lambda: Portions(duplicates=0.4, wrong=0.4))
    held_out: int = 200
    """Questions of each column."""
    small: Preparation = field(
        default_factory=lambda: Preparation(depth=0.5, train=("projector", "llm"), samples=12800, rate=1e-3)
    )
    student: Preparation = field(
        default_factory=lambda: Preparation(depth=1.0, train=("projector",), samples=3200, rate=2e-3)
    )
    epochs: float = 2.0
    """Of the whole corpus; all rows have as many epochs of their part, or as many steps as all of it."""
    batch: int = 16
    rate: float = 3e-4


def quick_settings() -> Settings:
    """Sizes at which everything runs and nothing is learned."""
    full = Settings()
    return replace(
        full,
        samples=24,
        weak_samples=24,
        portions=replace(full.portions, copies=5),
        weak=replace(full.weak, copies=5),
        held_out=4,
        small=replace(full.small, samples=64),
        student=replace(full.student, samples=64),
        epochs=1.0,
        batch=4,
    )


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all rows share: data, models, folders, and the features of the tower, which is frozen."""

    settings: Settings
    data: Path
    work: Path
    results: Results
    student: Path
    small: Path
    held_out: Sequence[HeldOut]
    kinds: dict[str, dict[str, Kind]]
    run: Run
    kept: Kept = field(default_factory=dict)

    @property
    def num_corpus(self) -> int:
        """Samples of the corpus."""
        return len(FRESH) * self.settings.samples


def tuning(
    settings: Settings, student: Path, mixture: Path, steps: int, *, run: Run, parts: tuple[Part, ...]
) -> Recipe:
    """The recipe of every row: one phase from the student."""
    stage = phase("tuning", mixture, batch=settings.batch, steps=steps, rate=settings.rate, train=parts)
    model = model_recipe(start_config(str(student)), str(student))
    return Recipe(name="table3", stage=(stage,), run=run, model=model)


def part_of(bench: Bench, row: Row, seed: int) -> tuple[Path, set[str]]:
    """The mixture that a row trains on, and the ids of the samples in it. Scores what has no scores yet."""
    everything = {identifier for name in FRESH for identifier in bench.kinds[name]}
    if row.weak:
        everything |= set(bench.kinds[WEAK])
    if not row.method:
        path = bench.work / ("corpus-and-weak.toml" if row.weak else "corpus.toml")
        names = (*FRESH, WEAK) if row.weak else tuple(FRESH)
        atomic_write_text(path, mixture_text(path.stem, dict.fromkeys(names), bench.data))
        return path, everything
    source = WEAK if row.weak else "corpus"
    folder = score_once(bench, row.method, source, seed)
    name = f"{source}-{row.method}-{row.keep:g}" + (f"-seed{seed}" if row.method == "random" else "")
    out, ids = selected(folder, bench.work / "keep" / name, row.method, row.keep)
    if not row.weak:
        return out / "mixture.toml", ids
    path = bench.work / f"corpus-and-{name}.toml"
    keeps: dict[str, Path | None] = dict.fromkeys(FRESH)
    atomic_write_text(path, mixture_text(path.stem, {**keeps, WEAK: out / f"{WEAK}.parquet"}, bench.data))
    return path, ids | {identifier for name in FRESH for identifier in bench.kinds[name]}


def score_once(bench: Bench, criterion: str, source: str, seed: int) -> Path:
    """The folder of scores of the corpus or the weak source, which are made where they are missing and timed.

    Chance has other scores for each seed; the clusters are those of one.
    """
    own = f"-seed{seed}" if criterion == "random" else ""
    entry, out = f"scoring-{source}-{criterion}{own}", bench.work / f"scores-{source}{own}"
    if criterion == "coverage":
        score_once(bench, "image_gain", source, seed)
    if bench.results.load(entry, 0) is None or not (out / criterion).exists():
        say(f"scoring {source} by {criterion}{own}")
        given = {"large": bench.settings.start, "small": str(bench.small)} if criterion == "deltaloss" else {}
        if criterion in (*BY_FEATURES, "image_gain"):
            given = {"model": bench.settings.start if criterion == "cluster" else str(bench.small)}
        cost = scored(criterion, bench.data / f"{source}.toml", out, given, seed=seed if own else 0)
        bench.results.save(entry, 0, {"cost": cost})
    return out


def run_row(bench: Bench, name: str, seed: int) -> dict[str, Any]:
    """Trains and scores one row with one seed."""
    row, settings = ROWS[name], bench.settings
    if name == START:
        return {**answers_of_start(bench), "costs": {"samples": 0, "steps": 0}, "load": {}, "losses": {}}
    mixture, ids = part_of(bench, row, seed)
    shown = settings.epochs * (bench.num_corpus if row.budget == "steps" else len(ids))
    steps = round(shown / settings.batch)
    run = replace(bench.run, seed=seed)
    recipe = tuning(settings, bench.student, mixture, steps, run=run, parts=("projector", "llm"))
    folder = bench.work / "runs" / f"{name}-seed{seed}"
    with kept_features(bench.kept):
        learner = trained(recipe, folder)
        model, processor = ready_to_answer(learner, str(bench.student))
        found = scores(model, processor, bench.held_out, batch_size=50)
    found |= {
        "costs": {
            "samples": len(ids),
            "steps": steps,
            "training_seconds_per_sample": seconds_per_sample(recipe, folder),
            **removed(bench, ids, weak=bool(row.weak)),
        },
        "load": {"shown": num_samples(recipe)},
        "losses": last_losses(folder),
    }
    drop_weights(recipe, folder)
    return found


def removed(bench: Bench, ids: set[str], *, weak: bool) -> dict[str, float]:
    """Percent of each kind that is not among `ids`: of the weak source where there is one, else of the corpus."""
    sources = [WEAK] if weak else list(FRESH)
    totals = count_kinds(bench.kinds, sources)
    found = {name: {key: kind for key, kind in bench.kinds[name].items() if key in ids} for name in sources}
    left = count_kinds(found, sources)
    return {f"{kind}_removed": 100 * (1 - left.get(kind, 0) / total) for kind, total in totals.items()}


def answers_of_start(bench: Bench) -> dict[str, Any]:
    """The student's scores before it has seen any of the corpus."""
    dtype = choose_dtype("auto", torch.device("cpu"))
    model = NVILAForConditionalGeneration.from_pretrained(bench.student, dtype=dtype)
    return scores(model.eval(), NVILAProcessor.from_pretrained(bench.student), bench.held_out, batch_size=50)


def measure_pace(bench: Bench) -> dict[str, Any]:
    """Seconds a sample of training on the corpus with the tower run each time: the rows' recipe, and all parts."""
    found = bench.results.load("pace", 0)
    if found is None:
        say("timing the training as it is without kept features")
        mixture, _ = part_of(bench, ROWS[ALL], 0)
        kinds: dict[str, tuple[Part, ...]] = {
            "tuning": ("projector", "llm"),
            "everything": ("vision", "projector", "llm"),
        }
        paces = {}
        for name, parts in kinds.items():
            recipe = tuning(bench.settings, bench.student, mixture, PACE_STEPS, run=bench.run, parts=parts)
            folder = bench.work / "runs" / f"pace-{name}"
            paces[name], _ = pace(recipe, folder, steps=PACE_STEPS)
            drop_weights(recipe, folder)
        found = bench.results.save("pace", 0, {"seconds_per_sample": paces})
    seconds: dict[str, Any] = found["seconds_per_sample"]
    return seconds


def set_up(settings: Settings, results: Results, work: Path, assets: Path | None, run: Run) -> Bench:
    """Data and models, made where they are missing; the small model's training is timed."""
    data = work / "data"
    if not data.exists():
        say("drawing the corpus")
        write_corpus(
            data,
            samples=settings.samples,
            portions=settings.portions,
            weak_samples=settings.weak_samples,
            weak=settings.weak,
            held_out=settings.held_out,
            assets=Assets.load(assets),
        )
    pictures = sorted(path for name in FRESH for path in (data / "pictures" / name).iterdir())
    pictures = pictures[:: max(1, len(pictures) // NUM_CALIBRATED)][:NUM_CALIBRATED]
    paths = {}
    for name, preparation in (("student", settings.student), ("small", settings.small)):
        say(f"preparing the {name} model")
        paths[name] = prepared(name, settings.start, preparation, work, pictures, assets=assets, seed=0, run=run)
    return Bench(
        settings=settings,
        data=data,
        work=work,
        results=results,
        student=paths["student"],
        small=paths["small"],
        held_out=read_held_out(data),
        kinds=read_kinds(data),
        run=run,
    )


def main(arguments: list[str] | None = None) -> None:
    chosen = _parser().parse_args(arguments)
    given = ("samples", "weak_samples", "held_out", "start", "epochs", "batch")
    settings = with_given(quick_settings() if chosen.quick else Settings(), chosen, given)
    place, out = places(chosen, number=3)
    seeds = seeds_of(chosen)
    chance_seeds = chosen.chance_seeds or (seeds if chosen.quick else [0, 1, 2])
    results = Results(out.with_suffix(""), asdict(settings))
    torch.set_num_threads(chosen.threads)
    bench = set_up(settings, results, place / results.key, chosen.assets, run_options(chosen.threads, chosen.workers))
    names = chosen.rows or list(ROWS)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed in sorted({*seeds, *chance_seeds}):
        now = [name for name in names if seed in (chance_seeds if ROWS[name].is_chance else seeds)]
        now = [name for name in now if name != START or seed == min(seeds)]
        for name, entries in results.complete(now, [seed], lambda name, seed: run_row(bench, name, seed)).items():
            runs[name] += entries
    rows = {name: summary(found) for name, found in runs.items() if found}
    scoring = {name: found["cost"] for name in CRITERIA if (found := results.load(f"scoring-corpus-{name}", 0))}
    costs = costs_of_scoring(
        scoring,
        measure_pace(bench),
        settings.epochs,
        preparing=seconds_of_preparing("small", bench.work),
        samples=bench.num_corpus,
    )
    result = {
        "table": 3,
        "settings": results.settings,
        "corpus": {name: count_kinds(bench.kinds, [name]) for name in bench.kinds},
        "seeds": {"of chance": chance_seeds, "others": seeds},
        "spread": "half the range over seeds",
        "metrics": {"natural": "accepted", "charts": "relaxed", "text": "ANLS"},
        **machine(chosen.threads),
        "paper": {name: ROWS[name].paper for name in rows if ROWS[name].paper},
        "costs_of_scoring": costs,
        "held": claims(rows),
        "rows": rows,
    }
    finish(out, table(rows, costs, result["held"]), result)


def _parser() -> argparse.ArgumentParser:
    parser = table_parser(__doc__, number=3, rows=ROWS)
    add_training_options(parser)
    parser.add_argument("--chance-seeds", type=int, nargs="+", help="seeds of random rows and of all (default 0 1 2)")
    parser.add_argument("--samples", type=int, help=f"of each sub-data-set (default {Settings.samples})")
    parser.add_argument("--weak-samples", type=int, help=f"of the weaker source (default {Settings.weak_samples})")
    parser.add_argument("--held-out", type=int, help=f"questions of each column (default {Settings.held_out})")
    parser.add_argument("--epochs", type=float, help=f"of the whole corpus (default {Settings.epochs:g})")
    parser.add_argument("--batch", type=int, help=f"samples of a step (default {Settings.batch})")
    parser.add_argument("--assets", type=Path, help="what generators draw from (default: as nvila data assets made it)")
    return parser


if __name__ == "__main__":
    main()
