"""A plan and prepared material to a corpus: shards made in parallel, resumed after a kill, and a manifest.

A sample depends on (family, split, seed, index) and the material alone, so the number of workers, their order, and
kills in between change nothing. `.build/` beside the shards holds the request that a corpus was begun with and a record
of every finished shard; it may be removed once there is a manifest.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nvila.data.build.family import Family
from nvila.data.build.fetch import BuildFolder
from nvila.data.build.manifest import NumUnits, libraries, make_manifest
from nvila.data.build.plan import SPLITS, Plan
from nvila.data.build.shards import ShardRecord, ShardTask
from nvila.data.build.workers import Job, run_tasks
from nvila.errors import ConfigError, DataError
from nvila.utils.atomic import atomic_write_text

MANIFEST = "manifest.json"
_STATE = ".build"


def build_corpus(
    plan: Plan,
    families: Mapping[str, Family],
    out: Path,
    *,
    seed: int = 0,
    workers: int | None = None,
    folder: BuildFolder | None = None,
    on_progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Build the corpus of `plan` in `out`, or go on with one that was begun there; returns its manifest.

    `families` are those of the plan, by name; `workers` None takes one process per processor, 0 none; `folder` is
    where the material lies. Raises ConfigError when `out` holds something else, DataError where material is missing,
    a family fails, or a worker dies (what is finished is kept).
    """
    if workers is not None and workers < 0:
        raise ConfigError(f"workers is {workers}; give 0 or more")
    place = folder or BuildFolder.default()
    prepared = {name: place.prepared(name) for name in plan.families}
    job = Job(
        families=families,
        shares=plan.families,
        materials={name: place.material(name) for name in plan.families},
        seed=seed,
        out=out,
    )
    request = {"plan": asdict(plan), "seed": seed, "prepared": prepared, "libraries": libraries()}
    _claim(out, json.loads(json.dumps(request)))
    tasks = shard_tasks(plan)
    finished = [record for task in tasks if (record := _finished(out, task)) is not None]
    num_units = _count_units(job, plan)
    done = {record.path for record in finished}
    progress = _Progress(sum(record.samples for record in finished), tasks, on_progress)
    waiting = [task for task in tasks if task.path not in done]
    for record in run_tasks(job, waiting, (os.cpu_count() or 1) if workers is None else workers, progress.step):
        atomic_write_text(_record_path(out, record.path), record.as_json())
        finished.append(record)
    manifest = make_manifest(plan, seed=seed, records=finished, num_units=num_units, prepared=prepared)
    atomic_write_text(out / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest


def shard_tasks(plan: Plan) -> list[ShardTask]:
    """The shards of a plan; families take turns, so that one which is slow does not end up alone."""
    tasks = [
        ShardTask(
            family=name, split=split, number=number, start=start, stop=min(start + plan.shard_size, share.on(split))
        )
        for name, share in plan.families.items()
        for split in SPLITS
        for number, start in enumerate(range(0, share.on(split), plan.shard_size))
    ]
    return sorted(tasks, key=lambda task: (task.number, task.split == "heldout"))


def _claim(out: Path, request: dict[str, Any]) -> None:
    """Make `out` ours. Raises ConfigError when it holds a corpus of another request, or other files."""
    path = out / _STATE / "request.json"
    if path.is_file():
        begun = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key in request if begun.get(key) != request[key]]
        if changed:
            raise ConfigError(
                f"{out}: holds a corpus begun with another {' and '.join(changed)}; choose another folder, or remove it"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: is there already and holds no corpus; choose another folder")
    atomic_write_text(path, json.dumps(request))


def _record_path(out: Path, shard: str) -> Path:
    return out / _STATE / f"{shard}.json"


def _finished(out: Path, task: ShardTask) -> ShardRecord | None:
    """The record of a shard that is there, whole; None where it has to be made."""
    path, shard = _record_path(out, task.path), out / task.path
    if not path.is_file() or not shard.is_file():
        return None
    record = ShardRecord.from_json(path.read_text(encoding="utf-8"))
    return record if shard.stat().st_size == record.bytes else None


def _count_units(job: Job, plan: Plan) -> NumUnits:
    """Units of each side that the plan may use. Raises DataError where samples are planned and there is none."""
    counted = {}
    for name, share in plan.families.items():
        every = job.families[name].open(job.materials[name]).units
        for split in SPLITS:
            counted[name, split] = len(job.units(name, split, every))
            if share.on(split) and not counted[name, split]:
                raise DataError(f"family {name!r} has 0 of its {len(every)} units on the side {split}; plan 0 samples")
    return counted


class _Progress:
    """Says how many samples are made and how long the rest will take."""

    def __init__(self, num_before: int, tasks: list[ShardTask], say: Callable[[str], None]) -> None:
        self._num_before = num_before
        self._num_now = 0
        self._total = sum(task.stop - task.start for task in tasks)
        self._start = time.monotonic()
        self._say = say

    def step(self) -> None:
        """One more sample is made."""
        self._num_now += 1
        rate = self._num_now / max(time.monotonic() - self._start, 1e-3)
        done = self._num_before + self._num_now
        left_min = (self._total - done) / rate / 60
        self._say(f"made {done:,} of {self._total:,} samples, {rate:.0f} a second, about {left_min:.0f} min left")
