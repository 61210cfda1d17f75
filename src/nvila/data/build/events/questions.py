"""Questions about scripts and scenes. Times are written as `<12.30>` seconds, as data/formats/temporal.py writes them.

Every sentence about an event is unique in its clip, so each question has one answer; "longest" needs a lead of 0.75 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from nvila.data.build.events.scenes import Cuts, Scene
from nvila.data.build.events.script import MOVES, Event, Script
from nvila.data.build.events.wordings import WORDINGS
from nvila.data.corpus.canvas import Turn, chance, pick

LEAD_S = 0.75


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A turn and which kind of question it is."""

    kind: str
    turn: Turn


def ask(rng: np.random.Generator, wording: str, answers: Sequence[str], **slots: str) -> Asked:
    """A question of the kind `wording` with its answers."""
    text = pick(rng, WORDINGS[wording]).format(**slots)
    return Asked(kind=wording, turn=Turn(question=text, answers=tuple(answers)))


def spell(times: tuple[float, float]) -> str:
    """A span as `<3.50> <5.00>`."""
    return f"<{times[0]:.2f}> <{times[1]:.2f}>"


def told(event: Event) -> tuple[str, ...]:
    """The accepted ways to name an event."""
    clause = event.clause
    return tuple(dict.fromkeys((f"{clause[0].upper()}{clause[1:]}.", event.sentence, clause)))


def timed_questions(rng: np.random.Generator, script: Script) -> list[Asked]:
    """Questions with times in their answers: captioning, localisation, and localisation by reasoning."""
    events = script.events
    captions = " ".join(f"{spell(script.times(event))} {event.sentence}" for event in events)
    number = int(rng.integers(len(events)))
    asked = [
        ask(rng, "dense_captioning", [captions]),
        *(ask(rng, "localisation", [spell(script.times(e))], event=e.clause) for e in _some(rng, events, 2)),
        ask(rng, "ordinal", [_timed(script, events[number])], number=str(number + 1)),
    ]
    lengths = sorted(((e.stop - e.first) / script.fps, e.first) for e in events)
    if lengths[-1][0] >= lengths[-2][0] + LEAD_S:
        longest = next(event for event in events if event.first == lengths[-1][1])
        asked.append(ask(rng, "longest", [_timed(script, longest)]))
    if len(events) >= 3:
        at = int(rng.integers(1, len(events) - 1))
        slots = {"event": events[at - 1].clause, "other": events[at + 1].clause}
        asked.append(ask(rng, "between", [_timed(script, events[at])], **slots))
    return asked + _same_actor(rng, script)


def _timed(script: Script, event: Event) -> str:
    return f"{spell(script.times(event))} {event.sentence}"


def _same_actor(rng: np.random.Generator, script: Script) -> list[Asked]:
    """About someone with exactly two events, who is told by the one that nobody else has."""
    found = []
    for actor in script.cast:
        own = [event for event in script.events if event.actor == actor]
        if len(own) != 2:
            continue
        clue, other = own if chance(rng, 0.5) else own[::-1]
        if sum(event.verb == clue.verb for event in script.events) == 1:
            found.append(ask(rng, "same_actor", [_timed(script, other)], verb=clue.verb))
    return found[:1]


def plain_questions(rng: np.random.Generator, script: Script) -> list[Asked]:
    """Questions without times in their answers."""
    events = script.events
    before, after = pick(rng, list(pairwise(events)))
    earlier, later = _some(rng, events, 2)
    way = pick(rng, ("first", "last"))
    sooner = min(earlier, later, key=lambda event: event.first)
    asked_about = pick(rng, events)
    start, end = script.times(asked_about)
    return [
        ask(rng, "extreme", told(events[0] if way == "first" else events[-1]), way=way),
        ask(rng, "after", told(after), event=before.clause),
        ask(rng, "before", told(before), event=after.clause),
        ask(rng, "order", told(sooner), event=earlier.clause, other=later.clause),
        ask(rng, "num_events", [str(len(events))]),
        ask(rng, "at_time", told(asked_about), start=f"<{start:.2f}>", end=f"<{end:.2f}>"),
        *_detail_questions(rng, script),
    ]


def _detail_questions(rng: np.random.Generator, script: Script) -> list[Asked]:
    """One question about a detail for every event that has one, where nothing else answers it as well."""
    asked = []
    for event in script.events:
        verbs = [other.verb for other in script.events]
        moves = [other for other in script.events if other.actor == event.actor and other.action in MOVES]
        if event.action == "blinks":
            asked.append(ask(rng, "num_blinks", [event.detail], actor=event.actor))
        elif event.action in MOVES and len(moves) == 1:
            way = event.action.split(" ")[1]
            asked.append(ask(rng, "direction", [way, f"to the {way}", f"{way}wards"], actor=event.actor))
        elif event.action in ("changes colour",) or event.actor == "background":
            accepted = [event.detail, "grey"] if event.detail == "gray" else [event.detail]
            asked.append(ask(rng, "new_color", accepted, actor=event.actor))
        elif event.action == "is shown":
            asked.append(ask(rng, "word", [event.detail]))
        if event.actor in script.cast and event.action != "blinks" and verbs.count(event.verb) == 1:
            asked.append(ask(rng, "who", [f"The {event.actor}", event.actor, f"the {event.actor}"], verb=event.verb))
    return asked


def scene_questions(rng: np.random.Generator, cuts: Cuts) -> list[Asked]:
    """Questions about a clip of scenes."""
    scenes = cuts.scenes
    captions = " ".join(f"{spell(cuts.times(scene))} {scene.sentence}" for scene in scenes)
    number = int(rng.integers(len(scenes)))
    timed = f"{spell(cuts.times(scenes[number]))} {scenes[number].sentence}"
    way = pick(rng, ("first", "last"))
    shown, behind = pick(rng, scenes), pick(rng, scenes)
    before, after = pick(rng, list(pairwise(scenes)))
    ground = [behind.ground, "grey"] if behind.ground == "gray" else [behind.ground]
    return [
        ask(rng, "dense_captioning", [captions]),
        ask(rng, "scene_of", [spell(cuts.times(shown))], actor=pick(rng, shown.actors)),
        ask(rng, "scene_number", [timed], number=str(number + 1)),
        ask(rng, "num_scenes", [str(len(scenes))]),
        ask(rng, "scene_ground", ground, actor=pick(rng, behind.actors)),
        ask(rng, "scene_extreme", seen(scenes[0] if way == "first" else scenes[-1]), way=way),
        ask(rng, "next_scene", seen(after), actor=pick(rng, before.actors)),
    ]


def seen(scene: Scene) -> tuple[str, ...]:
    """The accepted ways to say who is in a scene."""
    names = scene.names
    turned = " and ".join(reversed(names.split(" and ")))
    return tuple(dict.fromkeys((names[0].upper() + names[1:], names, turned, " and ".join(scene.actors))))


def _some(rng: np.random.Generator, events: Sequence[Event], count: int) -> list[Event]:
    return [events[int(index)] for index in rng.permutation(len(events))[:count]]
