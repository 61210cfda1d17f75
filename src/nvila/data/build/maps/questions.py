"""Questions about a drawn map, each answered from its labels, or none where the answer would not be certain.

Margins keep out ties: directions differ by 6 % of the map's side by centre of area, by box and by anchor alike, areas
by a factor of 1.5, and neighbours share six pixels of the source or none. A box is `[left, top, right, bottom]` in
thousandths of the whole picture, legend included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nvila.data.build.maps.draw import Scaled, neighbours
from nvila.data.build.maps.wordings import OTHER_TITLES, PLURAL, SINGULAR, WAYS, WORDINGS
from nvila.data.corpus.canvas import Turn, chance, pick

LEAST_SHIFT = 0.06
LEAST_RATIO = 1.5


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A turn and which kind of question it is."""

    kind: str
    turn: Turn


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is asked about: the map, its picture's size, how the marked division is marked, and what others are called.

    `calls`: label -> what the picture calls a division (its name, or the number on it).
    """

    scaled: Scaled
    size: tuple[int, int]
    calls: Mapping[int, str]
    mark: str = ""

    def kind(self, rng: np.random.Generator) -> str:
        """What a division is called here: its own word, or just division."""
        own = SINGULAR.get(self.scaled.sheet.kinds, "division")
        return own if chance(rng, 0.75) else "division"

    def ask(self, rng: np.random.Generator, wording: str, answers: Sequence[str], **slots: str) -> Asked:
        """A question of the kind `wording` with its answers."""
        kind = self.kind(rng)
        filled = {"kind": kind, "kinds": PLURAL.get(kind, f"{kind}s"), "mark": self.mark, **slots}
        text = pick(rng, WORDINGS[wording]).format(title=self.scaled.sheet.title, **filled)
        return Asked(kind=wording, turn=Turn(question=text[0].upper() + text[1:], answers=tuple(answers)))


def ask_name(rng: np.random.Generator, about: Subject, label: int) -> Asked:
    """Which division is marked."""
    return about.ask(rng, "name", [about.scaled.sheet.regions[label].name])


def ask_capital(rng: np.random.Generator, about: Subject, label: int, *, call: str | None = None) -> Asked | None:
    """The capital of the marked division, or of one that is called by name or number."""
    region = about.scaled.sheet.regions[label]
    if not region.capital or not about.scaled.sheet.has_capitals:
        return None
    if call is None:
        return about.ask(rng, "capital", [region.capital])
    return about.ask(rng, "capital_of", [region.capital], a=call)


def ask_num_borders(rng: np.random.Generator, about: Subject, label: int) -> Asked | None:
    """How many divisions border the marked one."""
    beside = neighbours(about.scaled, label)
    return None if beside is None else about.ask(rng, "num_borders", [str(len(beside))])


def ask_title(rng: np.random.Generator, about: Subject) -> Asked:
    """What the map shows."""
    title = about.scaled.sheet.title
    return about.ask(rng, "title", OTHER_TITLES.get(title, (title,)))


def ask_water(rng: np.random.Generator, about: Subject, label: int) -> Asked | None:
    """Whether the marked division touches water; only on maps that tell water and foreign land apart."""
    scaled = about.scaled
    regions = scaled.sheet.regions
    if not {"water", "outside"} <= {region.place for region in regions if region.area}:
        return None
    if any(regions[sum(pair) - label].place == "water" for pair in scaled.doubtful if label in pair):
        return None
    is_wet = any(regions[sum(pair) - label].place == "water" for pair in scaled.borders if label in pair)
    return about.ask(rng, "water", yes_or_no(is_wet))


def ask_box(rng: np.random.Generator, about: Subject, label: int, *, call: str | None = None) -> Asked | None:
    """The box of a division that is in one piece: no far-off islands that nobody sees."""
    region = about.scaled.sheet.regions[label]
    left, top, right, bottom = region.box
    if region.area < 0.3 * (right - left) * (bottom - top):
        return None
    answer = box_text(about.scaled.box(label), about.size)
    return about.ask(rng, "marked_box" if call is None else "box", [answer], a=call or "")


def ask_further(rng: np.random.Generator, about: Subject, first: int, second: int) -> Asked | None:
    """Which of two lies further in some direction."""
    if not about.scaled.sheet.has_north_up:
        return None
    ways = [way for way in WAYS if is_further(about.scaled, first, second, way)]
    ways += [way for way in WAYS if is_further(about.scaled, second, first, way)]
    if not ways:
        return None
    way = pick(rng, ways)
    right = first if is_further(about.scaled, first, second, way) else second
    calls = about.calls
    return about.ask(rng, "further", [calls[right]], way=way, a=calls[first], b=calls[second])


def ask_furthest(rng: np.random.Generator, about: Subject, labels: Sequence[int]) -> Asked | None:
    """Which of three or more lies furthest in some direction."""
    if not about.scaled.sheet.has_north_up or len(labels) < 3:
        return None
    found = []
    for way in WAYS:
        for label in labels:
            if all(is_further(about.scaled, label, other, way) for other in labels if other != label):
                found.append((way, label))
    if not found:
        return None
    way, label = pick(rng, found)
    names = [about.calls[other] for other in labels]
    those = ", ".join(names[:-1]) + f" and {names[-1]}"
    return about.ask(rng, "furthest", [about.calls[label]], way=way, those=those)


def is_further(scaled: Scaled, first: int, second: int, way: str) -> bool:
    """Whether `first` lies further in a direction than `second` by centre, by box and by anchor, clearly."""
    axis, sign = WAYS[way]
    one, other = scaled.sheet.regions[first], scaled.sheet.regions[second]
    gaps = (
        one.centre[axis] - other.centre[axis],
        one.anchor[axis] - other.anchor[axis],
        (one.box[axis] + one.box[axis + 2] - other.box[axis] - other.box[axis + 2]) / 2,
    )
    return all(sign * gap > LEAST_SHIFT * scaled.sheet.size[axis] for gap in gaps)


def ask_larger(rng: np.random.Generator, about: Subject, first: int, second: int) -> Asked | None:
    """Which of two is drawn larger."""
    areas = {label: about.scaled.sheet.regions[label].area for label in (first, second)}
    if max(areas.values()) < LEAST_RATIO * min(areas.values()):
        return None
    right = max(areas, key=areas.__getitem__)
    return about.ask(rng, "larger", [about.calls[right]], a=about.calls[first], b=about.calls[second])


def ask_borders(rng: np.random.Generator, about: Subject, first: int, second: int) -> Asked | None:
    """Whether two divisions share a border."""
    pair = (min(first, second), max(first, second))
    if pair in about.scaled.doubtful:
        return None
    answer = yes_or_no(pair in about.scaled.borders)
    return about.ask(rng, "borders", answer, a=about.calls[first], b=about.calls[second])


def yes_or_no(value: bool) -> tuple[str, ...]:
    """The taught answer."""
    return ("Yes",) if value else ("No",)


def box_text(box: tuple[int, int, int, int], size: tuple[int, int]) -> str:
    """A box of pixels in thousandths of the picture's width and height."""
    shares = [1000 * value / size[axis % 2] for axis, value in enumerate(box)]
    return "[" + ", ".join(str(round(share)) for share in shares) + "]"
