"""Keep-lists and drop-lists: which samples of a source take part, told by their ids.

An id is compared by 64 bits of its BLAKE2b hash: 8 bytes an id whatever its length, sorted arrays instead of sets.
Ten million ids against ten million meet by chance once in 200,000 such pairs of lists, which is accepted. Hashing a
source means reading all of it, so the hashes are kept in the user's cache, by its files and their state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

import fsspec
import numpy as np
from numpy.typing import NDArray

from nvila.data.formats import SampleSource
from nvila.data.formats.files import find_files
from nvila.data.formats.index import CachedArrays
from nvila.data.mixture.config import SourceConfig
from nvila.errors import ConfigError, DataError
from nvila.utils.progress import status

U64 = NDArray[np.uint64]

_CHUNK = 2**20
_HASHING = "ids blake2b-8"
"""Part of the cache's key: another way of hashing must not find these."""


@runtime_checkable
class KnowsIds(Protocol):
    """A source that can hash its ids without reading its samples."""

    def ids(self) -> U64:
        """(num_samples,) uint64: `hash_id` of each sample's id, in the order of the source."""
        ...


def hash_id(identifier: str) -> int:
    """64 bits of the id's BLAKE2b hash."""
    return int.from_bytes(hashlib.blake2b(identifier.encode(), digest_size=8).digest(), "little")


def hash_ids(identifiers: Iterable[str]) -> U64:
    """(num_ids,) uint64 in the order given."""
    return np.fromiter(map(hash_id, identifiers), dtype=np.uint64)


def read_id_list(path: str) -> U64:
    """(num_ids,) uint64, sorted: the hashes of the ids in a text file (one a line) or a Parquet file (column `id`).

    Raises ConfigError for a file that cannot be read or holds no id.
    """
    try:
        lines = _parquet_ids(path) if path.endswith(".parquet") else _text_ids(path)
        hashes = hash_ids(lines)
    except ConfigError:
        raise
    except (OSError, ImportError, ValueError) as error:  # fsspec names an unknown store by the last two
        raise ConfigError(f"cannot read the id list {path}: {error}") from error
    if not len(hashes):
        raise ConfigError(f"the id list {path} holds no id; write one a line, or leave the key out")
    hashes.sort()
    return hashes


def _text_ids(path: str) -> Iterator[str]:
    with fsspec.open(path, mode="rt", encoding="utf-8") as file:
        yield from filter(None, (line.strip() for line in file))


def _parquet_ids(path: str) -> Iterator[str]:
    import pyarrow
    from pyarrow import parquet

    with fsspec.open(path, mode="rb") as file:
        try:
            table = parquet.ParquetFile(file)
            if "id" not in table.schema_arrow.names:
                found = ", ".join(table.schema_arrow.names)
                raise ConfigError(f"the id list {path} has no column 'id'; its columns are: {found}")
            for batch in table.iter_batches(columns=["id"]):
                yield from (str(value) for value in batch.column(0).to_pylist())
        except pyarrow.ArrowInvalid as error:
            raise ConfigError(f"the id list {path} is not a Parquet file: {error}") from error


def chosen_indices(source: SampleSource, *, keep: U64 | None, drop: U64 | None, hashes: U64) -> NDArray[np.uint32]:
    """(num_kept,) uint32: the indices of `source` whose ids are in `keep` (None: all) and not in `drop`.

    `hashes` are the source's own, (num_samples,) uint64. Raises DataError when they are not as many as its samples.
    """
    if len(hashes) != len(source):
        raise DataError(f"{source.name}: {len(hashes)} ids for {len(source)} samples; its cached ids are stale")
    kept = [np.empty(0, dtype=np.uint32)]
    for start in range(0, len(hashes), _CHUNK):
        chunk = np.asarray(hashes[start : start + _CHUNK])
        taken = np.ones(len(chunk), dtype=bool) if keep is None else _contained(chunk, keep)
        if drop is not None:
            taken &= ~_contained(chunk, drop)
        kept.append((np.flatnonzero(taken) + start).astype(np.uint32))
    return np.concatenate(kept)


def _contained(hashes: U64, ordered: U64) -> NDArray[np.bool_]:
    """Which of `hashes` are in `ordered`; asked in rising order, so that the search walks memory once."""
    rising = np.argsort(hashes)
    places = np.searchsorted(ordered, hashes[rising])
    found = np.empty(len(hashes), dtype=bool)
    found[rising] = ordered[np.minimum(places, len(ordered) - 1)] == hashes[rising]
    return found


def hashes_of(source: SampleSource, config: SourceConfig, *, path: str) -> U64:
    """(num_samples,) uint64: `hash_id` of every sample of `source`, from itself, from the cache, or by reading it all.

    `path` is where the source was opened. A sample that cannot be read gets the hash of its place, which no list
    holds: a keep-list leaves it out, and a drop-list leaves it to be met and counted when it is drawn.
    """
    if isinstance(source, KnowsIds):
        return source.ids()
    identity = [part for file in find_files(path) for part in file.identity()]
    cached: U64 = CachedArrays([_HASHING, config.format or "", *identity], lambda: _read_all(source))["hashes"]
    return cached


def _read_all(source: SampleSource) -> dict[str, U64]:
    with status(f"reading the ids of {source.name} ({len(source)} samples)"):
        return {"hashes": np.fromiter((_hash_at(source, index) for index in range(len(source))), np.uint64)}


def _hash_at(source: SampleSource, index: int) -> int:
    try:
        return hash_id(source[index].id)
    except DataError:
        return hash_id(f"\0unreadable {source.place(index)}")
