"""The family `events`: short clips of drawn things, shapes, words and grounds with timed events, or of cut scenes.

A unit is a pair of an actor and an action, such as `cat/moves left`, `red star/is seen` or `background/turns blue`. All
events of a clip are units of one side, so a held-out pair is never seen in training, though its actor and its action
are. Clips are 8 to 24 s long at 4 to 8 frames a second. `meta` holds `fps`, `duration` and `events` (start, end in
seconds, text) like the records of data/formats/temporal.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nvila.data.build.events import questions
from nvila.data.build.events.actors import DRAWN, SHAPE_ACTORS, WORDS, named_actor, write_sprites
from nvila.data.build.events.film import Sprites, shoot
from nvila.data.build.events.questions import Asked
from nvila.data.build.events.scenes import shoot_cuts, write_cuts
from nvila.data.build.events.script import SEEN, all_units, write_script
from nvila.data.build.family import Family, Package, one_in_ten
from nvila.data.build.maps.fonts import FONT_PACKAGES, copy_fonts
from nvila.data.corpus.canvas import make_sample, number
from nvila.data.corpus.splits import Split
from nvila.errors import DataError
from nvila.types import Sample

ART_PACKAGE = Package(name="fluentui-emoji", origin="npm", licence="MIT", megabytes=23.8, version="1.3.0")
ACTORS = (*(named_actor(slug) for slug in DRAWN), *SHAPE_ACTORS)


class EventMaterial:
    """The sprites of all drawn things, memory-mapped, and the fonts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sprites = Sprites(root, ACTORS[: len(DRAWN)])
        hidden_on: dict[str, list[str]] = json.loads((root / "hidden_on.json").read_text(encoding="utf-8"))
        self.actors = hidden_on | {actor: actor.split(" ")[:1] for actor in SHAPE_ACTORS}
        self.units: Sequence[str] = tuple(all_units(ACTORS, WORDS))

    def make(self, rng: np.random.Generator, unit: str, same_side: Sequence[str]) -> Sample:
        """A clip with the event `unit`, all other events from `same_side`, and three to five questions."""
        allowed = {unit, *same_side}
        if unit.endswith(f"/{SEEN}"):
            return self._make_scenes(rng, unit, allowed)
        script = write_script(rng, unit, allowed, self.actors)
        frames = shoot(rng, script, self.sprites, self.root)
        timed = _some(rng, questions.timed_questions(rng, script), 1, 3)
        asked = timed + _some(rng, questions.plain_questions(rng, script), 2, 2)
        told = [(script.times(event), event.sentence) for event in script.events]
        asked = _some(rng, asked, len(asked), len(asked))
        return make_sample(
            frames,
            *(item.turn for item in asked),
            task="events",
            unit=unit,
            kinds=[item.kind for item in asked],
            units=[event.unit for event in script.events],
            fps=script.fps,
            duration=script.duration,
            events=[{"start": start, "end": end, "text": text} for (start, end), text in told],
            ground=script.ground,
        )

    def _make_scenes(self, rng: np.random.Generator, unit: str, allowed: set[str]) -> Sample:
        cuts = write_cuts(rng, unit, allowed, self.actors)
        asked = _some(rng, questions.scene_questions(rng, cuts), 3, 5)
        told = [(cuts.times(scene), scene.sentence) for scene in cuts.scenes]
        return make_sample(
            shoot_cuts(rng, cuts, self.sprites),
            *(item.turn for item in asked),
            task="events",
            unit=unit,
            kinds=[item.kind for item in asked],
            units=[f"{actor}/{SEEN}" for scene in cuts.scenes for actor in scene.actors],
            fps=cuts.fps,
            duration=cuts.duration,
            events=[{"start": start, "end": end, "text": text} for (start, end), text in told],
            ground=cuts.scenes[0].ground,
        )


def _some(rng: np.random.Generator, asked: Sequence[Asked], low: int, high: int) -> list[Asked]:
    return [asked[int(index)] for index in rng.permutation(len(asked))[: number(rng, low, high)]]


class EventFamily:
    """The builder's entry to the clips with events."""

    name: str = "events"
    packages: tuple[Package, ...] = (ART_PACKAGE, *FONT_PACKAGES)

    def prepare(self, fetched: Path, dest: Path) -> None:
        """Sprites and fonts. Raises DataError for what is missing; needs resvg-py."""
        write_sprites(fetched / ART_PACKAGE.name, dest)
        copy_fonts(fetched, dest)

    def open(self, material: Path) -> EventMaterial:
        """The material. Raises DataError naming the missing file."""
        if not (material / "sprites.npy").is_file():
            raise DataError(f"{material / 'sprites.npy'} is missing; make it with: nvila data fetch --families events")
        return EventMaterial(material)

    def side(self, unit: str) -> Split:
        """A tenth of the pairs is held out."""
        return one_in_ten(self.name, unit)


FAMILY: Family = EventFamily()
