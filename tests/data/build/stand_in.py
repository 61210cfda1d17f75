"""A family without packages: flat and noisy pictures and clips, whose answers can be read off the pixels."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from nvila.data.build.family import Package, one_in_ten
from nvila.data.corpus.canvas import Turn, make_sample, number
from nvila.data.corpus.splits import Split
from nvila.errors import DataError
from nvila.types import LabelledBox, Sample, TextPart

NUM_UNITS = 40


def turns_of(sample: Sample) -> list[tuple[str, str]]:
    """Questions and answers of a sample whose turns hold one text each."""
    texts = [part.text for message in sample.messages for part in message.content if isinstance(part, TextPart)]
    return list(zip(texts[::2], texts[1::2], strict=True))


FPS = 4


class StandInMaterial:
    def __init__(self, units: Sequence[str], dies_beside: Path | None) -> None:
        self.units = units
        self._dies_beside = dies_beside
        self._num_made = 0

    def make(self, rng: np.random.Generator, unit: str, same_side: Sequence[str]) -> Sample:
        assert unit in same_side
        level = number(rng, 0, 255)
        self._num_made += 1
        if self._dies_beside is not None and self._num_made == 10 and not self._dies_beside.exists():
            self._dies_beside.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if unit == "unit-03":
            raise DataError("this unit is broken")
        turns = (
            Turn(question="How bright?", answers=(str(level), f"{level} of 255")),
            Turn(question="Which <b>unit</b>?", answers=(unit,)),
        )
        boxes = [LabelledBox(label="all", box=(0, 0, 32, 24))]
        if level % 4 == 0:
            frames = [Image.new("RGB", (32, 24), (level,) * 3) for _ in range(5)]
            return make_sample(frames, *turns, task="bright", objects=boxes, fps=FPS, level=np.int64(level))
        if level % 4 == 1:
            noise = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            return make_sample(Image.fromarray(noise), *turns, task="noise", objects=boxes, level=level)
        return make_sample(Image.new("RGB", (32, 24), (level,) * 3), *turns, task="bright", objects=boxes, level=level)


@dataclass(frozen=True)
class StandIn:
    """`dies_beside`: the first worker to make a tenth sample is killed, and leaves that file."""

    name: str = "stand_in"
    packages: tuple[Package, ...] = ()
    dies_beside: Path | None = None

    def prepare(self, fetched: Path, dest: Path) -> None:
        (dest / "units.txt").write_text("\n".join(f"unit-{index:02d}" for index in range(NUM_UNITS)))

    def open(self, material: Path) -> StandInMaterial:
        return StandInMaterial((material / "units.txt").read_text().split(), self.dies_beside)

    def side(self, unit: str) -> Split:
        return one_in_ten(self.name, unit)
