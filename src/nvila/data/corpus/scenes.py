"""Questions about coloured shapes: how many, which colour, which shape, where, which is bigger, of which more.

Questions are asked only where the answer is unambiguous (one shape of the kind, a clear direction, a clear difference
in size). `scene` and `tally` ask several questions about one picture, because drawing and seeing it cost more than
asking. Held-out samples differ by wording and seed: all shapes and colours are known.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np

from nvila.data.corpus.assets import Assets
from nvila.data.corpus.canvas import Named, Size, Turn, chance, make_sample, named_colour, number, pick
from nvila.data.corpus.phrasing import phrase
from nvila.data.corpus.shapes import (
    COLOURS,
    SHAPES,
    Shape,
    distinct_kinds,
    draw_scene,
    free_spot,
    radii_for,
    scatter,
)
from nvila.data.corpus.splits import Split
from nvila.types import Sample

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
RELATIONS = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
COUNTED_BY = ("shape", "color", "both", "all")
Kind = tuple[str, str]
"""Shape and colour."""


def plural(name: str, count: int = 2) -> str:
    """`name` as a plural unless `count` is 1."""
    return name if count == 1 else name + ("es" if name.endswith(("s", "x")) else "s")


CLEARLY_OFF_CENTRE = 0.08
"""Share of the picture's side that a shape's middle must be away from the picture's, to be left or right of it."""


def make_count(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """Counting: all shapes, those of a kind, of a colour, or of a colour and kind; 1 to 6, sometimes up to 9.

    At low difficulty often 1 to 3, and nothing else in the picture.
    """
    target, by, kinds = _crowd(rng, difficulty)
    shapes = scatter(rng, size, kinds, radii_for(size, len(kinds)))
    image, boxes = draw_scene(rng, size, shapes, difficulty)
    turn = _ask_count(rng, split, shapes, target, by)
    return make_sample(image, turn, task="count", objects=boxes, ask=by, target=list(target))


def make_tally(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """Counting as in `count`, up to seven different questions about one picture."""
    target, by, kinds = _crowd(rng, difficulty)
    shapes = scatter(rng, size, kinds, radii_for(size, len(kinds)))
    image, boxes = draw_scene(rng, size, shapes, difficulty)
    asked = [(target, by)]
    for _ in range(number(rng, 3, 6)):
        other = (pick(rng, kinds), pick(rng, COUNTED_BY))
        if not any(by == other[1] and _matches(other[0], target, by) for target, by in asked):
            asked.append(other)
    turns = [_ask_count(rng, split, shapes, *asked[int(place)]) for place in rng.permutation(len(asked))]
    return make_sample(image, *turns, task="tally", objects=boxes)


def _crowd(rng: np.random.Generator, difficulty: float) -> tuple[Kind, str, list[Kind]]:
    """What to count, by what it is told from the rest, and the kinds of all shapes in the picture."""
    easy = not chance(rng, difficulty)
    count = number(rng, 1, 3) if easy else number(rng, 1, 6) if chance(rng, 0.88) else number(rng, 7, 9)
    target = (pick(rng, SHAPES), pick(rng, COLOURS))
    by = pick(rng, COUNTED_BY)
    others = 0 if easy or by == "all" or chance(rng, 0.4) else number(rng, 1, 4)
    kinds = []
    for _ in range(count):
        shape = target[0] if by in ("shape", "both") else pick(rng, SHAPES)
        color = target[1] if by in ("color", "both") else pick(rng, COLOURS)
        kinds.append((shape, color))
    while len(kinds) < count + others:
        kind = (pick(rng, SHAPES), pick(rng, COLOURS))
        if not _matches(kind, target, by):
            kinds.append(kind)
    if by in ("shape", "all") and chance(rng, 0.5):
        kinds = [(shape, target[1]) for shape, _ in kinds]
    return target, by, kinds


def _ask_count(rng: np.random.Generator, split: Split, shapes: list[Shape], target: Kind, by: str) -> Turn:
    counted = [item for item in shapes if _matches((item.shape, item.color), target, by)]
    count = len(counted)
    name = {"shape": target[0], "color": f"{target[1]} shape", "both": f"{target[1]} {target[0]}", "all": "shape"}[by]
    if by in ("color", "all") and chance(rng, 0.3):
        name = name.replace("shape", "object")
    question = phrase(rng, split, "count", things=plural(name))
    answers = (str(count), *NUMBER_WORDS[count : count + 1])
    return Turn(question=question, answers=answers, named=(_named(plural(name), *counted),))


def _matches(kind: Kind, target: Kind, by: str) -> bool:
    same_shape, same_color = kind[0] == target[0], kind[1] == target[1]
    return {"shape": same_shape, "color": same_color, "both": same_shape and same_color, "all": True}[by]


def make_color(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """The colour of the only shape of its kind among one to five; at low difficulty it is often alone."""
    count = number(rng, 1, 5) if chance(rng, difficulty) else 1
    shapes = scatter(rng, size, distinct_kinds(rng, count), radii_for(size, count))
    image, boxes = draw_scene(rng, size, shapes, difficulty)
    return make_sample(image, _ask_color(rng, split, shapes[0]), task="color", objects=boxes)


def _ask_color(rng: np.random.Generator, split: Split, item: Shape) -> Turn:
    answers = ("gray", "grey") if item.color == "gray" else (item.color,)
    question = phrase(rng, split, "color", shape=item.shape)
    return Turn(question=question, answers=answers, named=(_named(item.shape, item),))


def make_shape(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """The shape of the only one of its colour among one to five; at low difficulty it is often alone."""
    count = number(rng, 1, 5) if chance(rng, difficulty) else 1
    shapes = scatter(rng, size, distinct_kinds(rng, count), radii_for(size, count))
    image, boxes = draw_scene(rng, size, shapes, difficulty)
    return make_sample(image, _ask_shape(rng, split, shapes[0]), task="shape", objects=boxes)


def _ask_shape(rng: np.random.Generator, split: Split, item: Shape) -> Turn:
    question = phrase(rng, split, "shape", color=item.color)
    return Turn(question=question, answers=(item.shape, item.name), named=(_named(item.color, item),))


def direction_of(first: Shape, second: Shape) -> str | None:
    """Where `first` is seen from `second`: left, right, above, below; None when it is not clear."""
    dx, dy = first.x - second.x, first.y - second.y
    if abs(dx) > 1.8 * abs(dy):
        return "right" if dx > 0 else "left"
    if abs(dy) > 1.8 * abs(dx):
        return "below" if dy > 0 else "above"
    return None


def make_position(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """Two shapes (for yes/no and `where`, up to four): is A left of B, what is left of B, where is A seen from B."""
    ask = pick(rng, ("relation", "neighbour", "where"))
    count = 2 if ask == "neighbour" or not chance(rng, difficulty) else number(rng, 2, 4)
    kinds = distinct_kinds(rng, count)
    shapes = scatter(rng, size, kinds, radii_for(size, count))
    while (where := direction_of(shapes[0], shapes[1])) is None:
        shapes = scatter(rng, size, kinds, radii_for(size, count))
    image, boxes = draw_scene(rng, size, shapes, difficulty)
    turn = _ask_position(rng, split, shapes[0], shapes[1], where, ask)
    return make_sample(image, turn, task="position", objects=boxes, ask=ask, where=where)


def _ask_position(rng: np.random.Generator, split: Split, a: Shape, b: Shape, where: str, ask: str) -> Turn:
    """A question on where `a` is from `b`; `ask` is relation, neighbour (only `a` lies there) or where."""
    first, second = _refer(rng, a), _refer(rng, b)
    named = (_named(first, a), _named(second, b))
    if ask == "neighbour":
        question = phrase(rng, split, "neighbour", relation=_relation(rng, where), b=second)
        return Turn(question=question, answers=(a.name, a.shape), named=named[1:])
    if ask == "where":
        question = phrase(rng, split, "where", a=first, b=second)
        return Turn(question=question, answers=(where, f"{RELATIONS[where]} the {second}"), named=named)
    asked = where if chance(rng, 0.5) else OPPOSITE[where]
    question = phrase(rng, split, "relation", a=first, b=second, relation=_relation(rng, asked))
    return Turn(question=question, answers=("yes" if asked == where else "no",), named=named)


def _relation(rng: np.random.Generator, where: str) -> str:
    if where in ("left", "right") and chance(rng, 0.4):
        return f"to the {where} of"
    return RELATIONS[where]


def _named(words: str, *shapes: Shape) -> Named:
    return words, tuple((item.x, item.y) for item in shapes)


def _refer(rng: np.random.Generator, item: Shape) -> str:
    return item.name if chance(rng, 0.6) else item.shape


def make_scene(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """One to five shapes, each of a kind and a colour of its own; three to five questions on colour, shape, place."""
    count = number(rng, 2, 5) if chance(rng, difficulty) else number(rng, 1, 2)
    shapes = scatter(rng, size, distinct_kinds(rng, count), radii_for(size, count))
    image, boxes = draw_scene(rng, size, shapes, difficulty)
    pairs = [
        (first, second, where) for first, second in permutations(shapes, 2) if (where := direction_of(first, second))
    ]
    asks = ("relation", "neighbour", "where") if count == 2 else ("relation", "where")
    turns: list[Turn] = []
    for _ in range(number(rng, 3, 5)):
        draw = rng.random()
        if pairs and draw < 0.55:
            first, second, where = pick(rng, pairs)
            turns.append(_ask_position(rng, split, first, second, where, pick(rng, asks)))
        elif draw < 0.8:
            turns.append(_ask_color(rng, split, pick(rng, shapes)))
        else:
            turns.append(_ask_shape(rng, split, pick(rng, shapes)))
    return make_sample(image, *turns, task="scene", objects=boxes)


def make_place(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """Where in the picture each of one to four shapes is: left or right, in the upper or the lower half; then pairs.

    Whoever can tell this of two shapes has what it takes to tell where one is from the other.
    """
    count = number(rng, 2, 4) if chance(rng, difficulty) else number(rng, 1, 2)
    while True:
        shapes = scatter(rng, size, distinct_kinds(rng, count), radii_for(size, count))
        sides = [(item, ask, side) for item in shapes for ask, side in _sides(item, size)]
        if sides:
            break
    image, boxes = draw_scene(rng, size, shapes, difficulty)
    turns = []
    for index in rng.permutation(len(sides))[:3]:
        item, ask, side = sides[int(index)]
        thing = _refer(rng, item)
        turns.append(Turn(question=phrase(rng, split, ask, thing=thing), answers=side, named=(_named(thing, item),)))
    pairs = [(a, b, where) for a, b in permutations(shapes, 2) if (where := direction_of(a, b))]
    for index in rng.permutation(len(pairs))[:3]:
        first, second, where = pairs[int(index)]
        alone = sum(b == second and side == where for _, b, side in pairs) == 1
        asks = ("relation", "where", "neighbour") if alone else ("relation", "where")
        turns.append(_ask_position(rng, split, first, second, where, pick(rng, asks)))
    return make_sample(image, *turns, task="place", objects=boxes)


def _sides(item: Shape, size: Size) -> list[tuple[str, tuple[str, ...]]]:
    """The questions about a shape's place that have a clear answer: its wordings, and what is accepted."""
    across, down = item.x / size[0] - 0.5, item.y / size[1] - 0.5
    found: list[tuple[str, tuple[str, ...]]] = []
    if abs(across) > CLEARLY_OFF_CENTRE:
        found.append(("place_across", ("right",) if across > 0 else ("left",)))
    if abs(down) > CLEARLY_OFF_CENTRE:
        found.append(("place_down", ("bottom", "lower", "below") if down > 0 else ("top", "upper", "above")))
    return found


def make_compare(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """Which of two is bigger or smaller, which of several is the biggest, of which colour there are more."""
    ask = pick(rng, ("bigger", "biggest", "more"))
    if ask == "more":
        return _compare_numbers(rng, split, size, difficulty)
    count = 2 if ask == "bigger" else number(rng, 3, 4)
    kinds = distinct_kinds(rng, count)
    big = chance(rng, 0.6)
    side = min(size)
    plain = (side * 0.075, side * 0.11) if big else (side * 0.16, side * 0.2)
    special = (side * 0.17, side * 0.24) if big else (side * 0.07, side * 0.1)
    shapes = scatter(rng, size, kinds[:1], special)
    while len(shapes) < count:
        radius = float(rng.uniform(*plain))
        spot = free_spot(rng, size, shapes, radius)
        if spot is None:
            shapes = scatter(rng, size, kinds[:1], special)
            continue
        shape, color = kinds[len(shapes)]
        shapes.append(
            Shape(shape=shape, color=color, rgb=named_colour(rng, color), x=spot[0], y=spot[1], radius=radius)
        )
    image, boxes = draw_scene(rng, size, shapes, difficulty)
    answers = (shapes[0].name, shapes[0].shape)
    named: tuple[Named, ...] = ()
    if ask == "bigger":
        named = (_named(shapes[0].name, shapes[0]), _named(shapes[1].name, shapes[1]))
        pair = [shapes[0].name, shapes[1].name]
        first, second = pair if chance(rng, 0.5) else pair[::-1]
        word = pick(rng, ("bigger", "larger")) if big else "smaller"
        question = phrase(rng, split, "bigger", bigger=word, a=first, b=second)
    else:
        question = phrase(rng, split, "biggest", biggest=pick(rng, ("biggest", "largest")) if big else "smallest")
    turn = Turn(question=question, answers=answers, named=named)
    return make_sample(image, turn, task="compare", objects=boxes, ask=ask, big=big)


def _compare_numbers(rng: np.random.Generator, split: Split, size: Size, difficulty: float) -> Sample:
    fewer = number(rng, 1, 3)
    counts = (fewer + number(rng, 1, 3), fewer)
    by_color = chance(rng, 0.5)
    names = rng.permutation(len(COLOURS) if by_color else len(SHAPES))[:2]
    winner, loser = ((COLOURS if by_color else SHAPES)[int(i)] for i in names)
    kinds = []
    for name, count in zip((winner, loser), counts, strict=True):
        kinds += [(pick(rng, SHAPES), name) if by_color else (name, pick(rng, COLOURS)) for _ in range(count)]
    shapes = scatter(rng, size, kinds, radii_for(size, len(kinds)))
    image, boxes = draw_scene(rng, size, shapes, difficulty)
    labels = [f"{name} shapes" if by_color else plural(name) for name in (winner, loser)]
    first, second = labels if chance(rng, 0.5) else labels[::-1]
    named = (_named(labels[0], *shapes[: counts[0]]), _named(labels[1], *shapes[counts[0] :]))
    turn = Turn(question=phrase(rng, split, "more", a=first, b=second), answers=(labels[0], winner), named=named)
    return make_sample(image, turn, task="compare", objects=boxes, ask="more")
