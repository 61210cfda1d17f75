"""The conversation and the training sample: plain data that every layer above shares.

Holds no behaviour beyond checking itself, and imports nothing heavy. Chat-template dictionaries
(`{"role": ..., "content": [{"type": "image", "path": ...}]}`) are the outer form; these are the inner one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from PIL import Image

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, kw_only=True)
class TextPart:
    """A run of text."""

    text: str


@dataclass(frozen=True, kw_only=True)
class ImagePart:
    """One picture: exactly one of a file path, a URL, or a decoded PIL image."""

    path: str | None = None
    url: str | None = None
    image: Image.Image | None = None
    max_tiles: int | None = None
    """Upper limit of tiles for this picture; None leaves it to the request's rule."""

    def __post_init__(self) -> None:
        _exactly_one("image", path=self.path, url=self.url, image=self.image)


@dataclass(frozen=True, kw_only=True)
class VideoPart:
    """One clip: exactly one of a path (a file, or a folder of frames), a URL, or a list of decoded frames."""

    path: str | None = None
    url: str | None = None
    video: Sequence[Image.Image] | None = None

    def __post_init__(self) -> None:
        _exactly_one("video", path=self.path, url=self.url, video=self.video)


Part = TextPart | ImagePart | VideoPart


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: tuple[Part, ...]
    learned: bool = True
    """Whether training learns this turn; only the assistant's turns are ever learned."""


@dataclass(frozen=True, kw_only=True)
class LabelledBox:
    """Something whose place in a picture is known: `label` inside `box` = (left, top, right, bottom) in pixels."""

    label: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One conversation to learn from or to be scored on, the last turn being the assistant's answer.

    `id` is stable: it does not change when a source is re-ordered. `objects` are dense labels for the first
    image (or the first frame), where whoever made the sample knows them.
    """

    id: str
    source: str
    messages: tuple[Message, ...]
    objects: tuple[LabelledBox, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)


def _exactly_one(kind: str, **given: object) -> None:
    present = [name for name, value in given.items() if value is not None]
    if len(present) != 1:
        names = ", ".join(given)
        found = ", ".join(present) if present else "none of them"
        raise ValueError(f"{kind} part: give exactly one of {names}; found {found}")
