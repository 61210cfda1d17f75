"""Which format a record is written in, and the record as a Sample."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import SequenceMatcher
from types import MappingProxyType

from nvila.data.formats.base import MEDIA_KEYS, Format, Record, RecordError, Where, has
from nvila.data.formats.conversations import CAPTION, LLAVA, OPENAI, SHAREGPT, SWIFT, TRL
from nvila.data.formats.documents import INTERLEAVED
from nvila.data.formats.drafts import finish, sample_id
from nvila.data.formats.temporal import DENSE_CAPTIONING, EVENT_LOCALIZATION, REASONING_LOCALIZATION, VIDEO_QA
from nvila.errors import ConfigError, nearest
from nvila.types import Sample

_IN_ORDER = (
    INTERLEAVED,
    DENSE_CAPTIONING,
    EVENT_LOCALIZATION,
    REASONING_LOCALIZATION,
    VIDEO_QA,
    SWIFT,
    TRL,
    SHAREGPT,
    LLAVA,
    OPENAI,
    CAPTION,
)
FORMATS: Mapping[str, Format] = MappingProxyType({known.name: known for known in _IN_ORDER})
"""The formats by name, in the order in which a record is tried against them: the narrow ones first."""

_ALIKE = 0.7
"""Likeness from which one key is taken for another misspelt."""


def read_record(record: Record, where: Where, *, format: str | None = None) -> Sample:
    """`record` as a Sample. Raises RecordError as `to_sample` does, with the record's id; ConfigError for an unknown
    `format`."""
    if not isinstance(record, Mapping):
        raise where.error(f"is a {type(record).__name__}; a record is an object with keys", kind="no format")
    chosen = check_format(format) or recognise(record)
    try:
        if chosen is None:
            raise where.error(_misfit(record), kind="no format")
        return finish(chosen.read(record, where), record, ("id", "__key__", *chosen.keys), where)
    except RecordError as error:
        error.id = sample_id(record)
        raise


def check_format(name: str | None) -> Format | None:
    """The format called `name`; None for None. Raises ConfigError when there is none of that name."""
    if name is not None and name not in FORMATS:
        raise ConfigError(f"format is {name!r}{nearest(name, FORMATS)}; known are {', '.join(FORMATS)}")
    return None if name is None else FORMATS[name]


def recognise(record: Record) -> Format | None:
    """The first format that `record` fits, or None."""
    return next((known for known in _IN_ORDER if known.fits(record)), None)


def _misfit(record: Record) -> str:
    """Why no format fits: the keys found, the nearest format, and the key of it that is missing."""
    found = ", ".join(sorted(map(str, record))) or "no keys"
    best = max(_IN_ORDER, key=lambda known: _likeness(record, known))
    missing = next((key for key in best.needs if not has(record, key)), best.needs[0])
    return (
        f"fits no format (keys: {found}); the nearest is {best.name!r}, "
        f"where the key {missing!r} is missing{_meant(record, missing)}"
    )


def _likeness(record: Record, known: Format) -> float:
    """How much of what a format needs is there, by its own name or a similar one, then the share of its keys."""
    needs = sum(1.0 if has(record, key) else 0.5 * _similar(record, key)[0] for key in known.needs) / len(known.needs)
    return needs + 0.01 * sum(key in record for key in known.keys) / len(known.keys)


def _similar(record: Record, key: str) -> tuple[float, str]:
    """The key of `record` most like `key`, with their likeness in 0..1; (0, "") where none is like it."""
    others = [str(other) for other in record if other not in MEDIA_KEYS]
    likeness, other = max(((SequenceMatcher(None, key, other).ratio(), other) for other in others), default=(0.0, ""))
    return (likeness, other) if likeness >= _ALIKE else (0.0, "")


def _meant(record: Record, key: str) -> str:
    _, similar = _similar(record, key)
    return f" (is it {similar!r}?)" if similar else ""
