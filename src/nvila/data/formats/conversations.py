"""Chat formats: LLaVA, ShareGPT / LLaMA-Factory, ms-swift, OpenAI messages, TRL / Hugging Face columns, captions.

They differ in what the keys are called and in where media stand; turns of either spelling (`from`/`value`,
`role`/`content`) are read in all of them. Tool calls and sound are errors, not left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nvila.data.formats.base import (
    MEDIA_KEYS,
    Draft,
    Format,
    Record,
    Turn,
    Where,
    has,
    list_at,
    mapping_at,
    media_of,
    present,
    text_at,
)
from nvila.data.formats.boxes import with_boxes
from nvila.errors import nearest
from nvila.types import Role

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
}


def _read_conversations(record: Record, where: Where) -> Draft:
    return _chat(record, "conversations", where)


def _read_sharegpt(record: Record, where: Where) -> Draft:
    return _chat(record, "conversations" if present(record, "conversations") else "messages", where)


def _read_messages(record: Record, where: Where) -> Draft:
    return _chat(record, "messages", where)


def _read_swift(record: Record, where: Where) -> Draft:
    return with_boxes(_chat(record, "messages", where), record.get("objects"), where)


def _read_trl(record: Record, where: Where) -> Draft:
    if not present(record, "prompt", "completion"):
        return _chat(record, "messages", where)
    prompt = _side(record, "prompt", "user", learned=False, where=where)
    completion = _side(record, "completion", "assistant", learned=True, where=where)
    return _draft(record, [*prompt, *completion])


def _read_caption(record: Record, where: Where) -> Draft:
    caption = text_at(record.get("caption"), "caption", where)
    if not present(record, *MEDIA_KEYS):
        raise where.error("has a caption and 0 images or videos; give image or video", kind="count")
    return _draft(
        record,
        [Turn(role="user", content="", key="question"), Turn(role="assistant", content=(caption,), key="caption")],
    )


def _side(record: Record, key: str, role: Role, *, learned: bool, where: Where) -> list[Turn]:
    """The turns of `prompt` or `completion`: bare text, or messages. Answers inside a prompt are not learned."""
    value = record.get(key)
    if isinstance(value, str):
        return [Turn(role=role, content=value, key=key, learned=learned or role != "assistant")]
    turns = [_turn(given, f"{key}[{number}]", where) for number, given in enumerate(list_at(record, key, where))]
    return [replace(turn, learned=turn.learned and (learned or turn.role != "assistant")) for turn in turns]


def _chat(record: Record, key: str, where: Where) -> Draft:
    for unsupported in ("tools", "audio", "audios"):
        if present(record, unsupported):
            raise where.error(f"{unsupported} is given, and neither tools nor sound can be trained on; remove it")
    turns = [_turn(given, f"{key}[{number}]", where) for number, given in enumerate(list_at(record, key, where))]
    if present(record, "system"):
        turns.insert(0, Turn(role="system", content=text_at(record["system"], "system", where), key="system"))
    return _draft(record, turns)


def _draft(record: Record, turns: list[Turn]) -> Draft:
    return Draft(turns=turns, images=media_of(record, "image", "images"), videos=media_of(record, "video", "videos"))


def _turn(given: Any, key: str, where: Where) -> Turn:
    message = mapping_at(given, key, where)
    name = message.get("role", message.get("from"))
    role = _ROLES.get(str(name))
    if role is None:
        raise where.error(f"{key}: role is {name!r}, not one of {', '.join(_ROLES)}{nearest(str(name), _ROLES)}")
    content = message.get("content", message.get("value"))
    if not isinstance(content, str | list | tuple):
        known = ("content", "value")
        found = next((nearest(other, known) for other in message if nearest(other, known)), "")
        raise where.error(f"{key}: holds no text under content or value{found}; give one")
    return Turn(role=role, content=content, key=key, learned=_is_learned(message, key, where))


def _is_learned(message: Mapping[str, Any], key: str, where: Where) -> bool:
    """ms-swift's `loss` and OpenAI's `weight` of a message: 0 or false keeps the turn out of training."""
    for name in ("loss", "weight"):
        value = message.get(name, True)
        if value not in (0, 1):
            raise where.error(f"{key}.{name} is {value!r}; give true, false, 0 or 1")
        if not value:
            return False
    return True


def _messages(record: Record) -> list[Mapping[str, Any]]:
    messages = record.get("messages")
    return [m for m in messages if isinstance(m, Mapping)] if isinstance(messages, list | tuple) else []


def _parts(record: Record) -> list[Mapping[str, Any]]:
    """The structured parts of all messages."""
    contents = [m.get("content") for m in _messages(record)]
    return [part for c in contents if isinstance(c, list | tuple) for part in c if isinstance(part, Mapping)]


def _fits_sharegpt(record: Record) -> bool:
    has_conversations = present(record, "conversations") and present(record, "images", "videos", "system")
    return has_conversations or (present(record, "messages") and present(record, "images", "videos", "system"))


def _fits_trl(record: Record) -> bool:
    if present(record, "prompt") and has(record, "completion"):
        return True
    holds_pixels = any(not isinstance(value, str) for value in media_of(record, *MEDIA_KEYS))
    placed = any(part.get("type") in ("image", "video") for part in _parts(record))
    return present(record, "messages") and (holds_pixels or placed or present(record, "image", "video"))


def _fits_swift(record: Record) -> bool:
    marked = any(message.get("loss") is not None for message in _messages(record))
    return present(record, "messages") and (present(record, "objects") or marked)


SWIFT = Format(
    name="swift",
    help="ms-swift: messages, with images, videos, objects (bbox, ref) and loss",
    needs=("messages",),
    keys=("messages", "objects", "system", *MEDIA_KEYS, "tools", "audios"),
    fits=_fits_swift,
    read=_read_swift,
)
TRL = Format(
    name="trl",
    help="TRL and Hugging Face columns: image(s) with messages, or with prompt and completion",
    needs=("prompt", "completion"),
    keys=("prompt", "completion", "messages", *MEDIA_KEYS),
    fits=_fits_trl,
    read=_read_trl,
)
SHAREGPT = Format(
    name="sharegpt",
    help="ShareGPT and LLaMA-Factory: conversations or messages, with images, videos and system",
    needs=("conversations",),
    keys=("conversations", "messages", "system", *MEDIA_KEYS, "tools", "audios"),
    fits=_fits_sharegpt,
    read=_read_sharegpt,
)
LLAVA = Format(
    name="llava",
    help="LLaVA: conversations of from and value, with image or video",
    needs=("conversations",),
    keys=("conversations", "system", *MEDIA_KEYS),
    fits=lambda record: has(record, "conversations"),
    read=_read_conversations,
)
OPENAI = Format(
    name="openai",
    help="OpenAI messages, media inside the content as image_url or video_url",
    needs=("messages",),
    keys=("messages", *MEDIA_KEYS, "tools"),
    fits=lambda record: has(record, "messages"),
    read=_read_messages,
)
CAPTION = Format(
    name="caption",
    help="a picture or clip with its caption",
    needs=("caption",),
    keys=("caption", *MEDIA_KEYS),
    fits=lambda record: has(record, "caption"),
    read=_read_caption,
)
