"""Files on the local disk or in any store that fsspec knows, read by byte range; what a path stands for.

Nothing stays open between reads, so everything here can be pickled and used after a fork.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import fsspec

from nvila.errors import DataError

SUFFIXES = (".jsonl", ".json", ".parquet", ".arrow", ".tar")
MANIFEST = "manifest.json"
"""What a folder of data says of itself; never data."""
_GLOB = set("*?[")


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One file: its `path` as the file system `fs` knows it, or on the local disk where `fs` is None."""

    path: str
    fs: Any = None

    @property
    def name(self) -> str:
        """The last part of the path, which errors show."""
        return PurePosixPath(self.path).name if self.fs else Path(self.path).name

    @property
    def suffix(self) -> str:
        """The extension in lower case, with its dot."""
        return PurePosixPath(self.name).suffix.lower()

    @property
    def folder(self) -> str:
        """The folder that it lies in, as a path or a URL."""
        if self.fs is None:
            return os.path.dirname(self.path) or "."
        url: str = self.fs.unstrip_protocol(self.path)
        return url.rpartition("/")[0]

    def identity(self) -> tuple[str, ...]:
        """What changes when the file changes: path, size and time, or what the store says of it."""
        if self.fs is not None:
            return self.fs.unstrip_protocol(self.path), str(self.fs.ukey(self.path))
        found = os.stat(self.path)
        return os.path.abspath(self.path), str(found.st_size), str(found.st_mtime_ns)

    def size(self) -> int:
        """Bytes in the file."""
        return int(self.fs.size(self.path)) if self.fs is not None else os.stat(self.path).st_size

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end`. Raises DataError when the file cannot be read."""
        try:
            if self.fs is not None:
                return bytes(self.fs.cat_file(self.path, start=start, end=end))
            with open(self.path, "rb") as file:
                file.seek(start)
                return file.read(end - start)
        except OSError as error:
            raise self.unreadable(error) from error

    def open(self) -> IO[bytes]:
        """The file, open for reading. Raises DataError."""
        try:
            opened: IO[bytes] = (self.fs or fsspec.filesystem("file")).open(self.path, "rb")
        except OSError as error:
            raise self.unreadable(error) from error
        return opened

    def unreadable(self, error: OSError) -> DataError:
        """What is raised where the store or the disk fails."""
        reason = error.strerror or str(error) or type(error).__name__
        return DataError(f"{self.path}: cannot be read: {reason}; check the path and its permissions")


def find_files(path: str) -> list[DataFile]:
    """The data files that `path` stands for: a file, a folder, a glob, a brace pattern, or an fsspec URL of these.

    A folder stands for the files in it or, where it has none of its own, for those of all folders below. Files of a
    folder or a glob are in the order of their names. Raises DataError when there is none, when a suffix is
    not known, and when a folder mixes kinds.
    """
    found: list[DataFile] = []
    for one in _expand_braces(path):
        found += _remote(one) if "://" in one or "::" in one else _local(one)
    if not found:
        raise DataError(f"{path}: no file there; give a file, folder or pattern of {', '.join(SUFFIXES)}")
    for file in found:
        if file.suffix not in SUFFIXES:
            hint = "; decompress it first" if file.suffix in (".gz", ".zst", ".xz", ".bz2") else ""
            raise DataError(f"{file.path}: {file.suffix or 'no extension'} is not among {', '.join(SUFFIXES)}{hint}")
    return found


def _expand_braces(path: str) -> list[str]:
    """`shard-{000..009}.tar`, as WebDataset writes lists of shards."""
    if "{" not in path or os.path.exists(path):
        return [path]
    try:
        from braceexpand import braceexpand
    except ImportError as error:
        raise DataError(f'{path}: braces need braceexpand; install it with: pip install "nvila[data]"') from error
    try:
        return list(braceexpand(path))
    except ValueError as error:
        raise DataError(f"{path}: its braces do not match; write shard-{{000..009}}.tar") from error


def _local(path: str) -> list[DataFile]:
    if os.path.isdir(path):
        files = [DataFile(path=entry.path) for entry in os.scandir(path) if entry.is_file()]
        if not any(_is_data(file) for file in files):
            files = [DataFile(path=os.path.join(top, name)) for top, _, names in os.walk(path) for name in names]
        return _of_one_kind(path, files)
    if os.path.exists(path):
        return [DataFile(path=path)]
    if _GLOB & set(path):
        return _of_one_kind(path, [DataFile(path=name) for name in glob.glob(path, recursive=True)])
    raise DataError(f"{path}: no such file or folder; check the path (relative paths start at {os.getcwd()})")


def _remote(url: str) -> list[DataFile]:
    try:
        fs, path = fsspec.core.url_to_fs(url)
        if _GLOB & set(path):
            return _of_one_kind(url, [DataFile(path=name, fs=fs) for name in fs.glob(path)])
        if fs.isdir(path):
            files = [DataFile(path=e["name"], fs=fs) for e in fs.ls(path, detail=True) if e["type"] == "file"]
            if not any(_is_data(file) for file in files):
                files = [DataFile(path=name, fs=fs) for name in fs.find(path)]
            return _of_one_kind(url, files)
        if not fs.exists(path):
            raise DataError(f"{url}: no such file or folder in the store; check the URL")
    except (OSError, ImportError) as error:
        raise DataError(f"{url}: cannot be reached: {error}; check the URL and your access") from error
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{url}: is no URL that can be read: {error}") from error
    return [DataFile(path=path, fs=fs)]


def _is_data(file: DataFile) -> bool:
    return file.suffix in SUFFIXES and not file.name.startswith(".") and file.name != MANIFEST


def _of_one_kind(path: str, files: Iterable[DataFile]) -> list[DataFile]:
    """The data files among `files`, sorted. JSON files beside others describe them and do not count."""
    known = [file for file in files if _is_data(file)]
    kinds = {file.suffix for file in known}
    if len(kinds) > 1:
        kinds.discard(".json")
    if len(kinds) > 1:
        names = " and ".join(sorted(kinds))
        raise DataError(f"{path}: holds {names} files; give one kind by a pattern such as {path.rstrip('/')}/*.jsonl")
    return sorted((file for file in known if file.suffix in kinds), key=lambda file: file.path)
