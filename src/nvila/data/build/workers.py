"""Worker processes that make shards: each opens a family's material once and is given shard after shard.

Every worker has a pipe of its own, so one that is killed (out of memory) takes no lock with it: its pipe ends, and the
others are stopped. Spawned, not forked: the libraries that draw and encode keep threads.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from nvila.data.build.family import Family
from nvila.data.build.plan import Share
from nvila.data.build.shards import ShardRecord, ShardTask, ShardWriter, Units
from nvila.data.corpus.splits import Split
from nvila.errors import DataError, NVILAError


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all shards of a corpus have in common. `materials` are the folders of the families."""

    families: Mapping[str, Family]
    shares: Mapping[str, Share]
    materials: Mapping[str, Path]
    seed: int
    out: Path

    def writer(self, family: str, split: Split) -> ShardWriter:
        """Opens the material of a family. Raises DataError where it is missing, or has no unit on that side."""
        made_by = self.families[family]
        material = made_by.open(self.materials[family])
        names = self.units(family, split, material.units)
        return ShardWriter(made_by, material, Units.of(made_by, names, split, self.seed), seed=self.seed, out=self.out)

    def units(self, family: str, split: Split, every: Sequence[str]) -> list[str]:
        """The units among `every` that samples of one side are made of, in their order."""
        share, side = self.shares[family], self.families[family].side
        return [unit for unit in every if side(unit) == split and share.keeps(unit)]


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    task: ShardTask | None = field(default=None)


def run_tasks(
    job: Job, tasks: Sequence[ShardTask], num_workers: int, on_sample: Callable[[], None]
) -> Iterator[ShardRecord]:
    """The record of each shard as soon as it is finished, in any order; `on_sample` is called for every sample.

    0 workers make the shards here, one after the other. Raises what a family raises, and DataError when a worker dies.
    """
    if num_workers == 0:
        yield from _in_this_process(job, tasks, on_sample)
        return
    context = multiprocessing.get_context("spawn")
    workers = [_start(context, job) for _ in range(min(num_workers, len(tasks)))]
    try:
        yield from _dealt_out(workers, list(tasks), on_sample)
    finally:
        for worker in workers:
            worker.pipe.close()
            worker.process.terminate()
            worker.process.join()


def _in_this_process(job: Job, tasks: Sequence[ShardTask], on_sample: Callable[[], None]) -> Iterator[ShardRecord]:
    writers: dict[tuple[str, Split], ShardWriter] = {}
    for task in tasks:
        key = (task.family, task.split)
        writers[key] = writers.get(key) or job.writer(*key)
        yield writers[key].write(task, on_sample)


def _start(context: Any, job: Job) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, job), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process=process, pipe=ours)


def _dealt_out(
    workers: list[_Worker], waiting: list[ShardTask], on_sample: Callable[[], None]
) -> Iterator[ShardRecord]:
    """Gives every idle worker the next task, and passes on what comes back."""
    waiting.reverse()
    for worker in workers:
        _give(worker, waiting)
    while busy := {worker.pipe: worker for worker in workers if worker.task is not None}:
        for pipe in wait(list(busy)):
            worker = busy[pipe]  # type: ignore[index]
            message = _received(worker)
            if isinstance(message, NVILAError):
                raise message
            if isinstance(message, ShardRecord):
                yield message
                _give(worker, waiting)
            else:
                on_sample()


def _give(worker: _Worker, waiting: list[ShardTask]) -> None:
    worker.task = waiting.pop() if waiting else None
    if worker.task is not None:
        worker.pipe.send(worker.task)


def _received(worker: _Worker) -> Any:
    try:
        return worker.pipe.recv()
    except (EOFError, ConnectionError) as error:
        worker.process.join()
        assert worker.task is not None
        raise DataError(
            f"{worker.task.path}: the worker process that made it died (exit code {worker.process.exitcode}: out of "
            "memory, killed, or the error above); run the same command again to go on, with fewer --workers if need be"
        ) from error


def _serve(pipe: Connection, job: Job) -> None:
    """A worker's life: makes what it is given until it is stopped or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt goes to the parent, which stops the workers
    writers: dict[tuple[str, Split], ShardWriter] = {}
    while True:
        try:
            task: ShardTask = pipe.recv()
        except EOFError:
            return
        key = (task.family, task.split)
        try:
            writers[key] = writers.get(key) or job.writer(*key)
            pipe.send(writers[key].write(task, lambda: pipe.send(None)))
        except NVILAError as error:
            pipe.send(error)
