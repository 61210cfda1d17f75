"""One pass of one model over chunks of the data: read ahead, in batches, each chunk put down when it is whole.

A pass keeps nothing in memory but the chunks under way, so that a kill costs those and nothing else. Its parts lie in a
folder of their own with one row a sample; joining passes to scores is `criteria`'s.
"""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, Dataset

from nvila.errors import ConfigError, DataError, NVILAError
from nvila.pruning.score.batches import Encoder, LogP, Planned, Prepared, Ready, Scorer
from nvila.pruning.score.data import Corpus, has_media, num_answer_bytes, status_of, without_media
from nvila.pruning.score.options import RunOptions
from nvila.pruning.scores import BROKEN, OK, table_of, write_part
from nvila.types import Sample

PASS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("num_tokens", pa.int32()),
        ("num_bytes", pa.int32()),
        ("log_p", pa.float64()),
    ]
)
"""`num_bytes`: UTF-8 bytes of the answers. `reason`: what is wrong, in words, where `status` is not `ok`."""

_MANY = 100
"""Samples from which on a share of broken ones is believed before the end."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """A pass of a criterion: its name, the model, what samples it sees."""

    name: str
    model: str
    sees_media: bool = True
    needs_media: bool = False
    """Samples without any picture or clip get no score."""


class _End(NamedTuple):
    """Behind the last row of a chunk."""

    chunk: int


class Broken:
    """Counts samples that cannot be read, and stops the run when they are too many."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._seen = 0
        self._examples: list[str] = []
        self._count = 0

    def count(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Takes rows of `PASS_SCHEMA` into the count."""
        for row in rows:
            self._seen += 1
            if row["status"] in BROKEN:
                self._count += 1
                self._examples = [*self._examples, row["reason"] or ""][:3]

    def check(self, *, is_last: bool) -> None:
        """Raises DataError when the share is over the limit, with the first reasons."""
        if self._count > self._limit * self._seen and (is_last or self._seen >= _MANY):
            raise DataError(
                f"{self._count} of {self._seen} samples are broken, over the share of {self._limit:g}; mend the data "
                "(nvila data check lists all) and remove these scores, or raise --max-broken, which goes on with them; "
                f"the first: {'; '.join(self._examples)}"
            )


def run_pass(
    corpus: Corpus,
    one: Pass,
    scorer: Scorer,
    chunks: Sequence[int],
    folder: Path,
    *,
    run: RunOptions,
    shard: int = 0,
    broken: Broken | None = None,
    on_samples: Callable[[int], None] = lambda count: None,
) -> None:
    """Score `chunks` with the model and put their parts into `folder`. `on_samples` is told of samples as they go by.

    Raises DataError as soon as too many samples are broken, ConfigError where the device has too little memory.
    """
    guard = broken or Broken(run.max_broken)
    batch_tokens = run.tokens_of_batch(scorer.device)
    plan = _Plan(corpus, one, scorer.encoder, chunks, batch_tokens)
    told = 0
    for prepared in _loader(corpus, one, scorer, plan, run):
        if isinstance(prepared, _End):
            rows = plan.finish(prepared.chunk)
            guard.count(rows)
            write_part(folder, shard, prepared.chunk, table_of(rows, PASS_SCHEMA))
            guard.check(is_last=False)
            if told < len(rows):  # those that no row held
                on_samples(len(rows) - told)
            told = 0
            continue
        for key, (status, reason) in prepared.failed.items():
            plan.rows[key] |= {"status": status, "reason": reason}
        for batch in prepared.ready:
            for key, found in zip(batch.keys, _scored(scorer, batch, batch_tokens), strict=True):
                plan.rows[key] |= _outcome(found.log_p, found.num_tokens)
            told += len(batch.keys)
            on_samples(len(batch.keys))


def read_pass(path: Path, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a pass's part, of all columns or those named. Raises DataError for a damaged file."""
    try:
        rows: list[dict[str, Any]] = pq.read_table(path, columns=columns, schema=PASS_SCHEMA).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read ({error}); remove it, and run the same command again") from error
    return rows


class _Plan:
    """The rows of all chunks in order, each chunk's end behind its rows. `rows`: what is known of the samples so far.

    Iterated in the process that owns it, whichever process reads the rows.
    """

    def __init__(self, corpus: Corpus, one: Pass, encoder: Encoder, chunks: Sequence[int], batch_tokens: int) -> None:
        self.rows: dict[int, dict[str, Any]] = {}
        self._corpus = corpus
        self._pass = one
        self._encoder = encoder
        self._chunks = chunks
        self._batch_tokens = batch_tokens

    def __iter__(self) -> Iterator[tuple[int, ...] | _End]:
        for chunk in self._chunks:
            planned = (found for number in self._corpus.chunk(chunk) if (found := self._planned(number)))
            for row in self._encoder.rows(planned, self._batch_tokens):
                yield tuple(sample.key for sample in row)
            yield _End(chunk)

    def finish(self, chunk: int) -> list[dict[str, Any]]:
        """The chunk's rows, which are forgotten here."""
        return [self.rows.pop(number) for number in self._corpus.chunk(chunk)]

    def _planned(self, number: int) -> Planned | None:
        """The sample's size, or None where it is settled already that it gets no score."""
        read = self._corpus.read(number)
        row: dict[str, Any] = {"id": read.id, "source": read.source, "num_tokens": 0, "num_bytes": 0, "reason": None}
        self.rows[number] = row
        if read.sample is None:
            row |= {"status": read.status, "reason": read.reason}
            return None
        row["num_bytes"] = num_answer_bytes(read.sample)
        if self._pass.needs_media and not has_media(read.sample):
            row["status"] = "no_media"
            return None
        try:
            planned = self._encoder.plan(number, _as_seen(read.sample, self._pass))
        except ConfigError:
            raise
        except NVILAError as error:
            row |= {"status": status_of(error), "reason": str(error)}
            return None
        if planned.num_tokens > self._encoder.max_tokens:
            reason = f"has {planned.num_tokens} tokens, over the limit of {self._encoder.max_tokens}"
            row |= {"status": "too_long", "reason": f"sample {read.id} of {read.source}: {reason}"}
            return None
        return planned


class _Rows(Dataset[Any]):
    """What the reading processes do: rows of numbers to batches."""

    def __init__(self, corpus: Corpus, one: Pass, encoder: Encoder) -> None:
        self._corpus = corpus
        self._pass = one
        self._encoder = encoder

    def __getitem__(self, row: tuple[int, ...] | _End) -> Prepared | _End:
        if isinstance(row, _End):
            return row
        samples = []
        for number in row:
            sample = self._corpus.read(number).sample
            if sample is None:
                raise DataError(f"sample {number} cannot be read any more; were the data changed while being scored?")
            samples.append((number, _as_seen(sample, self._pass)))
        return self._encoder.prepare(samples)


def _as_seen(sample: Sample, one: Pass) -> Sample:
    return sample if one.sees_media else without_media(sample)


def _as_it_is(item: Any) -> Any:
    return item


def _loader(corpus: Corpus, one: Pass, scorer: Scorer, plan: _Plan, run: RunOptions) -> DataLoader[Any]:
    return read_ahead(_Rows(corpus, one, scorer.encoder), plan, scorer.device, run, prefetch=4)


def read_ahead(
    items: Dataset[Any], keys: Iterable[Any], device: torch.device, run: RunOptions, *, prefetch: int
) -> DataLoader[Any]:
    """The items of these keys in order, read by as many processes as the options say, each so many items ahead."""
    usual = 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)
    workers = usual if run.workers is None else run.workers
    options: dict[str, Any] = {}
    if workers:
        # Not forked from here: libraries that decode media keep threads, and a device's context survives no fork.
        context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
        context.set_forkserver_preload([__name__])
        options = {"multiprocessing_context": context, "prefetch_factor": prefetch}
    sampler: Any = keys
    return DataLoader(items, batch_size=None, sampler=sampler, collate_fn=_as_it_is, num_workers=workers, **options)


def _scored(scorer: Scorer, batch: Ready, batch_tokens: int) -> list[LogP]:
    try:
        return scorer.log_p(batch)
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"the device has too little memory for batches of {batch_tokens} tokens; run the same command again with "
            f"--batch-tokens {max(1, batch_tokens // 2)}, which goes on with what is finished"
        ) from error


def _outcome(log_p: float, num_tokens: int) -> dict[str, Any]:
    if not math.isfinite(log_p) or not num_tokens:
        return {"status": "not_finite", "reason": f"log p is {log_p} over {num_tokens} tokens"}
    return {"status": OK, "num_tokens": num_tokens, "log_p": log_p}
