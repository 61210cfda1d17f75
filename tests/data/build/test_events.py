"""Clips of stand-in drawings: events are checked in the pixels, answers are worked out again from the event list."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.data.build.test_maps import write_fonts

from nvila.data.build.events import ACTORS, FAMILY, EventMaterial
from nvila.data.build.events.actors import DRAWN, GROUND_COLOURS, grounds_that_hide, with_article
from nvila.data.build.events.script import all_units
from nvila.data.build.events.wordings import WORDINGS
from nvila.data.corpus.preview import media_of
from nvila.data.formats.base import Where
from nvila.data.formats.temporal import DENSE_CAPTIONING, REASONING_LOCALIZATION
from nvila.errors import DataError
from nvila.types import Sample, TextPart

pytest.importorskip("resvg_py")

NUMBERS = {str(count): count for count in range(20)}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> EventMaterial:
    fetched = tmp_path_factory.mktemp("fetched")
    icons = fetched / "fluentui-emoji" / "icons" / "flat"
    icons.mkdir(parents=True)
    for index, slug in enumerate(DRAWN):
        fill = f"#{20 + index % 60:02x}{10 + index % 40:02x}30"
        shape = f'<path d="M0 0H32V{20 + index % 12}H12V32H0Z" fill="{fill}"/>'
        (icons / f"{slug}.svg").write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">{shape}</svg>')
    write_fonts(fetched)
    made = tmp_path_factory.mktemp("made")
    FAMILY.prepare(fetched, made)
    opened = FAMILY.open(made)
    assert isinstance(opened, EventMaterial)
    return opened


@pytest.fixture(scope="module")
def sides(material: EventMaterial) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"train": [], "heldout": []}
    for unit in material.units:
        found[FAMILY.side(unit)].append(unit)
    return found


@pytest.fixture(scope="module")
def samples(material: EventMaterial, sides: dict[str, list[str]]) -> list[Sample]:
    """Sixty of training and twenty held out, a fifth of them scenes."""
    made = []
    for seed in range(80):
        side = sides["train" if seed % 4 else "heldout"]
        scenes = [unit for unit in side if unit.endswith("/is seen")]
        pool = scenes if seed % 5 == 0 else side
        rng = np.random.default_rng(seed)
        made.append(material.make(rng, pool[int(rng.integers(len(pool)))], side))
    return made


def turns(sample: Sample) -> list[tuple[str, str, str]]:
    texts = [message.content[-1] for message in sample.messages]
    words = [part.text for part in texts if isinstance(part, TextPart)]
    return list(zip(sample.meta["kinds"], words[::2], words[1::2], strict=True))


def frames(sample: Sample) -> list[NDArray[np.int16]]:
    return [np.asarray(frame).astype(np.int16) for frame in media_of(sample)]


def ink(frame: NDArray[np.int16]) -> NDArray[np.bool_]:
    """What differs from the ground, whose colour stands in the lower left corner."""
    return np.abs(frame - frame[-1, 0]).max(axis=-1) > 24


def is_scenes(sample: Sample) -> bool:
    return sample.meta["units"][0].endswith("/is seen")


def test_clips_have_the_length_that_they_say(samples: list[Sample]) -> None:
    for sample in samples:
        clip = media_of(sample)
        assert len(clip) == pytest.approx(sample.meta["duration"] * sample.meta["fps"])
        assert 8 <= sample.meta["duration"] <= 24.2
        assert min(clip[0].size) >= 112
        assert max(clip[0].size) <= 224
        assert 3 <= len(sample.meta["kinds"]) <= 5


def test_pictures_change_during_events_and_only_then(samples: list[Sample]) -> None:
    for sample in samples:
        if is_scenes(sample):
            continue
        fps, clip = sample.meta["fps"], frames(sample)
        changed = [index for index in range(1, len(clip)) if (clip[index] != clip[index - 1]).any()]
        spans = [(round(event["start"] * fps), round(event["end"] * fps)) for event in sample.meta["events"]]
        for index in changed:
            assert any(first <= index <= stop for first, stop in spans), (index, spans)
        for first, stop in spans:
            assert any(first <= index <= stop for index in changed), (first, sample.meta["events"])


def check_pixels(event: dict[str, Any], before: NDArray[np.int16], after: NDArray[np.int16]) -> str:
    """One event against the last frame before it and the first after it; returns what was checked."""
    text, old, new = event["text"], ink(before), ink(after)
    way = re.search(r" moves (?:to the )?(left|right|up|down)", text)
    if way:
        axis, sign = {"left": (1, -1), "right": (1, 1), "up": (0, -1), "down": (0, 1)}[way[1]]
        shift = [float(np.argwhere(new & ~old)[:, k].mean() - np.argwhere(old & ~new)[:, k].mean()) for k in (0, 1)]
        assert sign * shift[axis] > 5, (text, shift)
        assert abs(shift[1 - axis]) < abs(shift[axis]), (text, shift)
        return way[1]
    for word, grows in (("appears", True), ("grows", True), ("disappears", False), ("shrinks", False)):
        if text.endswith(f" {word}."):
            assert (new.sum() > old.sum()) == grows, text
            return word
    if re.search(r"blinks|spins|comes back|is shown", text):
        assert (before == after).all(), text
        return "returns"
    assert re.search(r" turns (\w+)\.$", text), text
    assert (before != after).any()
    return "turns"


def test_events_are_what_their_text_says(samples: list[Sample]) -> None:
    seen = set()
    for sample in samples:
        if is_scenes(sample):
            continue
        clip, fps = frames(sample), sample.meta["fps"]
        for event in sample.meta["events"]:
            first, stop = round(event["start"] * fps), round(event["end"] * fps)
            seen.add(check_pixels(event, clip[first - 1], clip[stop]))
            blinks = re.search(r"blinks (\d) times", event["text"])
            if blinks:
                shown = [ink(frame).sum() for frame in clip[first - 1 : stop + 1]]
                assert sum(b < a for a, b in pairwise(shown)) == int(blinks[1])
    assert seen >= {"left", "right", "up", "down", "appears", "disappears", "grows", "shrinks", "returns", "turns"}


def test_scenes_cut_where_they_say(samples: list[Sample]) -> None:
    for sample in (sample for sample in samples if is_scenes(sample)):
        clip, fps = frames(sample), sample.meta["fps"]
        cuts = [index for index in range(1, len(clip)) if (clip[index][-1, 0] != clip[index - 1][-1, 0]).any()]
        events = sample.meta["events"]
        assert cuts == [round(event["start"] * fps) for event in events[1:]]
        assert [event["end"] for event in events[:-1]] == [event["start"] for event in events[1:]]


def test_every_event_is_of_the_units_side(samples: list[Sample]) -> None:
    for sample in samples:
        assert sample.meta["unit"] in sample.meta["units"]
        assert len({FAMILY.side(unit) for unit in sample.meta["units"]}) == 1


def span(event: dict[str, Any]) -> str:
    return f"<{event['start']:.2f}> <{event['end']:.2f}>"


def clause_of(event: dict[str, Any]) -> str:
    """A sentence as questions quote it."""
    text = re.sub(r"^An? ", "The ", event["text"]).rstrip(".")
    return text[0].lower() + text[1:]


def quoted(question: str, events: list[dict[str, Any]]) -> list[int]:
    """The numbers of the events that a question quotes, in the order of the question."""
    found = [(at, index) for index, event in enumerate(events) if (at := question.find(clause_of(event))) >= 0]
    return [index for _, index in sorted(found)]


def same_event(answer: str, event: dict[str, Any]) -> bool:
    said = {"text": answer}
    return clause_of(said) == clause_of(event)


def check(sample: Sample, kind: str, question: str, answer: str) -> None:
    """An answer from the event list, by its times alone."""
    events = sorted(sample.meta["events"], key=lambda event: event["start"])
    captions = [f"{span(event)} {event['text']}" for event in events]
    named = quoted(question, events)
    if kind == "dense_captioning":
        assert answer == " ".join(captions)
    elif kind == "localisation":
        assert answer == span(events[named[0]])
    elif kind in ("ordinal", "scene_number"):
        asked = re.search(r"number (\d)", question)
        assert asked
        assert answer == captions[int(asked[1]) - 1]
    elif kind == "longest":
        lengths = [event["end"] - event["start"] for event in events]
        assert answer == captions[lengths.index(max(lengths))]
    elif kind == "between":
        assert answer == captions[named[0] + 1]
        assert named[1] == named[0] + 2
    elif kind == "extreme":
        assert same_event(answer, events[0 if "first" in question else -1])
    elif kind == "after":
        assert same_event(answer, events[named[0] + 1])
    elif kind == "before":
        assert same_event(answer, events[named[0] - 1])
    elif kind == "order":
        assert same_event(answer, events[min(named)])
    elif kind in ("num_events", "num_scenes"):
        assert NUMBERS[answer] == len(events)
    elif kind == "at_time":
        times = [float(time) for time in re.findall(r"<([\d.]+)>", question)]
        inside = [event for event in events if event["start"] >= times[0] - 0.006 and event["end"] <= times[1] + 0.006]
        assert len(inside) == 1
        assert same_event(answer, inside[0])
    else:
        check_detail(kind, question, answer, events)


def check_detail(kind: str, question: str, answer: str, events: list[dict[str, Any]]) -> None:
    actors = sorted((*ACTORS, *(["background"] if kind == "new_color" else [])), key=len, reverse=True)
    texts = [event["text"] for event in events]
    actor = next((name for name in actors if f"the {name}" in question.lower()), "")
    if kind in ("num_blinks", "direction", "new_color"):
        forms = {"num_blinks": "blinks (.*) times", "direction": "moves (?:to the )?(left|right|up|down)"}
        form = forms.get(kind, "turns (.*)")
        found = [match[1] for text in texts if (match := re.fullmatch(f"The {actor} {form}\\.", text))]
        assert found == [answer], (question, texts)
    elif kind == "word":
        shown = [match[1] for text in texts if (match := re.search('word "(.*)" is shown', text))]
        assert shown == [answer]
    elif kind == "who":
        name = answer.removeprefix("The ")
        verbs = {clause_of({"text": text}): clause_of({"text": text}).removeprefix(f"the {name} ") for text in texts}
        doing = [clause for clause, verb in verbs.items() if re.search(rf"\b{verb}\b", question)]
        assert len(doing) == 1, (question, texts)
        assert doing[0].startswith(f"the {name} ")
    elif kind == "same_actor":
        own = [text for text in texts if re.match(rf"(The|An?) {subject(answer)} ", text)]
        clue = next(text for text in own if text not in answer)
        assert len(own) == 2
        assert clause_of({"text": clue}).removeprefix(f"the {subject(answer)} ") in question
    elif kind == "scene_of":
        assert [span(event) for event in events if has(event["text"], actor)] == [answer]
    elif kind == "scene_ground":
        assert [f"on {with_article(answer)} background" in text for text in texts if has(text, actor)] == [True]
    elif kind == "scene_extreme":
        assert texts[0 if "first" in question else -1].startswith(answer)
    else:
        assert kind == "next_scene", kind
        at = next(index for index, text in enumerate(texts) if has(text, actor))
        assert texts[at + 1].startswith(answer)


def subject(answer: str) -> str:
    """The actor of a timed answer."""
    text = answer.split("> ")[-1]
    return max((name for name in ACTORS if re.match(rf"(The|An?) {name} ", text)), key=len)


def has(text: str, actor: str) -> bool:
    """Whether a scene's sentence names an actor: `hot dog` is no `dog`."""
    return re.search(rf"\ban? {actor} (and|is|are)\b", text, re.IGNORECASE) is not None


def test_answers_follow_from_the_event_list(samples: list[Sample]) -> None:
    seen = set()
    for sample in samples:
        for kind, question, answer in turns(sample):
            check(sample, kind, question, answer)
            seen.add(kind)
    assert seen >= set(WORDINGS) - {"word", "new_color"}, sorted(set(WORDINGS) - seen)


def test_texts_agree_with_the_temporal_formats(samples: list[Sample]) -> None:
    """The same record, read by the data layer, gives the same captions, times and events."""
    where = Where(place="here", source="events")
    for sample in samples[:20]:
        events = sample.meta["events"]
        spans = [[event["start"], event["end"]] for event in events]
        record = {"video": "a.mp4", "duration": sample.meta["duration"], "timestamps": spans}
        draft = DENSE_CAPTIONING.read({**record, "sentences": [event["text"] for event in events]}, where)
        assert draft.meta["events"] == events
        for kind, question, answer in turns(sample):
            if kind == "dense_captioning":
                assert answer == draft.turns[1].content
            told = REASONING_LOCALIZATION.read({**record, "QA": [{"q": question, "a": answer}]}, where)
            assert told.turns[1].content == answer


def test_one_seed_makes_one_sample(material: EventMaterial, sides: dict[str, list[str]]) -> None:
    for seed, unit in enumerate(("cat/visits", "red star/is seen", "background/turns blue", "word river/is shown")):
        first = material.make(np.random.default_rng(seed), unit, sides["train"])
        second = material.make(np.random.default_rng(seed), unit, sides["train"])
        assert first.meta == second.meta
        assert turns(first) == turns(second)
        assert [a.tobytes() for a in media_of(first)] == [b.tobytes() for b in media_of(second)]


def test_units_pair_actors_with_what_they_can_do(sides: dict[str, list[str]]) -> None:
    units = all_units(ACTORS, ("river",))
    assert units == sorted(set(units))
    assert "red circle/spins" not in units
    assert "red square/spins" in units
    assert "cat/changes colour" not in units
    assert f"background/turns {GROUND_COLOURS[0]}" in units
    assert 0.05 < len(sides["heldout"]) / (len(sides["heldout"]) + len(sides["train"])) < 0.15


def test_grounds_that_hide_an_actor_are_known() -> None:
    sprite = np.zeros((8, 8, 4), dtype=np.uint8)
    sprite[..., 3] = 255
    assert grounds_that_hide(sprite) == []
    sprite[..., :3] = 246
    assert grounds_that_hide(sprite) == ["white"]


def test_articles() -> None:
    assert [with_article(name) for name in ("cat", "owl", "unicorn", "orange star")] == [
        "a cat",
        "an owl",
        "a unicorn",
        "an orange star",
    ]


def test_missing_material_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sprites\.npy"):
        FAMILY.open(tmp_path)
    with pytest.raises(DataError, match=rf"{DRAWN[0]}\.svg is missing"):
        FAMILY.prepare(tmp_path, tmp_path)
