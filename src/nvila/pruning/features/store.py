"""Features on disk, computed once: parts of the same chunks as scores, each whole or not there at all.

A part has a row a sample: id, source, status, num_tokens and `feature`, float16 numbers or null unless `ok`. The
folder is started and gone on with as one of scores is (`nvila.pruning.scores`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nvila.errors import DataError
from nvila.pruning.score.data import Corpus
from nvila.pruning.scores import OK, finished_parts, write_part

_COLUMNS = ("id", "source", "status", "num_tokens")


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A sample's features, or the status and reason why it has none."""

    id: str
    source: str
    status: str = ""
    reason: str = ""
    num_tokens: int = 0
    values: NDArray[np.float32] | None = None

    def failed(self, status: str, reason: str) -> Feature:
        """The sample without features."""
        return replace(self, status=status, reason=reason)

    def with_values(self, values: NDArray[np.float32], *, num_tokens: int = 0) -> Feature:
        """The sample with its features; numbers that are not finite are none."""
        if not np.isfinite(values).all():
            return self.failed("not_finite", "the model gave no finite number")
        return replace(self, status=OK, values=values, num_tokens=num_tokens)


class Extractor(Protocol):
    """Features of samples by a model."""

    def features(self, corpus: Corpus, chunks: Sequence[int]) -> Iterator[list[Feature]]:
        """Of each chunk one for each of its samples, in order; never raises for what is wrong with a sample."""
        ...


def extract(
    corpus: Corpus,
    load: Callable[[], Extractor],
    chunks: Sequence[int],
    folder: Path,
    *,
    shard: int,
    max_broken: float,
    on_samples: Callable[[int], None] = lambda count: None,
) -> None:
    """Compute the features of `chunks` that have no part yet. The model is loaded only where there are any.

    Raises DataError where more than the share `max_broken` of this run's samples are broken.
    """
    from nvila.pruning.score.passes import Broken

    done = finished_parts(folder)
    todo = [chunk for chunk in chunks if chunk not in done]
    if not todo:
        return
    extractor = load()
    broken = Broken(max_broken)
    for chunk, found in zip(todo, extractor.features(corpus, todo), strict=True):
        broken.count({"status": one.status, "reason": f"{one.source}: {one.id}: {one.reason}"} for one in found)
        broken.check(is_last=chunk == todo[-1])
        write_part(folder, shard, chunk, _table(found))
        on_samples(len(found))


def _table(found: Sequence[Feature]) -> pa.Table:
    width = next((len(one.values) for one in found if one.values is not None), 1)
    flat = np.concatenate([one.values if one.values is not None else np.zeros(width, np.float32) for one in found])
    missing = pa.array([one.values is None for one in found])
    values = pa.FixedSizeListArray.from_arrays(pa.array(flat.astype(np.float16)), width, mask=missing)
    table = {name: [vars(one)[name] for one in found] for name in ("id", "source", "status")}
    counts = pa.array([one.num_tokens for one in found], pa.int32())
    return pa.table({**table, "num_tokens": counts, "feature": values})


@dataclass(frozen=True, kw_only=True)
class StoredFeatures:
    """Finished features. `parts` by chunk, rising; `sources` and `is_ok` of all samples, (N,)."""

    parts: dict[int, Path]
    sources: NDArray[np.str_]
    is_ok: NDArray[np.bool_]
    borders: NDArray[np.int64]
    """(num_parts + 1,): where the samples of each part begin."""

    @classmethod
    def open(cls, folder: Path) -> StoredFeatures:
        """All parts of `folder`. Raises DataError for a damaged one."""
        parts = finished_parts(folder)
        tables = [read_part(path, ("source", "status")) for path in parts.values()]
        borders = np.cumsum([0, *(table.num_rows for table in tables)])
        sources = np.concatenate([np.asarray(table["source"].to_pylist(), dtype=str) for table in tables])
        statuses = np.concatenate([np.asarray(table["status"].to_pylist(), dtype=str) for table in tables])
        return cls(parts=parts, sources=sources, is_ok=statuses == OK, borders=borders)

    def batches(self, wanted: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """(n,) numbers and (n, D) features of the samples that are `wanted` (N,), a part at a time."""
        for path, begin, end in zip(self.parts.values(), self.borders[:-1], self.borders[1:], strict=True):
            inside = wanted[begin:end] & self.is_ok[begin:end]
            if inside.any():
                column = read_part(path, ("feature",))["feature"].combine_chunks().filter(pa.array(inside))
                values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
                yield np.flatnonzero(inside) + begin, values.reshape(int(inside.sum()), -1)


def read_part(path: Path, columns: Sequence[str] = _COLUMNS) -> pa.Table:
    """Columns of a part. Raises DataError for a damaged file."""
    try:
        return pq.read_table(path, columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read ({error}); remove it, and run the same command again") from error
