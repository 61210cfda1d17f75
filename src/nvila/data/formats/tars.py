"""Tar shards by WebDataset's convention: neighbouring members with the same name up to the first dot are a sample.

`.json` is the record and `.txt` a caption; pictures and clips are what the record names (by file name or by
extension), or, where it names none, all of them in their order. The shard is walked through once for the place of each
member; reading a sample is then one read of its stretch of the file.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from nvila.data.formats.base import MEDIA_KEYS, Record, RecordError
from nvila.data.formats.files import DataFile
from nvila.data.formats.index import Arrays, CachedArrays
from nvila.data.formats.recognise import recognise
from nvila.errors import DataError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "avif")
VIDEO_EXTENSIONS = ("mp4", "webm", "mkv", "mov", "avi", "gif")


class TarStore:
    """The samples of one uncompressed tar. Opening it walks through its headers once, ever."""

    def __init__(self, file: DataFile) -> None:
        """Raises DataError for a file that is no tar, is compressed, or is cut off."""
        self.file = file
        self._index = CachedArrays((*file.identity(), "tar"), partial(_build, file))

    def __len__(self) -> int:
        return len(self._index["starts"]) - 1

    def record(self, index: int) -> tuple[Record, Mapping[str, bytes]]:
        """The record of sample `index` and its members by name and by extension. Raises RecordError."""
        first, last = (int(value) for value in self._index["starts"][index : index + 2])
        offsets, sizes = self._index["offsets"][first:last], self._index["sizes"][first:last]
        begin = int(offsets[0])
        data = self.file.read(begin, int(offsets[-1] + sizes[-1]))
        key = self._key(index)
        files: dict[str, bytes] = {}
        for extension, offset, size in zip(self._index["extensions"][first:last], offsets, sizes, strict=True):
            start = int(offset) - begin
            files[extension.decode("utf-8")] = data[start : start + int(size)]
        return self._assembled(key, files, index)

    def place(self, index: int) -> str:
        """`shard-0001.tar:000017`: the shard and the sample's key."""
        return f"{self.file.name}:{self._key(index)}"

    def _key(self, index: int) -> str:
        key: bytes = self._index["keys"][index]
        return key.decode("utf-8")

    def _assembled(self, key: str, files: dict[str, bytes], index: int) -> tuple[Record, Mapping[str, bytes]]:
        given = files.get("json")
        record = self._parsed(given, index) if given is not None else {}
        if "txt" in files and recognise(record) is None:
            record = {**record, "caption": files["txt"].decode("utf-8", "replace").strip()}
        base = key.rpartition("/")[2]
        members = {extension: data for extension, data in files.items() if _kind(extension)}
        named = {
            f"{prefix}{extension}": data
            for prefix in ("", f"{base}.", f"{key}.")
            for extension, data in members.items()
        }
        if not _names_media(record, given or b""):
            record = {**record, **_all_media(members)}
        return {"__key__": key, **record}, named

    def _parsed(self, data: bytes, index: int) -> dict[str, Any]:
        try:
            record = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise RecordError(
                f"{self.place(index)}.json: is no valid JSON: {error}; mend it", kind="unreadable"
            ) from error
        if not isinstance(record, dict):
            raise RecordError(
                f"{self.place(index)}.json: holds a {type(record).__name__}; a record is an object", kind="no format"
            )
        return record


def _kind(extension: str) -> str:
    """ "images", "videos", or nothing for other members. `left.png` is a picture called left."""
    last = extension.rpartition(".")[2].lower()
    return "images" if last in IMAGE_EXTENSIONS else "videos" if last in VIDEO_EXTENSIONS else ""


def _names_media(record: Record, text: bytes) -> bool:
    return any(record.get(key) for key in (*MEDIA_KEYS, "image_info")) or b'_url"' in text


def _all_media(members: Mapping[str, bytes]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for extension in members:
        found.setdefault(_kind(extension), []).append(extension)
    return found


def _build(file: DataFile) -> Arrays:
    """Per sample its key and first member (`starts`, with the end behind the last); per member where it lies."""
    keys: list[bytes] = []
    starts: list[int] = []
    extensions: list[bytes] = []
    offsets: list[int] = []
    sizes: list[int] = []
    for key, extension, offset, size in _members(file):
        if not keys or keys[-1] != key:
            keys.append(key)
            starts.append(len(offsets))
        extensions.append(extension)
        offsets.append(offset)
        sizes.append(size)
    return {
        "keys": np.array(keys, dtype=np.bytes_),
        "starts": np.array([*starts, len(offsets)], dtype=np.uint64),
        "extensions": np.array(extensions, dtype=np.bytes_),
        "offsets": np.array(offsets, dtype=np.uint64),
        "sizes": np.array(sizes, dtype=np.uint64),
    }


def _members(file: DataFile) -> Iterator[tuple[bytes, bytes, int, int]]:
    """Key, extension, offset and size of each plain file with an extension, in the order of the tar."""
    size = file.size()
    try:
        with file.open() as handle, tarfile.open(fileobj=handle, mode="r:") as tar:
            for member in tar:
                folder, slash, base = member.name.rpartition("/")
                stem, dot, extension = base.partition(".")
                if not member.isreg() or not dot or not stem:
                    continue
                if member.offset_data + member.size > size:
                    raise DataError(
                        f"{file.path}: is cut off at byte {size} inside {member.name}, which ends at "
                        f"{member.offset_data + member.size}; get the file again"
                    )
                key = f"{folder}{slash}{stem}".encode("utf-8", "surrogateescape")
                yield key, extension.encode("utf-8", "surrogateescape"), member.offset_data, member.size
    except tarfile.TarError as error:
        raise DataError(f"{file.path}: is no readable tar ({error}); give an uncompressed, complete one") from error
