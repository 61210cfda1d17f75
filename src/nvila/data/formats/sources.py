"""Opening a data set: the files behind a path, joined into one sequence of samples."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import PurePath
from typing import Any, Protocol

from nvila.data.formats.base import Record, Where
from nvila.data.formats.files import DataFile, find_files
from nvila.data.formats.json_files import JsonStore
from nvila.data.formats.recognise import check_format, read_record
from nvila.errors import DataError
from nvila.types import Sample


class SampleSource(Protocol):
    """Samples by index. Can be pickled; holds little in memory."""

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` of `len`. Raises DataError naming file, line (or row), and key."""
        ...

    def place(self, index: int) -> str:
        """Where sample `index` stands: `data.jsonl:17`, `part-3.parquet row 12`, `shard-0001.tar:000017`."""
        ...


class RecordStore(Protocol):
    """The records of one file, whatever its container."""

    file: DataFile

    def __len__(self) -> int: ...

    def record(self, index: int) -> tuple[Record, Mapping[str, bytes]]:
        """Record `index`, and files that came along with it by name."""
        ...

    def place(self, index: int) -> str:
        """File and line, row or key."""
        ...


class FileSource:
    """The samples of one or several files, one after the other."""

    def __init__(
        self, stores: Sequence[RecordStore], *, name: str, format: str | None = None, media_root: str | None = None
    ) -> None:
        """`format` None recognises it record by record; `media_root` None is the folder of each file."""
        self.name = name
        self._stores = list(stores)
        self._borders = [0, *accumulate(len(store) for store in stores)]
        self._format = format
        self._media_root = media_root

    def __len__(self) -> int:
        return self._borders[-1]

    def __getitem__(self, index: int) -> Sample:
        store, number = self._find(index)
        record, members = store.record(number)
        root = self._media_root if self._media_root is not None else store.file.folder
        where = Where(place=store.place(number), source=self.name, media_root=root, members=members)
        return read_record(record, where, format=self._format)

    def place(self, index: int) -> str:
        """File and line, row or key of sample `index`."""
        store, number = self._find(index)
        return store.place(number)

    def _find(self, index: int) -> tuple[RecordStore, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: sample {index} of {len(self)}")
        position = bisect_right(self._borders, index) - 1
        return self._stores[position], index - self._borders[position]


def open_source(
    path: str, *, name: str | None = None, format: str | None = None, media_root: str | None = None
) -> SampleSource:
    """The data set at `path`: a .jsonl, .json, .parquet, .arrow or .tar file, a folder, a glob, or an fsspec URL.

    `name` is what samples say they come from (default: the name of the file or folder); `format` forces one of
    `FORMATS` where the records do not show it, and "text" reads .txt files as plain text; relative media start at
    `media_root` (default: each file's folder).
    Raises DataError when there is nothing to read, ConfigError for an unknown format.
    """
    if format == "text":
        from nvila.data.text_pairs import TextSource

        return TextSource(path, name=name)
    check_format(format)
    stores = [_open_store(file) for file in find_files(path)]
    return FileSource(stores, name=name or _name_of(path), format=format, media_root=media_root)


def to_sample(
    record: Mapping[str, Any],
    *,
    place: str,
    source: str,
    media_root: str | None = None,
    format: str | None = None,
) -> Sample:
    """One record as a Sample. `place` and `source` name it in errors and in the sample.

    Raises DataError (a RecordError, which knows its kind) naming the place and the key, ConfigError for an unknown
    `format`.
    """
    return read_record(record, Where(place=place, source=source, media_root=media_root), format=format)


def _open_store(file: DataFile) -> RecordStore:
    match file.suffix:
        case ".tar":
            from nvila.data.formats.tars import TarStore

            return TarStore(file)
        case ".parquet" | ".arrow":
            try:
                from nvila.data.formats.tables import TableStore
            except ImportError as error:
                raise DataError(f'{file.path}: needs pyarrow; install it with: pip install "nvila[data]"') from error

            return TableStore(file)
        case _:
            return JsonStore(file)


def _name_of(path: str) -> str:
    return PurePath(path.rstrip("/")).stem or path
