"""Answers about shapes and clips, found again from the labels and from the pixels."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from tests.data.corpus.tiny_corpus import many

from nvila.data.corpus import Assets
from nvila.data.corpus.canvas import NAMED_COLOURS, distance
from nvila.data.corpus.preview import media_of
from nvila.data.corpus.scenes import NUMBER_WORDS
from nvila.types import Sample, TextPart

Seen = tuple[str, str, tuple[float, float, float, float]]


def seen_shapes(sample: Sample) -> list[Seen]:
    """(shape, colour, box) of everything in the picture, by the dense labels."""
    labels = [item.label.split(":") for item in sample.objects]
    boxes = [item.box for item in sample.objects]
    assert [kind for kind, _ in labels] == ["shape", "color", "middle"] * (len(labels) // 3)
    return [(labels[i][1], labels[i + 1][1], boxes[i]) for i in range(0, len(labels), 3)]


def centre_colour(frame: np.ndarray, box: tuple[float, float, float, float]) -> str:
    """The named colour nearest to the middle of a box."""
    x, y = int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)
    rgb = np.median(frame[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].reshape(-1, 3), axis=0)
    return min(NAMED_COLOURS, key=lambda name: distance(NAMED_COLOURS[name], tuple(int(v) for v in rgb)))  # type: ignore[arg-type]


def question_of(sample: Sample) -> str:
    part = sample.messages[0].content[1]
    assert isinstance(part, TextPart)
    return part.text


@pytest.mark.parametrize("name", ["count", "color", "shape", "position", "place", "compare", "scene", "tally"])
def test_labels_say_what_the_pixels_show(assets: Assets, name: str) -> None:
    right = total = 0
    for sample in many(assets, name, 40):
        frame = np.asarray(media_of(sample)[0])
        for _, color, box in seen_shapes(sample):
            total += 1
            right += centre_colour(frame, box) == color
    assert right / total > 0.97, "a few are blurred by the damage, the rest must agree"


def test_counts_are_right_by_recounting(assets: Assets) -> None:
    answers = Counter()
    for sample in many(assets, "count", 200):
        shape, color = sample.meta["target"]
        tests = {
            "shape": lambda s, c, shape=shape: s == shape,
            "color": lambda s, c, color=color: c == color,
            "both": lambda s, c, shape=shape, color=color: (s, c) == (shape, color),
            "all": lambda s, c: True,
        }
        num = sum(tests[sample.meta["ask"]](s, c) for s, c, _ in seen_shapes(sample))
        assert sample.meta["answers"] == [str(num), NUMBER_WORDS[num]]
        answers[num] += 1
    assert set(range(1, 7)) <= set(answers), "counting must cover 1 to 6"


@pytest.mark.parametrize("name", ["color", "shape"])
def test_the_asked_shape_is_the_only_one_of_its_kind(assets: Assets, name: str) -> None:
    for sample in many(assets, name, 60):
        items, question = seen_shapes(sample), question_of(sample)
        column = 0 if name == "color" else 1
        words = set(re.findall(r"\w+", question))
        named = [item for item in items if item[column] in words]
        assert len(named) == 1, (question, items)
        assert named[0][1 - column] == sample.meta["answer"]


def test_places_agree_with_the_boxes(assets: Assets) -> None:
    asked: Counter[str] = Counter()
    for sample in many(assets, "place", 80):
        width, height = media_of(sample)[0].size
        for question, answer in zip(sample.messages[::2], sample.messages[1::2], strict=True):
            (text,) = (part.text for part in question.content if isinstance(part, TextPart))
            (said,) = (part.text for part in answer.content if isinstance(part, TextPart))
            named = [(shape, box) for shape, color, box in seen_shapes(sample) if re.search(rf"\b{shape}\b", text)]
            if said in ("left", "right", "top", "bottom") and len(named) == 1:
                left, top, right, bottom = named[0][1]
                across, down = "left" if left + right < width else "right", "top" if top + bottom < height else "bottom"
                assert said in (across, down), (text, said, named)
                asked[said] += 1
    assert min(asked[side] for side in ("left", "right", "top", "bottom")) >= 10, asked


def test_positions_agree_with_the_boxes(assets: Assets) -> None:
    asked = Counter()
    for sample in many(assets, "position", 120):
        (_, _, first), (_, _, second), *_ = seen_shapes(sample)
        dx = (first[0] + first[2] - second[0] - second[2]) / 2
        dy = (first[1] + first[3] - second[1] - second[3]) / 2
        where = ("right" if dx > 0 else "left") if abs(dx) > abs(dy) else ("below" if dy > 0 else "above")
        assert sample.meta["where"] == where
        asked[sample.meta["ask"], sample.meta["answer"]] += 1
        if sample.meta["ask"] == "relation":
            assert (sample.meta["answer"] == "yes") == (where in question_of(sample).split())
    assert {("relation", "yes"), ("relation", "no"), ("where", "left"), ("where", "above")} <= set(asked)


def test_comparisons_agree_with_the_areas(assets: Assets) -> None:
    for sample in many(assets, "compare", 120):
        items = seen_shapes(sample)
        if sample.meta["ask"] == "more":
            counts = Counter(color for _, color, _ in items) + Counter(shape for shape, _, _ in items)
            words = [part.split()[0] for part in (sample.meta["answers"][1],)]
            assert counts[words[0]] > len(items) / 2
            continue
        widths = {f"{color} {shape}": max(box[2] - box[0], box[3] - box[1]) for shape, color, box in items}
        extreme = max if sample.meta["big"] else min
        assert sample.meta["answer"] == extreme(widths, key=lambda name, widths=widths: widths[name])


def ink_centre(frame: np.ndarray) -> np.ndarray:
    """The mean place (x, y) of the pixels that differ from the corner's colour."""
    different = np.abs(frame.astype(int) - frame[0, 0].astype(int)).sum(-1) > 60
    rows, columns = np.nonzero(different)
    return np.array([columns.mean(), rows.mean()])


def test_motion_is_seen_in_the_pixels(assets: Assets) -> None:
    steps = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
    answers = Counter()
    for sample in many(assets, "motion", 60):
        frames = [np.asarray(frame) for frame in media_of(sample)]
        moved = ink_centre(frames[-1]) - ink_centre(frames[0])
        way = np.asarray(steps[sample.meta["answer"]])
        assert moved @ way > 3
        assert abs(moved @ way[::-1]) < 2
        answers[sample.meta["answer"]] += 1
    assert set(answers) == set(steps)


def test_the_mover_is_the_one_whose_place_changes(assets: Assets) -> None:
    for sample in many(assets, "mover", 40):
        frames = [np.asarray(frame).astype(int) for frame in media_of(sample)]
        for shape, color, box in seen_shapes(sample):
            x, y = int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)
            middle = np.s_[y - 1 : y + 2, x - 1 : x + 2]
            moves = bool(np.abs(frames[-1][middle] - frames[0][middle]).max() > 40)
            assert moves == (sample.meta["answer"] == f"{color} {shape}")


def test_order_follows_the_frames(assets: Assets) -> None:
    asked = Counter()
    for sample in many(assets, "order", 80):
        frames = media_of(sample)
        asked[sample.meta["ask"]] += 1
        (shape, color, box), *_ = seen_shapes(sample)
        if sample.meta["ask"] == "first":
            assert sample.meta["answer"] == f"{color} {shape}"
        elif sample.meta["ask"] == "recolor":
            assert centre_colour(np.asarray(frames[0]), box) == color
            assert centre_colour(np.asarray(frames[-1]), box) == sample.meta["answer"] != color
        else:
            assert sample.meta["answer"] != f"{color} {shape}"
            assert sample.meta["starts"] == sorted(sample.meta["starts"])
            assert not np.array_equal(np.asarray(frames[0]), np.asarray(frames[-1]))
    assert set(asked) == {"first", "last", "recolor"}


def turns_of(sample: Sample) -> list[tuple[str, str]]:
    texts = [part.text for message in sample.messages for part in message.content if isinstance(part, TextPart)]
    return list(zip(texts[::2], texts[1::2], strict=True))


def test_every_question_about_a_scene_has_the_answer_that_its_labels_give(assets: Assets) -> None:
    checked: Counter[str] = Counter()
    for sample in many(assets, "scene", 120):
        seen = seen_shapes(sample)
        for question, answer in turns_of(sample):
            words = set(question.lower().strip("?.!").split())
            shapes = [item for item in seen if item[0] in words or item[1] in words]
            if answer in NAMED_COLOURS and len(shapes) == 1:
                assert shapes[0][1] == answer
                checked["color"] += 1
            elif answer in {item[0] for item in seen} and len(shapes) == 1 and shapes[0][0] == answer:
                checked["shape"] += 1
            elif answer in ("left", "right", "above", "below") and len(shapes) == 2:
                asked = sorted(shapes, key=lambda item: question.lower().find(item[0]))
                (ax, ay), (bx, by) = (((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for _, _, b in asked)
                side = {"left": bx - ax, "right": ax - bx, "above": by - ay, "below": ay - by}[answer]
                # A wording may name the second shape first: then the side is the opposite one, and as clear.
                assert abs(side) >= max(abs(ax - bx), abs(ay - by)) - 1e-6
                checked["where"] += 1
    assert min(checked["color"], checked["shape"], checked["where"]) > 20, checked


def test_every_count_of_a_tally_is_right_by_recounting_and_no_question_comes_twice(assets: Assets) -> None:
    answers: Counter[str] = Counter()
    num_turns: Counter[int] = Counter()
    for sample in many(assets, "tally", 120):
        seen = seen_shapes(sample)
        turns = turns_of(sample)
        num_turns[len(turns)] += 1
        for question, answer in turns:
            words = question.lower().strip("?.!").split()
            shapes = {s for s, _, _ in seen if any(word.startswith(s) for word in words)}
            colors = {c for _, c, _ in seen if c in words}
            count = sum((not shapes or s in shapes) and (not colors or c in colors) for s, c, _ in seen)
            assert answer == str(count), (question, answer, seen)
            answers[answer] += 1
    assert set(num_turns) <= set(range(1, 8))
    assert max(num_turns) >= 5
    assert num_turns[1] < 40
    assert len(answers) >= 6
