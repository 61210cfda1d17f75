"""Keep-lists from rows that are sorted by source and id: one Parquet file a source, and one of all.

What stands in the file names comes from the data, so names are made safe. An id that a source has twice stands in its
list once: mixtures keep every sample of that id.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ALL_NAME = "all.parquet"
ROWS_AT_ONCE = 1 << 18

_ID = pa.field("id", pa.string())
_LIST_SCHEMA = pa.schema([_ID])
_ALL_SCHEMA = pa.schema([_ID, pa.field("source", pa.string())])
_LONGEST_NAME = 80


@dataclass(kw_only=True)
class Kept:
    """What was kept of one source. `file` is None where nothing was."""

    file: str | None = None
    num_ids: int = 0
    num_rows: int = 0
    num_scored: int = 0
    num_tokens: int = 0


@dataclass
class _Stretch:
    """Rows of one source, in the order of their ids."""

    source: int
    rows: pa.RecordBatch


@dataclass
class ListWriter:
    """Writes the lists into `folder` as a context. `names` are the sources by number, `num_tied` the room for ties."""

    folder: Path
    names: Sequence[str]
    num_tied: Mapping[int, int]
    kept: dict[int, Kept] = field(default_factory=dict)
    _source: int = -1
    _last_id: str | None = None
    _tied_left: int = 0
    _files: list[str] = field(default_factory=list)
    _one: Any = None
    _all: Any = None

    def __enter__(self) -> ListWriter:
        self._files = file_names(self.names)
        self._all = pq.ParquetWriter(self.folder / ALL_NAME, _ALL_SCHEMA, compression="zstd", use_dictionary=["source"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in (self._one, self._all):
            if writer is not None:
                writer.close()

    def add(self, batch: pa.RecordBatch) -> None:
        """Rows with number, id, is_tied, is_scored and num_tokens; numbers and, within one, ids never fall."""
        for stretch in _stretches(batch):
            if stretch.source != self._source:
                self._start(stretch.source)
            self._write(self._without_surplus(stretch.rows))

    def _start(self, source: int) -> None:
        assert source > self._source, "the sorted rows are not sorted"
        if self._one is not None:
            self._one.close()
        self._source, self._last_id, self._one = source, None, None
        self._tied_left = self.num_tied.get(source, 0)
        self.kept[source] = Kept()

    def _without_surplus(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows that stay: of those tied at the cut-off the first few, which have the least ids."""
        tied = rows["is_tied"].to_numpy(zero_copy_only=False)
        num_tied = int(tied.sum())
        if num_tied > self._tied_left:
            surplus = tied & (np.cumsum(tied) > self._tied_left)
            rows = rows.filter(pa.array(~surplus))
        self._tied_left = max(0, self._tied_left - num_tied)
        return rows

    def _write(self, rows: pa.RecordBatch) -> None:
        if not rows.num_rows:
            return
        kept = self.kept[self._source]
        kept.num_rows += rows.num_rows
        kept.num_scored += pc.sum(rows["is_scored"]).as_py()
        kept.num_tokens += pc.sum(rows["num_tokens"]).as_py()
        ids = self._once(rows["id"])
        kept.num_ids += len(ids)
        if self._one is None:
            kept.file = self._files[self._source]
            self._one = pq.ParquetWriter(
                self.folder / kept.file, _LIST_SCHEMA, compression="zstd", use_dictionary=False
            )
        if len(ids):
            self._one.write_batch(pa.RecordBatch.from_arrays([ids], schema=_LIST_SCHEMA))
            sources = pa.repeat(self.names[self._source], len(ids))
            self._all.write_batch(pa.RecordBatch.from_arrays([ids, sources], schema=_ALL_SCHEMA))

    def _once(self, ids: pa.StringArray) -> pa.StringArray:
        """The ids without those equal to the one before."""
        fresh = np.ones(len(ids), dtype=bool)
        fresh[0] = ids[0].as_py() != self._last_id
        fresh[1:] = pc.not_equal(ids.slice(1), ids.slice(0, len(ids) - 1)).to_numpy(zero_copy_only=False)
        self._last_id = ids[-1].as_py()
        return ids if fresh.all() else ids.filter(pa.array(fresh))


def _stretches(batch: pa.RecordBatch) -> Iterator[_Stretch]:
    numbers = batch["number"].to_numpy()
    borders = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    for begin, end in pairwise(borders):
        if end > begin:
            yield _Stretch(int(numbers[begin]), batch.slice(begin, end - begin))


def file_names(sources: Sequence[str]) -> list[str]:
    """A file name for the list of each source: its name where that is safe, else what is safe of it and a hash.

    No two are the same, on file systems that do not tell capitals apart either.
    """
    safe = [re.sub(r"[^A-Za-z0-9._-]+", "-", source).strip(".-")[:_LONGEST_NAME] for source in sources]
    count = Counter(name.lower() for name in safe)
    return [
        f"{name}.parquet"
        if name and name == source and count[name.lower()] == 1 and f"{name}.parquet".lower() != ALL_NAME
        else f"{name or 'source'}-{_digest(source)}.parquet"
        for name, source in zip(safe, sources, strict=True)
    ]


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
