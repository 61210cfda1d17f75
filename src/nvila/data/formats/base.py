"""What every format shares: the error of a record, where a record stands, and the draft that a format makes of it.

A format only names the turns and the media of a record; `finish` (module `drafts`) puts the media at their places and
checks the whole, once for all formats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nvila.errors import DataError
from nvila.types import LabelledBox, Role

Record = Mapping[str, Any]
ProblemKind = Literal[
    "unreadable",
    "no format",
    "malformed",
    "count",
    "empty answer",
    "missing media",
    "undecodable media",
    "over-long",
    "duplicate id",
]
"""What can be wrong with a sample; `nvila data check` counts by these."""

MEDIA_KEYS = ("image", "images", "video", "videos")
"""Keys under which records name their pictures and clips; each holds one or a list."""


_LARGEST = 1e15
"""No time or size is larger; floats are exact to a thousandth or so up to here."""


class RecordError(DataError):
    """A DataError that also says what kind of problem it is, and of which record. Survives pickling.

    `id` is the one that the record's sample would have; None where no record could be read at all.
    """

    def __init__(self, message: str, *, kind: ProblemKind = "malformed", id: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.id = id

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_error, (str(self), self.kind, self.id)


def _restore_error(message: str, kind: ProblemKind, id: str | None) -> RecordError:
    return RecordError(message, kind=kind, id=id)


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where a record stands, and where its media lie.

    `place` names file and line; `media_root` is the folder (or fsspec URL) that relative paths start at; `members`
    are files that came along with the record, such as those of its tar shard, by name.
    """

    place: str
    source: str
    media_root: str | None = None
    members: Mapping[str, bytes] = field(default_factory=dict)

    def error(self, message: str, *, kind: ProblemKind = "malformed") -> RecordError:
        """The error `message` with the place in front."""
        return RecordError(f"{self.place}: {message}", kind=kind)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A turn as the record has it. `content` is text with placeholders or a list of parts; `key` names it in errors."""

    role: Role
    content: str | Sequence[Any]
    key: str
    learned: bool = True


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What a format found: turns, the media that placeholders stand for, and what else is known."""

    turns: Sequence[Turn]
    images: Sequence[Any] = ()
    videos: Sequence[Any] = ()
    objects: Sequence[LabelledBox] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Format:
    """One way to write a record.

    `needs` are the keys without which it is not this format, `keys` all that are read, `fits` tells whether a record
    is written so, `read` makes a draft of it (raises RecordError).
    """

    name: str
    help: str
    needs: tuple[str, ...]
    keys: tuple[str, ...]
    fits: Callable[[Record], bool]
    read: Callable[[Record, Where], Draft]


def present(record: Record, *keys: str) -> bool:
    """Whether any of `keys` holds something: not missing, None, or empty."""
    return any(record.get(key) is not None and not _is_empty(record[key]) for key in keys)


def has(record: Record, *keys: str) -> bool:
    """Whether each of `keys` is there and not None, as it is in a table's rows that have other columns."""
    return all(record.get(key) is not None for key in keys)


def media_of(record: Record, *keys: str) -> list[Any]:
    """The media under `keys`, each of which may hold one or a list; empty entries do not count."""
    found: list[Any] = []
    for key in keys:
        value = record.get(key)
        found += value if isinstance(value, list | tuple) else [value]
    return [value for value in found if value is not None and not _is_empty(value)]


def text_at(value: Any, key: str, where: Where) -> str:
    """`value`, which must be text. Raises RecordError naming the key."""
    if not isinstance(value, str):
        raise where.error(f"{key} is {_named(value)}; it must be text")
    return value


def list_at(record: Record, key: str, where: Where) -> list[Any]:
    """The list under `key`. Raises RecordError when it is missing or no list."""
    value = record.get(key)
    if not isinstance(value, list | tuple):
        raise where.error(f"{key} is {_named(value)}; it must be a list")
    return list(value)


def mapping_at(value: Any, key: str, where: Where) -> dict[str, Any]:
    """`value`, which must be an object, without the keys that hold nothing (columns of tables have them)."""
    if not isinstance(value, Mapping):
        raise where.error(f"{key} is {_named(value)}; it must be an object")
    return {name: item for name, item in value.items() if item is not None}


def number_at(value: Any, key: str, where: Where) -> float:
    """`value`, which must be a finite number of at least 0. Raises RecordError naming the key."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LARGEST:
        raise where.error(f"{key} is {value!r:.60}; it must be a number of at least 0")
    return float(value)


def _is_empty(value: Any) -> bool:
    return isinstance(value, str | bytes | list | tuple | dict) and len(value) == 0


def _named(value: Any) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"
