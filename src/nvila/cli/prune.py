"""`nvila prune`: score the samples of a data set, choose among them, and look at what that keeps."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from nvila.cli.prune_report import add_report_command
from nvila.cli.prune_select import add_select_command
from nvila.errors import ConfigError
from nvila.layouts import MINI
from nvila.pruning.score.options import DataOptions, RunOptions, ScoreOptions, Shard

BY_FEATURES = ("cluster", "coverage")
"""Criteria by where a sample lies among the others; the others look at each sample alone."""

app = typer.Typer(no_args_is_help=True)
add_select_command(app)
add_report_command(app)

_RUN = RunOptions()


@app.command("score")
def score(
    data: str = typer.Argument(..., help="A data file, folder, pattern or URL in any format, or a mixture (TOML)."),
    out: Path = typer.Option(..., help="Folder of scores; scores that are there are gone on with."),
    criterion: str = typer.Option("deltaloss", help="deltaloss, image_gain, random, cluster or coverage."),
    large: str | None = typer.Option(None, help="deltaloss: the large model (folder, hub id, nvila-mini)."),
    small: str | None = typer.Option(None, help="deltaloss: the small model."),
    model: str | None = typer.Option(
        None, help="image_gain: the model; cluster: whose vision tower; coverage: whose states (both: nvila-mini)."
    ),
    clusters: int | None = typer.Option(None, help="cluster, coverage: clusters of each source (default: by size)."),
    format: str | None = typer.Option(None, help="Name of the records' format (default: told from each record)."),
    media_root: str | None = typer.Option(None, help="Where relative media paths start (default: beside the data)."),
    batch_tokens: int | None = typer.Option(None, help="Tokens of a batch (default: 2048 on a CPU, else 8192)."),
    max_tokens: int | None = typer.Option(None, help="Longer samples get no score (default: the model's positions)."),
    max_tiles: int | None = typer.Option(None, help="Tiles of each picture, for NVILA models."),
    num_frames: int | None = typer.Option(None, help="Frames of each clip (default: the model's own)."),
    dtype: str = typer.Option(_RUN.dtype, help="auto, bfloat16, float16 or float32."),
    device: str = typer.Option(_RUN.device, help="auto, cpu, cuda or cuda:N."),
    workers: int | None = typer.Option(None, help="Processes that read (default: 0 on the CPU, else up to 8)."),
    max_broken: float = typer.Option(_RUN.max_broken, help="Share of broken samples above which to stop."),
    chunk_samples: int | None = typer.Option(None, help="Samples of a part, what a kill may cost (default: by size)."),
    seed: int = typer.Option(0, help="random, cluster, coverage: seed of the scores."),
    shard: str | None = typer.Option(None, help="I/N: score part I of N; by itself under torchrun."),
    ray: int = typer.Option(0, help="Score with this many workers of a Ray cluster."),
) -> None:
    """Score every sample of a data set: by two models, by what its picture adds, at random, or among the others.

    The same command goes on after a stop at any moment. Progress goes to standard error, the summary to standard
    output.
    """
    _need_pyarrow()
    run = RunOptions(
        batch_tokens=batch_tokens,
        max_tokens=max_tokens,
        max_tiles=max_tiles,
        num_frames=num_frames,
        dtype=dtype,
        device=device,
        workers=workers,
        max_broken=max_broken,
    )
    common: dict[str, Any] = {
        "data": DataOptions(data=data, format=format, media_root=media_root, chunk_samples=chunk_samples),
        "criterion": criterion,
        "run": run,
        "seed": seed,
        "shard": _shard(shard, os.environ),
    }
    if criterion in BY_FEATURES:
        _refuse(criterion, large=large, small=small, ray=ray or None)
        _score_by_features(out, model=model or MINI, clusters=clusters, **common)
    else:
        _refuse(criterion, clusters=clusters)
        _score(out, ScoreOptions(large=large, small=small, model=model, ray=ray, **common))


def _score(out: Path, options: ScoreOptions) -> None:
    """Scores by models or at random, and prints the summary."""
    from nvila.pruning.score.criteria import score
    from nvila.utils.progress import status

    with status(f"opening {options.data.data}") as line:
        report = score(out, options, on_progress=_Rate(line).tell)
    speeds = [(one.name, one.num_samples, one.seconds) for one in report.passes]
    print(_summary(report.folder, report.num_samples, report.by_status, speeds, is_complete=report.is_complete))


def _score_by_features(out: Path, **options: Any) -> None:
    """Scores by where samples lie among the others, and prints the summary."""
    from nvila.pruning.features import FeatureOptions, score_by_features
    from nvila.utils.progress import status

    chosen = FeatureOptions(**options)
    with status(f"opening {chosen.data.data}") as line:
        report = score_by_features(out, chosen, on_progress=_Rate(line).tell)
    speeds = [("features", report.num_samples, report.seconds)]
    print(_summary(report.folder, report.num_samples, report.by_status, speeds, is_complete=report.is_complete))


def _refuse(criterion: str, **given: object) -> None:
    """Raises ConfigError for options that the criterion does not take."""
    for name, value in given.items():
        if value is not None:
            raise ConfigError(f"the criterion {criterion} takes no --{name}; leave it out")


def _need_pyarrow() -> None:
    """Raises ConfigError where the package that writes scores is missing."""
    from importlib.util import find_spec

    if find_spec("pyarrow") is None:
        raise ConfigError('scores are Parquet files, which need pyarrow; install it with: pip install "nvila[prune]"')


def _shard(given: str | None, environment: Mapping[str, str]) -> Shard:
    """The shard asked for, or this process's place among those that torchrun started."""
    rank, world_size = environment.get("RANK"), environment.get("WORLD_SIZE")
    if given is not None:
        return Shard.parse(given)
    if rank is None or world_size is None:
        return Shard()
    return Shard.parse(f"{rank}/{world_size}")


class _Rate:
    """Says on the status line how far a pass is, and how fast."""

    def __init__(self, line: Any) -> None:
        self._line = line
        self._name = ""
        self._start = 0.0

    def tell(self, name: str, done: int, total: int) -> None:
        if name != self._name:
            self._name, self._start = name, time.monotonic()
        seconds = time.monotonic() - self._start
        speed = f", {done / seconds:.1f} a second, {(total - done) * seconds / done:.0f} s left" if done else ""
        bar = "#" * (20 * done // max(total, 1))
        self._line.update(f"{name} [{bar:<20}] {done:,} of {total:,} samples{speed}")


def _summary(
    folder: Path,
    num_samples: int,
    by_status: Mapping[str, int],
    speeds: Sequence[tuple[str, int, float]],
    *,
    is_complete: bool,
) -> str:
    """What was done, as text; `speeds` are the passes' names, samples and seconds."""
    lines = [
        f"{name}: {count:,} samples in {seconds:.1f} s, {count / max(seconds, 1e-9):.2f} samples/s"
        for name, count, seconds in speeds
    ]
    counted = ", ".join(f"{count:,} {status}" for status, count in by_status.items())
    lines.append(f"{folder}: {sum(by_status.values()):,} of {num_samples:,} samples: {counted or 'none yet'}")
    if not is_complete:
        lines.append("not complete: other shards are still to come")
    return "\n".join(lines)
