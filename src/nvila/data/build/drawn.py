"""Family `drawn`: what the generators of `nvila.data.corpus` draw, at several sizes and with further questions.

Text in hundreds of fonts, receipts, named drawings, shapes to count and place, simple charts, and short clips.

A unit is `SIDE/GENERATOR/WIDTHxHEIGHT`, so each side has units of its own, and the side is passed on to the generator,
which splits what it draws from: one superfamily of fonts in five and one word in ten are held out, one drawing of each
named concept, and four wordings of each question (`nvila.data.corpus.splits`, `.phrasing`). Shapes, colours and chart
types are on both sides: there only wording, fonts and labels are new. Questions that are added here use wordings of
their own, which are not split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nvila.data.build.drawn_packages import PACKAGES
from nvila.data.build.drawn_questions import further_turns
from nvila.data.build.family import Package
from nvila.data.corpus import GENERATORS, Assets
from nvila.data.corpus.canvas import Size, Turn, pick
from nvila.data.corpus.fetch import write_assets
from nvila.data.corpus.splits import Split
from nvila.errors import DataError
from nvila.types import Message, Sample, TextPart

MAX_QUESTIONS = 5
CLIP_RATES = (1, 2, 4)
"""Frames a second of clips, which have eight frames."""

SIZES: dict[str, tuple[Size, ...]] = {
    "word": ((112, 112), (224, 112), (224, 224), (336, 224)),
    "strip": ((448, 112), (448, 224), (672, 336)),
    "line": ((336, 112), (448, 112), (448, 224), (448, 448), (672, 224)),
    "paragraph": ((224, 224), (336, 224), (336, 336), (448, 336), (448, 448), (672, 448)),
    "sign": ((224, 112), (224, 224), (336, 224), (448, 336)),
    "receipt": ((224, 224), (224, 336), (336, 336), (336, 448)),
    "naming": ((112, 112), (168, 168), (224, 224), (336, 224), (336, 336)),
    "compare": ((224, 224), (336, 224), (448, 448)),
    "scene": ((224, 224), (336, 224), (336, 336), (448, 448)),
    "tally": ((224, 224), (336, 224), (336, 336), (448, 448)),
    "bars": ((224, 224), (336, 224), (448, 336), (448, 448)),
    "pie": ((224, 224), (336, 336), (448, 448)),
    "line_chart": ((224, 224), (336, 224), (448, 336), (448, 448)),
    "motion": ((112, 112), (224, 224), (336, 224)),
    "mover": ((112, 112), (224, 224), (336, 224)),
    "order": ((112, 112), (224, 224), (336, 224)),
}
"""Width and height in pixels, by generator; those that ask less about the same pictures are left out."""

CLIPS = ("motion", "mover", "order")
RELATIVE = frozenset({"yes", "no", "left", "right", "above", "below"})
"""Answers that several questions about one scene may have."""


def all_units() -> tuple[str, ...]:
    """Every unit, sorted."""
    return tuple(
        sorted(
            f"{side}/{name}/{width}x{height}"
            for side in ("train", "heldout")
            for name, sizes in SIZES.items()
            for width, height in sizes
        )
    )


class Drawn:
    """The generators with their assets."""

    def __init__(self, assets: Assets) -> None:
        self._assets = assets
        self.units: Sequence[str] = all_units()

    def make(self, rng: np.random.Generator, unit: str, same_side: Sequence[str]) -> Sample:
        """A sample of the unit's generator and size, with more questions where the picture answers them."""
        side, name, size = unit.split("/")
        width, _, height = size.partition("x")
        split: Split = "train" if side == "train" else "heldout"
        sample = GENERATORS[name](rng, self._assets, split, (int(width), int(height)), 1.0)
        fps = pick(rng, CLIP_RATES) if name in CLIPS else None
        return with_turns(sample, further_turns(rng, split, sample, fps), fps)


def with_turns(sample: Sample, turns: Sequence[Turn], fps: int | None) -> Sample:
    """`sample` without questions that it asks twice, and with `turns`, up to MAX_QUESTIONS in all.

    In a scene, where every colour and shape is there once, the same name as an answer means the same question in other
    words.
    `meta` gains `accepted`, the accepted answers of every question, and for clips `fps`; it loses `named`, which goes
    by the questions as they were.
    """
    asked: dict[str, tuple[Message, Message, list[str]]] = {}
    named: set[str] = set()
    for number in range(0, len(sample.messages), 2):
        question, answer = sample.messages[number : number + 2]
        told = list(sample.meta["answers"]) if number == 0 else [_text(answer)]
        if sample.meta["task"] == "scene" and told[0] in named:
            continue
        named |= {told[0]} - RELATIVE
        asked.setdefault(_text(question), (question, answer, told))
    for turn in turns:
        question = Message(role="user", content=(TextPart(text=turn.question),))
        answer = Message(role="assistant", content=(TextPart(text=turn.answers[0]),))
        asked.setdefault(turn.question, (question, answer, list(turn.answers)))
    kept = list(asked.values())[:MAX_QUESTIONS]
    messages = tuple(message for question, answer, _ in kept for message in (question, answer))
    meta = {key: value for key, value in sample.meta.items() if key != "named"}
    rate = {} if fps is None else {"fps": fps}
    return replace(sample, messages=messages, meta={**meta, **rate, "accepted": [told for _, _, told in kept]})


def _text(message: Message) -> str:
    return "".join(part.text for part in message.content if isinstance(part, TextPart))


@dataclass(frozen=True)
class DrawnFamily:
    """The generators of the corpus."""

    name: str = "drawn"
    packages: tuple[Package, ...] = PACKAGES

    def prepare(self, fetched: Path, dest: Path) -> None:
        """The asset folder of the generators: fonts, words, pictures."""
        write_assets({package.name: fetched / package.name for package in self.packages}, dest)

    def open(self, material: Path) -> Drawn:
        """Opens the assets. Raises DataError naming the missing file."""
        try:
            return Drawn(Assets(material))
        except DataError as error:
            raise DataError(f"{material}: is not complete; make it with: nvila data fetch --families drawn") from error

    def side(self, unit: str) -> Split:
        """A unit's name says its side."""
        return "train" if unit.startswith("train/") else "heldout"


FAMILY = DrawnFamily()
