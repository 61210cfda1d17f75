"""Parquet and Arrow tables, by pyarrow: any row at the cost of that row.

Arrow files on the local disk are mapped where they lie. Parquet packs thousands of rows together, so that reading one
means unpacking all; it is therefore unpacked once into an Arrow file in the cache (as large as the data), and so is an
Arrow file of a remote store.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nvila.data.formats.base import Record, RecordError
from nvila.data.formats.files import DataFile
from nvila.data.formats.index import cached_folder
from nvila.errors import DataError

_BATCH_BYTES = 1 << 25
"""About how much a batch of the unpacked table holds: what is in memory at a time while it is written."""


class TableStore:
    """The rows of one Parquet or Arrow file. The first opening of a Parquet file unpacks it."""

    def __init__(self, file: DataFile) -> None:
        """Raises DataError for a damaged file, OSError when the cache cannot hold it."""
        self.file = file
        self._path = _arrow_path(file)
        self._batches, self._borders = _mapped(self._path, file.path)
        self._valid: set[int] = set()

    def __len__(self) -> int:
        return int(self._borders[-1])

    def record(self, index: int) -> tuple[Record, Mapping[str, bytes]]:
        """Row `index`, with no members. Raises RecordError where the table is damaged there."""
        number = int(np.searchsorted(self._borders, index, side="right")) - 1
        try:
            self._validate(number)
            row = self._batches[number].slice(index - int(self._borders[number]), 1)
            return row.to_pylist()[0], {}
        except (pa.ArrowException, ValueError, OverflowError) as error:
            reason = _first_line(error)
            raise RecordError(f"{self.place(index)}: is damaged: {reason}; get it again", kind="unreadable") from error

    def _validate(self, number: int) -> None:
        """Refuses batch `number` of an Arrow file whose offsets, if damaged, would lead out of the file; once each."""
        if self.file.suffix == ".arrow" and number not in self._valid:
            self._batches[number].validate(full=True)
            self._valid.add(number)

    def place(self, index: int) -> str:
        """`part.parquet row 12`; rows count from 0."""
        return f"{self.file.name} row {index}"

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self.file, "_path": self._path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.file, self._path = state["file"], state["_path"]
        self._batches, self._borders = _mapped(self._path, self.file.path)
        self._valid = set()


def _arrow_path(file: DataFile) -> str:
    if file.suffix == ".parquet":
        return str(cached_folder((*file.identity(), "parquet"), partial(_unpack, file)) / "table.arrow")
    if file.fs is not None:
        return str(cached_folder((*file.identity(), "arrow"), partial(_copy, file)) / "table.arrow")
    return file.path


def _unpack(file: DataFile, folder: Path) -> None:
    try:
        with file.open() as handle:
            table = pq.ParquetFile(handle)
            with pa.OSFile(str(folder / "table.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema_arrow) as out:
                for batch in table.iter_batches(batch_size=_batch_rows(table.metadata)):
                    out.write_batch(batch)
    except pa.ArrowException as error:
        raise DataError(f"{file.path}: is no readable Parquet file: {_first_line(error)}; get it again") from error


def _batch_rows(metadata: Any) -> int:
    num_bytes = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    return min(max(_BATCH_BYTES * max(metadata.num_rows, 1) // max(num_bytes, 1), 16), 65_536)


def _copy(file: DataFile, folder: Path) -> None:
    with file.open() as handle, (folder / "table.arrow").open("wb") as copy:
        shutil.copyfileobj(handle, copy, 1 << 20)


def _mapped(path: str, shown: str) -> tuple[list[Any], Any]:
    """The batches of an Arrow file, mapped, and the row at which each starts, with the number of rows at the end.

    Both of Arrow's forms are read: the file, and the stream (which `datasets` writes).
    """
    try:
        batches = list(_batches(pa.memory_map(path)))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{shown}: is no readable Arrow file: {_first_line(error)}; get it again") from error
    return batches, np.cumsum([0, *(batch.num_rows for batch in batches)])


def _batches(source: Any) -> Iterator[Any]:
    try:
        reader = pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        yield from pa.ipc.open_stream(source)
        return
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
