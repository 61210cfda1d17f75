"""From data and models to a folder of scores: the passes that a criterion takes, and how it joins them.

Each step puts its parts down and looks first at what is there, so that the same command goes on after a stop at any
moment. Processes share nothing but the folder.
"""

from __future__ import annotations

import gc
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from nvila.errors import DataError
from nvila.pruning.score.data import Corpus
from nvila.pruning.score.models import device_of, fingerprint, load_scorer, spelling
from nvila.pruning.score.options import NEEDED, ScoreOptions
from nvila.pruning.score.passes import Broken, Pass, read_pass, run_pass
from nvila.pruning.scores import (
    OK,
    Manifest,
    ScoringModel,
    agree,
    finished_parts,
    mark_complete,
    schema,
    table_of,
    write_part,
)
from nvila.utils.device import choose_dtype

Row = dict[str, Any]
OnProgress = Callable[[str, int, int], None]
"""Told the name of the pass, and how many of how many samples it has done."""

_COLUMNS: Mapping[str, tuple[str, str, str, str]] = {
    "deltaloss": ("log_p_large", "log_p_small", "delta", "delta_mean"),
    "image_gain": ("log_p_with", "log_p_without", "gain", "gain_mean"),
}
"""Of each criterion of two passes: the columns of the first and the second, their difference, its mean."""


@dataclass(frozen=True, kw_only=True)
class PassReport:
    """What a pass did in this run."""

    name: str
    num_samples: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ScoreReport:
    """What a scoring came to. `by_status` counts all finished samples of the folder."""

    folder: Path
    num_samples: int
    by_status: Mapping[str, int]
    passes: tuple[PassReport, ...]
    is_complete: bool


def score(out: Path, options: ScoreOptions, *, on_progress: OnProgress = lambda name, done, total: None) -> ScoreReport:
    """Score every sample of this shard that has no score yet, into `out/<criterion>`.

    Raises ConfigError where that folder holds other scores, DataError where too many samples are broken, and what
    opening the data and the models raises.
    """
    corpus = Corpus(options.data)
    passes = _passes(options)
    folder = out / options.criterion
    unit = _unit(passes)
    agree(folder, _manifest(corpus, options, passes, unit))
    chunks = range(options.shard.index, corpus.num_chunks, options.shard.count)
    reports: list[PassReport] = []
    for one in passes:
        todo = _unfinished(chunks, folder, folder / one.name)
        if todo:
            if reports:
                gc.collect()  # the model of the pass before may hang in a cycle of references, and both need not fit
            reports.append(_run(corpus, one, todo, folder / one.name, options, on_progress))
        _counted(folder / one.name, options).check(is_last=True)
    found = [finished_parts(folder / one.name) for one in passes]
    for chunk in _unfinished(chunks, folder):
        rows = _paired([parts[chunk] for parts in found], options.criterion, unit) if found else None
        rows = rows or [_random_row(corpus, number, options.seed) for number in corpus.chunk(chunk)]
        write_part(folder, options.shard.index, chunk, table_of(rows, schema(options.criterion)))
        on_progress("scores", corpus.chunk(chunk).stop, len(corpus))
    parts = finished_parts(folder)
    is_complete = len(parts) == corpus.num_chunks
    if is_complete:
        mark_complete(folder)
    return ScoreReport(
        folder=folder,
        num_samples=len(corpus),
        by_status=_count_statuses(parts.values()),
        passes=tuple(reports),
        is_complete=is_complete,
    )


def joined(first: Row, second: Row, criterion: str, unit: str) -> Row:
    """A sample's row of a criterion of two passes, from its rows of both.

    The sample has a score where both models gave one; otherwise its status is the first that is not `ok`. The mean
    divides by one number for both, or it would compare models by the lengths of their tokens: the tokens of the answers
    where the models split alike (`unit` is "token"), else their UTF-8 bytes ("byte").
    """
    names = _COLUMNS[criterion]
    row: Row = {key: first[key] for key in ("id", "source", "num_tokens")}
    status = next((one["status"] for one in (first, second) if one["status"] != OK), OK)
    row["status"] = status
    row |= {names[0]: first["log_p"], names[1]: second["log_p"]}
    if status != OK:
        return row
    difference = first["log_p"] - second["log_p"]
    length = first["num_tokens" if unit == "token" else "num_bytes"]
    return row | {"score": difference, names[2]: difference, names[3]: difference / length}


def random_score(identifier: str, seed: int) -> float:
    """A number from 0 up to 1 that follows from the id and the seed alone."""
    digest = hashlib.blake2b(f"{seed} {identifier}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


def _passes(options: ScoreOptions) -> tuple[Pass, ...]:
    match options.criterion:
        case "deltaloss":
            assert options.large is not None
            assert options.small is not None
            return Pass(name="large", model=options.large), Pass(name="small", model=options.small)
        case "image_gain":
            assert options.model is not None
            seeing = Pass(name="with", model=options.model, needs_media=True)
            return seeing, Pass(name="without", model=options.model, needs_media=True, sees_media=False)
        case _:
            return ()


def _unit(passes: Sequence[Pass]) -> str:
    """What a mean is taken over: tokens where all models split text alike, else bytes."""
    return "token" if len({spelling(model) for model in {one.model for one in passes}}) <= 1 else "byte"


def _manifest(corpus: Corpus, options: ScoreOptions, passes: Sequence[Pass], unit: str) -> Manifest:
    names = {name: vars(options)[name] for name in NEEDED[options.criterion]}
    models = tuple(ScoringModel(role=role, name=name, fingerprint=fingerprint(name)) for role, name in names.items())
    told: Row = {"chunk_samples": corpus.chunk_samples}
    if passes:
        told |= {name: vars(options.run)[name] for name in ("max_tokens", "max_tiles", "num_frames")}
        dtype = choose_dtype(options.run.dtype, device_of(options.run))
        told |= {"dtype": str(dtype).removeprefix("torch."), "mean_per": unit}
    else:
        told["seed"] = options.seed
    return Manifest(criterion=options.criterion, sources=corpus.sources, models=models, options=told)


def _unfinished(chunks: Iterable[int], *folders: Path) -> list[int]:
    """The chunks that none of the folders has a part of."""
    done = {chunk for folder in folders for chunk in finished_parts(folder)}
    return [chunk for chunk in chunks if chunk not in done]


def _run(
    corpus: Corpus, one: Pass, chunks: Sequence[int], folder: Path, options: ScoreOptions, on_progress: OnProgress
) -> PassReport:
    """A pass over the chunks that are left, here or on a cluster. The model is gone when it returns."""
    start = time.monotonic()
    total = sum(len(corpus.chunk(chunk)) for chunk in chunks)
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        on_progress(one.name, done, total)

    tell(0)
    if options.ray:
        from nvila.pruning.score.on_ray import run_pass_on_ray

        run_pass_on_ray(corpus, one, chunks, folder, run=options.run, num_workers=options.ray, on_samples=tell)
    else:
        scorer = load_scorer(one.model, options.run)
        broken = _counted(folder, options)
        broken.check(is_last=False)
        run_pass(
            corpus, one, scorer, chunks, folder, run=options.run, shard=options.shard.index, broken=broken,
            on_samples=tell,
        )  # fmt: skip
    return PassReport(name=one.name, num_samples=total, seconds=time.monotonic() - start)


def _counted(folder: Path, options: ScoreOptions) -> Broken:
    """The count of broken samples as this shard's finished parts of the pass leave it."""
    broken = Broken(options.run.max_broken)
    for chunk, path in finished_parts(folder).items():
        if chunk % options.shard.count == options.shard.index:
            broken.count(read_pass(path, ["status", "reason"]))
    return broken


def _paired(paths: Sequence[Path], criterion: str, unit: str) -> list[Row]:
    """The rows of a chunk from the parts of its two passes. Raises DataError where they hold other samples."""
    first, second = (read_pass(path) for path in paths)
    if [(row["source"], row["id"]) for row in first] != [(row["source"], row["id"]) for row in second]:
        raise DataError(
            f"{paths[0]} and {paths[1]} hold other samples; the data changed between the passes: remove both, and "
            "run the same command again"
        )
    return [joined(*rows, criterion, unit) for rows in zip(first, second, strict=True)]


def _random_row(corpus: Corpus, number: int, seed: int) -> Row:
    read = corpus.read(number)
    row: Row = {"id": read.id, "source": read.source, "status": read.status or OK, "num_tokens": 0}
    return row if read.status else row | {"score": random_score(read.id, seed)}


def _count_statuses(parts: Iterable[Path]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for path in parts:
        for pair in pc.value_counts(pq.read_table(path, columns=["status"])["status"]).to_pylist():
            counts[pair["values"]] += pair["counts"]
    return dict(counts.most_common())
