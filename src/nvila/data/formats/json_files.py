"""JSON lines, and JSON files that hold a list of records, an object of records by name, or one record.

Only the place of each record in the file is kept. A list is scanned piece by piece: its text is taken as Latin-1, in
which a character is a byte and JSON has the same shape, so that places in the text are places in the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from nvila.data.formats.base import Record, RecordError
from nvila.data.formats.files import DataFile
from nvila.data.formats.index import Arrays, CachedArrays
from nvila.errors import DataError

_BLOCK_BYTES = 1 << 22
_LONGEST_RECORD = 1 << 28
"""Characters after which an element that does not end is taken for damage, not for a long record."""
_BOM = b"\xef\xbb\xbf"
_LINES, _LIST, _NAMED, _SINGLE = range(4)
_SPACE = " \t\r\n"
_SPACE_BYTES = _SPACE.encode()


class JsonStore:
    """The records of one JSON or JSON-lines file, in their order. Opening it reads the file once, ever."""

    def __init__(self, file: DataFile) -> None:
        """Raises DataError for a file that is no JSON."""
        self.file = file
        self._index = CachedArrays((*file.identity(), "json"), partial(_build, file))
        self._kind = int(self._index["kind"][0])

    def __len__(self) -> int:
        return len(self._index["starts"]) - 1

    def record(self, index: int) -> tuple[Record, Mapping[str, bytes]]:
        """Record `index`, with no members. Raises RecordError for broken JSON."""
        starts = self._index["starts"]
        data = self.file.read(int(starts[index]), int(starts[index + 1]))
        try:
            text = data.removeprefix(_BOM).decode("utf-8")
            return (json.loads(text) if self._kind == _LINES else self._element(text)), {}
        except UnicodeDecodeError as error:
            raise self._broken(index, f"byte {error.start + 1} is no UTF-8") from error
        except json.JSONDecodeError as error:
            raise self._broken(index, f"{error.msg} at character {error.pos + 1}") from error
        except RecursionError as error:
            raise self._broken(index, "it is nested too deeply") from error
        except ValueError as error:
            raise self._broken(index, "a number in it has too many digits") from error

    def place(self, index: int) -> str:
        """`data.jsonl:17` (lines count from 1), or `data.json record 17` (records count from 0)."""
        if self._kind != _LINES:
            return f"{self.file.name} record {index}"
        lines = self._index["lines"]
        return f"{self.file.name}:{int(lines[index]) if len(lines) else index + 1}"

    def _element(self, text: str) -> Any:
        decoder = json.JSONDecoder()
        if self._kind != _NAMED:
            return decoder.raw_decode(text, _skip(text, 0))[0]
        name, end = decoder.raw_decode(text, _skip(text, 0))
        value = decoder.raw_decode(text, _skip(text, end, ":"))[0]
        return {"id": name, **value} if isinstance(value, dict) else value

    def _broken(self, index: int, reason: str) -> RecordError:
        return RecordError(f"{self.place(index)}: is no valid JSON: {reason}; mend or drop it", kind="unreadable")


def _build(file: DataFile) -> Arrays:
    """`starts` of the records and the end of the last; `kind`; the numbers of the `lines` where some are blank."""
    with file.open() as handle:
        is_lines = file.suffix == ".jsonl" or _looks_like_lines(handle)
        handle.seek(0)
        return _line_starts(handle) if is_lines else _element_starts(handle, file.path)


def _looks_like_lines(handle: IO[bytes]) -> bool:
    """Whether a file named .json is JSON lines: its first line is an object, and a second follows."""
    if not handle.read(len(_BOM) + 1).removeprefix(_BOM).startswith(b"{"):
        return False
    handle.seek(0)
    first, second = handle.readline(_LONGEST_RECORD), handle.readline(_LONGEST_RECORD)
    try:
        return bool(second.strip()) and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _line_starts(handle: IO[bytes]) -> Arrays:
    borders, is_held = _lines(handle)
    held = np.flatnonzero(is_held)
    # The reader of a line does not mind blank ones behind it, so that a start is also the end of the line before.
    lines = held.astype(np.uint64) + np.uint64(1)
    return {
        "starts": np.append(borders[held], borders[-1]),
        "lines": lines if len(held) < len(is_held) else lines[:0],
        "kind": np.array([_LINES], dtype=np.uint8),
    }


def _lines(handle: IO[bytes]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """Where each line starts, with the end of the file behind the last, and which lines hold more than space."""
    borders, is_held = [np.zeros(1, dtype=np.uint64)], []
    offset = 0
    held_so_far = False
    while block := handle.read(_BLOCK_BYTES):
        pieces = block.split(b"\n")
        held = np.fromiter((bool(piece.strip(_SPACE_BYTES)) for piece in pieces), dtype=np.bool_, count=len(pieces))
        held[0] |= held_so_far
        held_so_far = bool(held[-1])
        lengths = np.fromiter(map(len, pieces[:-1]), dtype=np.uint64, count=len(pieces) - 1)
        borders.append(np.cumsum(lengths + np.uint64(1), dtype=np.uint64) + np.uint64(offset))
        is_held.append(held[:-1])
        offset += len(block)
    if held_so_far:
        borders.append(np.array([offset], dtype=np.uint64))
    is_held.append(np.array([True] if held_so_far else [], dtype=np.bool_))
    return np.concatenate(borders), np.concatenate(is_held)


def _element_starts(handle: IO[bytes], path: str) -> Arrays:
    scan = _Scan(handle, path)
    kind = {"[": _LIST, "{": _NAMED}.get(scan.peek())
    if kind is None:
        raise DataError(f"{path}: starts with {scan.peek()!r}; a JSON file of records starts with [ or {{")
    opening = scan.offset
    starts: list[int] = []
    scan.advance(1)
    for start, value in scan.elements(named=kind == _NAMED):
        if kind == _NAMED and not starts and not isinstance(value, dict):
            kind, starts = _SINGLE, [opening]
            scan.offset = scan.end_of_file()
            break
        starts.append(start)
    return {
        "starts": np.array([*starts, scan.offset], dtype=np.uint64),
        "lines": np.zeros(0, dtype=np.uint64),
        "kind": np.array([kind], dtype=np.uint8),
    }


class _Scan:
    """Walks over the elements of a list or an object without holding more than a window of the file."""

    def __init__(self, handle: IO[bytes], path: str) -> None:
        self._handle = handle
        self._path = path
        self._text = ""
        self._position = 0
        self._base = 0
        self._decoder = json.JSONDecoder()
        self._extend()
        if self._text.startswith(_BOM.decode("latin-1")):
            self._position = len(_BOM)

    @property
    def offset(self) -> int:
        """The byte of the file that comes next."""
        return self._base + self._position

    @offset.setter
    def offset(self, value: int) -> None:
        self._position = value - self._base

    def end_of_file(self) -> int:
        """The size of the file, found by reading on."""
        while self._extend():
            pass
        return self._base + len(self._text)

    def peek(self) -> str:
        """The next character that is no space, or nothing at the end of the file."""
        while True:
            self._position = _skip(self._text, self._position)
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._extend():
                return ""

    def advance(self, count: int) -> None:
        """Step over `count` characters."""
        self._position += count

    def elements(self, *, named: bool) -> Iterator[tuple[int, Any]]:
        """The offset and the value of each element up to the closing bracket, with the name in front if `named`."""
        closing = "}" if named else "]"
        while (following := self.peek()) != closing:
            if following == ",":
                self.advance(1)
                self.peek()
            start = self.offset
            yield start, self._value(named)

    def _value(self, named: bool) -> Any:
        while True:
            try:
                position = self._position
                if named:
                    _, position = self._decoder.raw_decode(self._text, position)
                    position = _skip(self._text, position, ":")
                value, self._position = self._decoder.raw_decode(self._text, position)
                return value
            except (ValueError, RecursionError) as error:
                if len(self._text) - self._position > _LONGEST_RECORD or not self._extend():
                    raise DataError(
                        f"{self._path}: is no valid JSON behind byte {self.offset} (cut off, or damaged): {error}; "
                        "get the file again"
                    ) from error

    def _extend(self) -> bool:
        """Forgets what was read and reads on, more each time so that a huge record costs no repeated parsing."""
        kept = self._text[self._position :]
        block = self._handle.read(max(_BLOCK_BYTES, len(kept)))
        self._base += self._position
        self._position = 0
        self._text = kept + block.decode("latin-1")
        return bool(block)


def _skip(text: str, position: int, also: str = "") -> int:
    """The first place from `position` on that holds no space."""
    while position < len(text) and text[position] in _SPACE + also:
        position += 1
    return position
