"""Formats about times in clips: dense captioning, event localisation, reasoning localisation, video questions (LITA).

Times are written into texts as seconds, `<12.30>`, and turned into time tokens, or not, by whoever trains: the record
stays true for clips cut or sampled otherwise. `meta` holds `duration` and `events` (start, end in seconds, text).
A clip is `video`, or the record's id; an id without extension finds the one file of that name. Which wording a
question has follows from the id, so that a record asks the same in every run.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from nvila.data.formats.base import Draft, Format, Record, Turn, Where, has, list_at, mapping_at, number_at, text_at
from nvila.data.formats.drafts import sample_id
from nvila.processing.fetch import is_url

_CAPTIONING = (
    "Describe what happens in this video, event by event.",
    "Tell what can be seen in the video from its start to its end.",
    "Give an account of all events of the video.",
)
_CAPTIONING_TIMES = (
    "Put the start and end time in front of each sentence.",
    "Every sentence starts with the time at which its event begins and the time at which it ends.",
)
_LOCALISATION = (
    "In which part of the video can this be seen: {event}?",
    "From when to when does this happen: {event}?",
    "Find this event in the video: {event}.",
)
_LOCALISATION_TIMES = (
    "Reply with the start and end time and nothing else.",
    "The answer is two times, the start and the end.",
)
_TIME = re.compile(r"<(\d+(?:\.\d*)?|\.\d+)>")
_SLACK_S = 1.0
"""How far a time may lie behind the end of the clip, by rounding of one of the two; it is moved to the end."""


class _Event(NamedTuple):
    start: float
    end: float
    text: str


def _read_captioning(record: Record, where: Where) -> Draft:
    duration, events = _events(record, where)
    answer = " ".join(f"{_times(event)} {event.text}" for event in events)
    question = _wording(record, _CAPTIONING, 0) + " " + _wording(record, _CAPTIONING_TIMES, 1)
    turns = [Turn(role="user", content=question, key="question"), _answer(answer, "sentences")]
    return _draft(record, turns, duration, events, where)


def _read_localisation(record: Record, where: Where) -> Draft:
    """Every event is a question of its own, all about the one clip."""
    duration, events = _events(record, where)
    turns: list[Turn] = []
    for number, event in enumerate(events):
        question = _wording(record, _LOCALISATION, 2 * number).format(event=event.text.rstrip(".?! "))
        question += " " + _wording(record, _LOCALISATION_TIMES, 2 * number + 1)
        key = f"sentences[{number}]"
        turns += [Turn(role="user", content=question, key=key), _answer(_times(event), key)]
    return _draft(record, turns, duration, events, where)


def _read_questions(record: Record, where: Where, *, has_times: bool) -> Draft:
    duration = number_at(record.get("duration"), "duration", where) if has_times else None
    turns: list[Turn] = []
    events: list[_Event] = []
    for number, given in enumerate(list_at(record, "QA", where)):
        pair = mapping_at(given, f"QA[{number}]", where)
        question = text_at(pair.get("q"), f"QA[{number}].q", where).strip()
        answer = text_at(pair.get("a"), f"QA[{number}].a", where).strip()
        if duration is not None:
            answer, found = _with_times(answer, duration, f"QA[{number}].a", where)
            events += found
        turns += [Turn(role="user", content=question, key=f"QA[{number}].q"), _answer(answer, f"QA[{number}].a")]
    return _draft(record, turns, duration, events, where)


def _answer(text: str, key: str) -> Turn:
    return Turn(role="assistant", content=text, key=key)


def _draft(record: Record, turns: list[Turn], duration: float | None, events: Sequence[_Event], where: Where) -> Draft:
    meta: dict[str, Any] = {} if duration is None else {"duration": duration}
    if events:
        meta["events"] = [event._asdict() for event in events]
    return Draft(turns=turns, videos=[_clip(record, where)], meta=meta)


def _clip(record: Record, where: Where) -> Any:
    video = record.get("video", record.get("id"))
    if video is None:
        raise where.error("names no clip; give video, or an id that is its file name", kind="missing media")
    root = where.media_root or ""
    if not isinstance(video, str) or video in where.members or is_url(video) or is_url(root):
        return video
    path = Path(os.path.join(root, video))
    if path.suffix or path.exists():
        return video
    found = sorted(path.parent.glob(f"{path.name}.*"))
    if len(found) > 1:
        raise where.error(f"video {video!r} is any of {len(found)} files ({found[0].name}, ...); give the extension")
    return video + found[0].suffix if found else video


def _events(record: Record, where: Where) -> tuple[float, list[_Event]]:
    """Duration and events. Raises RecordError for lists of unequal length and times outside of the clip."""
    duration = number_at(record.get("duration"), "duration", where)
    spans = list_at(record, "timestamps", where)
    texts = list_at(record, "sentences", where)
    if len(spans) != len(texts):
        raise where.error(f"{len(spans)} timestamps and {len(texts)} sentences; make them equal", kind="count")
    if not spans:
        raise where.error("has 0 events; give at least one", kind="empty answer")
    return duration, [
        _event(span, text, number, duration, where)
        for number, (span, text) in enumerate(zip(spans, texts, strict=True))
    ]


def _event(span: Any, text: Any, number: int, duration: float, where: Where) -> _Event:
    key = f"timestamps[{number}]"
    if not isinstance(span, list | tuple) or len(span) != 2:
        raise where.error(f"{key} is {span!r:.60}; give the start and the end in seconds")
    start, end = (_inside(number_at(value, key, where), duration, key, where) for value in span)
    if start > end:
        raise where.error(f"{key} starts at {start:g} s and ends at {end:g} s; the start comes first")
    sentence = " ".join(text_at(text, f"sentences[{number}]", where).split())
    if not sentence:
        raise where.error(f"sentences[{number}] is empty; describe the event", kind="empty answer")
    return _Event(start, end, sentence)


def _inside(time: float, duration: float, key: str, where: Where) -> float:
    if time > duration + _SLACK_S:
        raise where.error(f"{key} names {time:g} s, and the clip lasts {duration:g} s; correct one of them")
    return min(time, duration)


def _with_times(answer: str, duration: float, key: str, where: Where) -> tuple[str, list[_Event]]:
    """An answer with its times in one spelling, and the span that its first two times name."""
    times = [_inside(float(match[1]), duration, key, where) for match in _TIME.finditer(answer)]
    spelled = iter(times)
    text = _TIME.sub(lambda _: _spell(next(spelled)), answer)
    return text, [_Event(times[0], times[1], text)] if len(times) > 1 and times[0] <= times[1] else []


def _times(event: _Event) -> str:
    return f"{_spell(event.start)} {_spell(event.end)}"


def _spell(time: float) -> str:
    return f"<{time:.2f}>"


def _wording(record: Record, choices: Sequence[str], salt: int) -> str:
    digest = hashlib.blake2b(f"{sample_id(record)}/{salt}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return choices[int.from_bytes(digest, "big") % len(choices)]


_EVENT_KEYS = ("video", "duration", "timestamps", "sentences")
DENSE_CAPTIONING = Format(
    name="dense_captioning",
    help="dense captioning: duration, timestamps and sentences of a clip",
    needs=("duration", "timestamps", "sentences"),
    keys=_EVENT_KEYS,
    fits=lambda record: has(record, "timestamps", "sentences"),
    read=_read_captioning,
)
EVENT_LOCALIZATION = Format(
    name="event_localization",
    help="the same records, asking when each event happens; only when asked for by name",
    needs=("duration", "timestamps", "sentences"),
    keys=_EVENT_KEYS,
    fits=lambda record: False,
    read=_read_localisation,
)
REASONING_LOCALIZATION = Format(
    name="reasoning_localization",
    help="questions about a clip of known duration, answers with times such as <12.3>",
    needs=("QA", "duration"),
    keys=("video", "duration", "QA"),
    fits=lambda record: has(record, "QA", "duration"),
    read=partial(_read_questions, has_times=True),
)
VIDEO_QA = Format(
    name="video_qa",
    help="questions about a clip: video, and QA with q and a",
    needs=("QA",),
    keys=("video", "QA"),
    fits=lambda record: has(record, "QA"),
    read=partial(_read_questions, has_times=False),
)
