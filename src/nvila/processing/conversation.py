"""Conversations as users give them, checked: the outer form (dictionaries) or ours (`nvila.types.Message`).

Reading finds the media and leaves messages that hold plain data only, which is all that the chat template sees. Nothing
is opened here. Every error says where: the message's and the part's index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from nvila.errors import PromptError, nearest
from nvila.processing.chat import clean_text
from nvila.types import ImagePart, Message, TextPart, VideoPart

ROLES = ("system", "user", "assistant")
_PART_KEYS = {
    "text": ("text",),
    "image": ("path", "url", "image", "max_tiles"),
    "video": ("path", "url", "video", "num_frames", "fps"),
}
_OPENAI = {"image_url": "image", "video_url": "video"}


@dataclass(frozen=True, kw_only=True)
class Medium:
    """A picture or clip of a conversation, not opened yet. `source` is None for a bare placeholder."""

    kind: Literal["image", "video"]
    source: Any
    place: str
    max_tiles: int | None = None
    num_frames: int | None = None
    fps: float | None = None


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A checked conversation: messages for the template, and the media in their order."""

    messages: list[dict[str, Any]]
    media: list[Medium]

    def of_kind(self, kind: str) -> list[Medium]:
        """The pictures or the clips alone."""
        return [medium for medium in self.media if medium.kind == kind]


def read_conversations(given: Any, *, max_tiles: int | None = None) -> tuple[list[Conversation], bool]:
    """One conversation or a batch of them, and whether it was a batch.

    `max_tiles` is set on every picture that has none of its own. Raises PromptError.
    """
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise PromptError(f"a conversation is a list of messages; found {type(given).__name__}")
    if not given:
        raise PromptError("the conversation is empty; give at least one user message")
    batched = isinstance(given[0], list | tuple)
    batch = given if batched else [given]
    return [_read(conversation, max_tiles) for conversation in batch], batched


def limits(conversation: Conversation) -> list[int | None]:
    """`max_tiles` of each picture: its own, else None (the processor's) for a conversation's only medium, else 1."""
    alone = len(conversation.media) == 1
    return [medium.max_tiles or (None if alone else 1) for medium in conversation.of_kind("image")]


def _read(conversation: Any, max_tiles: int | None) -> Conversation:
    if not isinstance(conversation, list | tuple) or not conversation:
        raise PromptError("a conversation of the batch is empty or no list; give at least one user message")
    messages: list[dict[str, Any]] = []
    media: list[Medium] = []
    for index, message in enumerate(conversation):
        messages.append(_message(message, index, max_tiles, media))
    if not any(message["role"] == "user" for message in messages):
        raise PromptError("the conversation has no user message; give at least one")
    return Conversation(messages=messages, media=media)


def _message(given: Any, index: int, max_tiles: int | None, media: list[Medium]) -> dict[str, Any]:
    place = f"message {index}"
    message = {"role": given.role, "content": given.content} if isinstance(given, Message) else given
    if not isinstance(message, Mapping):
        raise PromptError(f"{place}: is a {type(given).__name__}; give a dictionary with role and content")
    present = {key: value for key, value in message.items() if value is not None}
    _check_keys(present, ("role", "content"), place)
    role, content = present.get("role"), present.get("content")
    if role not in ROLES:
        raise PromptError(f"{place}: role is {role!r}, not one of {', '.join(ROLES)}{nearest(str(role), ROLES)}")
    if role == "system" and index > 0:
        raise PromptError(f"{place}: a system message must come first; move it to the start")
    if isinstance(content, str):
        return {"role": role, "content": clean_text(content)}
    if not isinstance(content, list | tuple):
        raise PromptError(f"{place}: content is {type(content).__name__}; give a string or a list of parts")
    parts = [_part(part, f"{place}, part {number}", max_tiles, media) for number, part in enumerate(content)]
    if role != "user" and any(part["type"] != "text" for part in parts):
        raise PromptError(f"{place}: holds media, but its role is {role}; only user messages may hold any")
    return {"role": role, "content": _join_text(parts)}


def _part(given: Any, place: str, max_tiles: int | None, media: list[Medium]) -> dict[str, Any]:
    part = _as_mapping(given, place)
    if part.get("type") in _OPENAI:
        part = _from_openai(part, place)
    kind = part.get("type")
    if kind not in _PART_KEYS:
        raise PromptError(
            f"{place}: type is {kind!r}, not one of {', '.join(_PART_KEYS)}{nearest(str(kind), _PART_KEYS)}"
        )
    _check_keys(part, ("type", *_PART_KEYS[kind]), place)
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise PromptError(f"{place}: text is {type(part.get('text')).__name__}; give a string")
        return {"type": "text", "text": clean_text(part["text"])}
    medium = _medium(kind, part, place, max_tiles)
    media.append(medium)
    return {"type": kind} if medium.max_tiles is None else {"type": kind, "max_tiles": medium.max_tiles}


def _as_mapping(given: Any, place: str) -> dict[str, Any]:
    if isinstance(given, str):
        return {"type": "text", "text": given}
    if isinstance(given, TextPart | ImagePart | VideoPart) and is_dataclass(given):
        kinds = {TextPart: "text", ImagePart: "image", VideoPart: "video"}
        values = {field.name: given.__dict__[field.name] for field in fields(given)}
        given = {"type": kinds[type(given)], **values}
    if not isinstance(given, Mapping):
        raise PromptError(f"{place}: is a {type(given).__name__}; give a dictionary with a type, or a string")
    return {key: value for key, value in given.items() if value is not None}


def _from_openai(part: dict[str, Any], place: str) -> dict[str, Any]:
    """`{"type": "image_url", "image_url": {"url": ...}}` as a part of ours."""
    kind = part["type"]
    value = part.get(kind)
    url = value.get("url") if isinstance(value, Mapping) else value
    if not isinstance(url, str):
        raise PromptError(f"{place}: {kind} holds no url; give {{'{kind}': {{'url': ...}}}}")
    return {"type": _OPENAI[kind], "url": url, **{key: part[key] for key in part if key not in (kind, "type")}}


def _medium(kind: Literal["image", "video"], part: dict[str, Any], place: str, max_tiles: int | None) -> Medium:
    names: tuple[str, ...] = ("path", "url", kind)
    sources = [key for key in names if key in part]
    if len(sources) > 1:
        raise PromptError(f"{place}: has {' and '.join(sources)}; give exactly one of path, url, {kind}")
    if kind == "image":
        own = part.get("max_tiles", max_tiles)
        _check_count("max_tiles", own, place)
        return Medium(kind=kind, source=_source(part, sources, place), place=place, max_tiles=own)
    _check_count("num_frames", part.get("num_frames"), place)
    return Medium(
        kind=kind,
        source=_source(part, sources, place),
        place=place,
        num_frames=part.get("num_frames"),
        fps=part.get("fps"),
    )


def _source(part: dict[str, Any], sources: list[str], place: str) -> Any:
    if not sources:
        return None
    value = part[sources[0]]
    if sources[0] in ("path", "url") and not isinstance(value, str | Path):
        raise PromptError(f"{place}: {sources[0]} is a {type(value).__name__}; give a string")
    return value


def _join_text(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbouring text parts as one, so that two of them cannot spell a placeholder together."""
    joined: list[dict[str, Any]] = []
    for part in parts:
        if part["type"] == "text" and joined and joined[-1]["type"] == "text":
            joined[-1] = {"type": "text", "text": clean_text(joined[-1]["text"] + part["text"])}
        else:
            joined.append(part)
    return joined


def _check_keys(given: Mapping[str, Any], known: Sequence[str], place: str) -> None:
    for key in given:
        if key not in known:
            raise PromptError(f"{place}: unknown key {key!r}{nearest(str(key), known)}; known are {', '.join(known)}")


def _check_count(name: str, value: Any, place: str) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise PromptError(f"{place}: {name} is {value!r}; give a whole number from 1")
