"""What happens in a clip: a cast, each in a part of the frame of its own, and events one after another.

A pair of an actor and an action happens at most once a clip, so that every sentence about it means one event. An actor
that appears is absent before; one that disappears or changes its colour does nothing afterwards. Events are whole
frames long, at least 0.75 s apart, and last from `first` to before `stop`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nvila.data.build.events.actors import GROUND_COLOURS, SHAPE_ACTORS, SHAPE_COLOURS, with_article
from nvila.data.corpus.canvas import Size, chance, number, pick

MOVES = {"moves left": (-1, 0), "moves right": (1, 0), "moves up": (0, -1), "moves down": (0, 1)}
OPENING, CLOSING = ("appears",), ("disappears", "changes colour")
ACTIONS = ("appears", "disappears", *MOVES, "grows", "shrinks", "blinks", "spins", "visits")
SEEN = "is seen"
SECONDS = {"blinks": (1.0, 1.0), "visits": (2.0, 3.0), "is shown": (1.5, 3.5), "spins": (1.0, 2.0)} | dict.fromkeys(
    MOVES, (1.0, 2.5)
)
USUAL_SECONDS = (0.75, 1.5)
GAP_S = (0.75, 2.2)
MIN_SECONDS, MAX_SECONDS = 8.0, 24.0
MAX_EVENTS = 6
FRAME_RATES = (4, 5, 6, 8)

Actors = Mapping[str, Sequence[str]]
"""Who may act, and the colours of grounds that would hide each."""

Pair = tuple[str, str, str]
"""Who, what, and the detail of it."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One event. `detail`: the new colour, the word, the one that is visited, or how often something blinks."""

    actor: str
    action: str
    detail: str
    first: int
    stop: int

    @property
    def unit(self) -> str:
        """The unit of the family that the event is."""
        return f"{self.actor}/{self.action}"

    @property
    def verb(self) -> str:
        """What happens, without who: `moves to the left`."""
        return {
            "moves left": "moves to the left",
            "moves right": "moves to the right",
            "moves up": "moves up",
            "moves down": "moves down",
            "blinks": f"blinks {self.detail} times",
            "spins": "spins around",
            "visits": f"goes to the {self.detail} and comes back",
            "changes colour": f"turns {self.detail}",
            "is seen": "is seen",
        }.get(self.action, self.action)

    @property
    def clause(self) -> str:
        """The event as part of a sentence: `the cat moves to the left`."""
        if self.action == "is shown":
            return f'the word "{self.detail}" is shown'
        return f"the {self.actor} {self.verb}"

    @property
    def sentence(self) -> str:
        """The event as a sentence; who appears is new and gets `a`."""
        text = f"{with_article(self.actor)} appears" if self.action == "appears" else self.clause
        return f"{text[0].upper()}{text[1:]}."


@dataclass(frozen=True, kw_only=True)
class Script:
    """A clip before it is drawn. `cast`: names of actors; `ground`: the background's colour at the start."""

    size: Size
    fps: int
    num_frames: int
    cast: tuple[str, ...]
    ground: str
    events: tuple[Event, ...]

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.num_frames / self.fps

    def times(self, event: Event) -> tuple[float, float]:
        """Start and end of an event in seconds."""
        return event.first / self.fps, event.stop / self.fps


def all_units(actors: Sequence[str], words: Sequence[str]) -> list[str]:
    """Every pair of actor and action, sorted: a circle does not spin, and only shapes change their colour."""
    units = [f"{actor}/{action}" for actor in actors for action in (*ACTIONS, SEEN) if is_possible(actor, action)]
    units += [f"{actor}/changes colour" for actor in SHAPE_ACTORS]
    units += [f"word {word}/is shown" for word in words]
    units += [f"background/turns {color}" for color in GROUND_COLOURS]
    return sorted(units)


def is_possible(actor: str, action: str) -> bool:
    """Whether an action of an actor can be seen."""
    return action != "spins" or not actor.endswith(" circle")


def write_script(rng: np.random.Generator, unit: str, allowed: Collection[str], actors: Actors) -> Script:
    """A script with the event `unit` in it; every other event is one of `allowed`. No ground hides an actor."""
    while True:
        pairs = _choose_pairs(rng, unit, allowed, actors)
        if pairs is None:
            continue
        fps = pick(rng, FRAME_RATES)
        events, num_frames = _timed(rng, _in_order(rng, pairs), fps)
        if num_frames <= MAX_SECONDS * fps:
            break
    cast = tuple(dict.fromkeys(actor for actor, _, _ in pairs if _is_actor(actor)))
    used = {detail for actor, action, detail in pairs if actor == "background" or action == "changes colour"}
    used |= {color for actor in cast for color in actors[actor]}
    free = [color for color in GROUND_COLOURS if color not in used]
    if not free:
        return write_script(rng, unit, allowed, actors)
    ground = pick(rng, free)
    return Script(size=choose_size(rng), fps=fps, num_frames=num_frames, cast=cast, ground=ground, events=tuple(events))


def choose_size(rng: np.random.Generator) -> Size:
    """Width and height of a clip in pixels: square or 4:3, 128 to 224 wide, both even."""
    width = number(rng, 8, 14) * 16
    return width, pick(rng, (width, max(112, width * 3 // 4)))


def _is_actor(name: str) -> bool:
    return name != "background" and not name.startswith("word ")


def _timed(rng: np.random.Generator, pairs: Sequence[Pair], fps: int) -> tuple[list[Event], int]:
    """The events one after another with gaps between them, and the number of frames of the clip."""
    events, at = [], 0
    for actor, action, detail in pairs:
        at += max(3, round(float(rng.uniform(*GAP_S)) * fps))
        long = _num_frames(rng, action, detail, fps)
        events.append(Event(actor=actor, action=action, detail=detail, first=at, stop=at + long))
        at += long
    at += max(3, round(float(rng.uniform(*GAP_S)) * fps))
    return events, max(at, round(MIN_SECONDS * fps))


def _choose_pairs(rng: np.random.Generator, unit: str, allowed: Collection[str], actors: Actors) -> list[Pair] | None:
    """Actors, actions and details of all events, the one asked for included, or None where they do not go together."""
    main, action = unit.split("/")
    names = tuple(actors)
    others = [names[int(index)] for index in rng.permutation(len(names))[: number(rng, 1, 3)]]
    cast = list(dict.fromkeys(([main] if _is_actor(main) else []) + others))[:4]
    options = [(actor, other) for actor in cast for other in (*ACTIONS, "changes colour")]
    options = [option for option in options if "/".join(option) in allowed and "/".join(option) != unit]
    wanted = [(main, action)]
    num_events = number(rng, 2, MAX_EVENTS)
    for index in rng.permutation(len(options)).tolist():
        if len(wanted) < num_events and _goes_with(options[index], wanted):
            wanted.append(options[index])
    if _is_actor(main) and chance(rng, 0.3) and len(wanted) < MAX_EVENTS:
        extra = sorted(name for name in allowed if name.startswith(("word ", "background/")))
        if extra:
            first, second = pick(rng, extra).split("/")
            wanted.append((first, second))
    if len(wanted) < 2 or not any(_is_actor(actor) for actor, _ in wanted):
        return None
    return _with_details(rng, wanted, actors)


def _goes_with(chosen: tuple[str, str], wanted: Sequence[tuple[str, str]]) -> bool:
    """Whether a pair is new and its actor has no second closing action."""
    actor, action = chosen
    is_second_end = action in CLOSING and any(name == actor and other in CLOSING for name, other in wanted)
    return chosen not in wanted and not is_second_end


def _with_details(rng: np.random.Generator, wanted: Sequence[tuple[str, str]], actors: Actors) -> list[Pair] | None:
    """The pairs with what belongs to each, or None where a ground would hide an actor or nobody can be visited."""
    cast = [actor for actor, _ in wanted if _is_actor(actor)]
    grounds = {action.split(" ")[1] for actor, action in wanted if actor == "background"}
    shades = {actor.split(" ")[0] for actor in cast if actor in SHAPE_ACTORS}
    if any(color in actors[actor] for color in grounds for actor in cast):
        return None
    found: list[Pair] = []
    for actor, action in wanted:
        detail = ""
        if actor == "background":
            detail = action.split(" ")[1]
        elif actor.startswith("word "):
            detail = actor.split(" ")[1]
        elif action == "blinks":
            detail = str(number(rng, 2, 5))
        elif action == "visits":
            hosts = [name for name in dict.fromkeys(cast) if name != actor and _stays(name, wanted)]
            if not hosts:
                return None
            detail = pick(rng, hosts)
        elif action == "changes colour":
            shape = actor.split(" ")[1]
            free = [c for c in SHAPE_COLOURS if c not in shades | grounds and f"{c} {shape}" not in cast]
            detail = pick(rng, free)
            shades.add(detail)
        found.append((actor, action, detail))
    return found


def _stays(name: str, wanted: Sequence[tuple[str, str]]) -> bool:
    """Whether an actor is there, under its own name, for the whole clip."""
    return not any(actor == name and action in (*OPENING, *CLOSING) for actor, action in wanted)


def _in_order(rng: np.random.Generator, pairs: Sequence[Pair]) -> list[Pair]:
    """A random order in which who appears does so before it does anything else, and who ends does so last."""
    order = [pairs[int(index)] for index in rng.permutation(len(pairs))]
    for actor in dict.fromkeys(pair[0] for pair in order):
        places = [place for place, pair in enumerate(order) if pair[0] == actor]
        own = sorted((order[place] for place in places), key=lambda pair: _rank(pair[1]))
        for place, pair in zip(places, own, strict=True):
            order[place] = pair
    return order


def _rank(action: str) -> int:
    return 0 if action in OPENING else 2 if action in CLOSING else 1


def _num_frames(rng: np.random.Generator, action: str, detail: str, fps: int) -> int:
    if action == "blinks":
        return 2 * int(detail) * max(1, round(0.4 * fps))
    return max(3, round(float(rng.uniform(*SECONDS.get(action, USUAL_SECONDS))) * fps))
