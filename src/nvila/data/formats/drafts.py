"""From a draft to a Sample: media to their places, turns checked, an id that does not depend on the order of records.

A placeholder `<image>` or `<video>` in a user turn becomes its picture or clip right there; line breaks that touch it
are layout of the record and are dropped. Media without any placeholder go in front of the first user turn. Counts
that disagree are errors with both numbers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from nvila.data.formats.base import Draft, Record, Turn, Where, mapping_at, text_at
from nvila.data.formats.boxes import labels_of
from nvila.data.formats.media import image_part, video_part
from nvila.types import ImagePart, Message, Part, Sample, TextPart, VideoPart

_PLACEHOLDER = re.compile(r"\n*(<image>|<video>)\n*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_URL_PARTS = {"image_url": "image", "video_url": "video"}


def finish(draft: Draft, record: Record, known: Sequence[str], where: Where) -> Sample:
    """The Sample of a draft. `known` are the keys that the format has read: other plain values go to `meta`.

    Raises RecordError for wrong counts, turns in a wrong order, and empty questions or answers.
    """
    pool = _Pool(draft, where)
    contents = [pool.parts_of(turn) for turn in draft.turns]
    pool.check_used()
    front = pool.front()
    first = next((number for number, turn in enumerate(draft.turns) if turn.role == "user"), None)
    if first is not None:
        contents[first] = [*front, *contents[first]]
    _check_turns(draft.turns, contents, where)
    messages = tuple(
        Message(role=turn.role, content=tuple(content), learned=turn.learned)
        for turn, content in zip(draft.turns, contents, strict=True)
    )
    extra = {key: value for key, value in record.items() if key not in known and _is_plain(value)}
    told = record.get("meta")
    if isinstance(told, Mapping):
        extra |= told
    if isinstance(record.get("answers"), list):
        extra["answers"] = record["answers"]
    return Sample(
        id=sample_id(record),
        source=where.source,
        messages=messages,
        objects=tuple(draft.objects) or tuple(labels_of(record, where)),
        meta={**extra, **draft.meta},
    )


def sample_id(record: Record) -> str:
    """The record's own `id`, else its `__key__` in a shard, else a hash of its content (32 hexadecimal digits)."""
    for key in ("id", "__key__"):
        own = record.get(key)
        if isinstance(own, str | int) and not isinstance(own, bool) and str(own):
            return str(own)
    text = json.dumps(record, sort_keys=True, ensure_ascii=False, default=_digest)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _digest(value: Any) -> str:
    """What stands for values that JSON does not know."""
    if isinstance(value, Image.Image):
        value = value.tobytes()
    if isinstance(value, bytes):
        return hashlib.blake2b(value, digest_size=16).hexdigest()
    return str(value)


class _Pool:
    """The media of a record that its texts do not name themselves, handed out to placeholders in order."""

    def __init__(self, draft: Draft, where: Where) -> None:
        self._where = where
        self._given: dict[str, Sequence[Any]] = {"image": draft.images, "video": draft.videos}
        self._num_taken = {"image": 0, "video": 0}
        self._is_alone = self._writes_video_as_image(draft)

    @staticmethod
    def _writes_video_as_image(draft: Draft) -> bool:
        """Video instruction sets in LLaVA's form put `<image>` where the clip goes."""
        text = "".join(turn.content for turn in draft.turns if turn.role == "user" and isinstance(turn.content, str))
        return bool(draft.videos) and not draft.images and "<image>" in text and "<video>" not in text

    def parts_of(self, turn: Turn) -> list[Part]:
        """The parts of a turn, its placeholders replaced. Only user turns have placeholders."""
        if isinstance(turn.content, str):
            return list(self._split(turn.content) if turn.role == "user" else _texts(turn.content))
        parts: list[Part] = []
        for number, given in enumerate(turn.content):
            parts += self._structured(given, turn, f"{turn.key}[{number}]")
        return parts

    def check_used(self) -> None:
        """Raises RecordError where placeholders and media disagree in number."""
        for kind, given in self._given.items():
            taken = self._num_taken[kind]
            if taken and taken != len(given):
                raise self._where.error(
                    f"{taken} <{kind}> placeholders and {len(given)} {kind}s; make the counts equal", kind="count"
                )

    def front(self) -> list[Part]:
        """The media that no placeholder asked for."""
        return [
            self._make(kind, value, number)
            for kind, given in self._given.items()
            if not self._num_taken[kind]
            for number, value in enumerate(given)
        ]

    def _split(self, text: str) -> Iterator[Part]:
        end = 0
        for match in _PLACEHOLDER.finditer(text):
            yield from _texts(text[end : match.start()])
            kind = match[1][1:-1]
            yield from self._take("video" if self._is_alone and kind == "image" else kind)
            end = match.end()
        yield from _texts(text[end:])

    def _structured(self, given: Any, turn: Turn, key: str) -> list[Part]:
        if isinstance(given, str):
            return list(_texts(given))
        part = mapping_at(given, key, self._where)
        kind = part.get("type", "text")
        if kind == "text":
            text = text_at(part.get("text"), f"{key}.text", self._where)
            has_pool = turn.role == "user" and any(self._given.values())
            return list(self._split(text) if has_pool else _texts(text))
        name = _URL_PARTS.get(kind, kind)
        if name not in ("image", "video"):
            raise self._where.error(f"{key}.type is {kind!r}; known are text, image, video, image_url, video_url")
        if turn.role != "user":
            raise self._where.error(f"{key} is a {name} in a turn of the {turn.role}; only users show media")
        value = next((part[field] for field in (kind, "url", "path", "bytes") if field in part), None)
        make: Callable[..., Part] = image_part if name == "image" else video_part
        return list(self._take(name)) if value is None else [make(value, key, self._where)]

    def _take(self, kind: str) -> Iterator[Part]:
        """The next medium; none where they have run out, which `check_used` reports with the full count."""
        number = self._num_taken[kind]
        self._num_taken[kind] += 1
        if number < len(self._given[kind]):
            yield self._make(kind, self._given[kind][number], number)

    def _make(self, kind: str, value: Any, number: int) -> ImagePart | VideoPart:
        key = f"{kind}s[{number}]"
        return image_part(value, key, self._where) if kind == "image" else video_part(value, key, self._where)


def _texts(text: str) -> Iterator[TextPart]:
    if text:
        yield TextPart(text=text)


def _check_turns(turns: Sequence[Turn], contents: Sequence[Sequence[Part]], where: Where) -> None:
    roles = [turn.role for turn in turns]
    if "system" in roles[1:]:
        number = roles.index("system", 1)
        raise where.error(f"{turns[number].key} is a system turn behind others; it must come first")
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if not spoken:
        raise where.error("has 0 turns; give at least a question and its answer", kind="empty answer")
    if spoken[0] != "user":
        raise where.error(f"the first turn is the {spoken[0]}'s; a conversation starts with the user")
    if spoken[-1] != "assistant":
        raise where.error("ends without an answer; the last turn must be the assistant's", kind="empty answer")
    for turn, content in zip(turns, contents, strict=True):
        text = "".join(part.text for part in content if isinstance(part, TextPart)).strip()
        if _SURROGATE.search(text):
            raise where.error(f"{turn.key} holds half of a surrogate pair, which is no text; remove it")
        if turn.role == "assistant" and turn.learned and not text:
            raise where.error(f"{turn.key} is an empty answer; fill it or drop the turn", kind="empty answer")
        if turn.role == "user" and not text and all(isinstance(part, TextPart) for part in content):
            raise where.error(f"{turn.key} is an empty question; fill it or drop the turn")


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)
