"""What is held out stays out: words, superfamilies, renderings and wordings never cross over."""

from __future__ import annotations

import re

import pytest
from tests.data.corpus.tiny_corpus import many

from nvila.data.corpus import Assets
from nvila.data.corpus.phrasing import NUM_HELD_OUT, phrasing_tasks, phrasings
from nvila.data.corpus.splits import held_out_of, superfamily_split, word_split
from nvila.types import TextPart

READING = ("word", "strip", "line", "paragraph", "sign")


@pytest.mark.parametrize("name", READING)
def test_training_text_holds_no_held_out_word(assets: Assets, name: str) -> None:
    hidden = set(assets.words("heldout"))
    assert hidden, "the tiny list must hold some"
    read = [word for sample in many(assets, name, 150) for word in re.findall("[A-Za-z]{2,}", sample.meta["answer"])]
    assert len(read) > 60
    assert not {word.lower() for word in read} & hidden


@pytest.mark.parametrize("name", ["word", "line", "paragraph", "sign"])
def test_held_out_text_holds_only_held_out_words(assets: Assets, name: str) -> None:
    hidden = set(assets.words("heldout"))
    for sample in many(assets, name, 30, "heldout"):
        assert {word.lower() for word in re.findall("[A-Za-z]+", sample.meta["answer"])} <= hidden


def test_superfamilies_are_disjoint_and_whole(assets: Assets) -> None:
    sides = {split: {group[0].superfamily for group in assets.superfamilies(split)} for split in ("train", "heldout")}
    assert not sides["train"] & sides["heldout"]
    assert sides["train"] | sides["heldout"] == {font.superfamily for font in assets.fonts}
    for split in ("train", "heldout"):
        for group in assets.superfamilies(split):
            assert len({font.superfamily for font in group}) == 1
            assert superfamily_split(group[0].superfamily) == split


def test_exactly_one_rendering_a_concept_is_held_out(assets: Assets) -> None:
    train = {picture.name for group in assets.renderings("train") for picture in group}
    hidden = [picture for group in assets.renderings("heldout") for picture in group]
    assert sorted(picture.concept for picture in hidden) == list(assets.concepts)
    assert not train & {picture.name for picture in hidden}
    assert len(train) + len(hidden) == len(assets.pictures)
    shown = {sample.meta["rendering"] for sample in many(assets, "naming", 60)}
    assert shown <= train
    assert {sample.meta["rendering"] for sample in many(assets, "naming", 60, "heldout")} == {p.name for p in hidden}


@pytest.mark.parametrize("task", phrasing_tasks())
def test_twenty_wordings_a_task_four_of_them_held_out(task: str) -> None:
    train, hidden = phrasings(task, "train"), phrasings(task, "heldout")
    assert len(train) + len(hidden) >= 20
    assert len(hidden) == NUM_HELD_OUT
    assert not set(train) & set(hidden)
    slots = {tuple(sorted(set(re.findall(r"\{(\w+)\}", template)))) for template in (*train, *hidden)}
    assert len(slots) <= (2 if task == "highest" else 1), f"wordings of {task} differ in their slots: {slots}"


def test_questions_keep_to_their_side(assets: Assets) -> None:
    for name in ("color", "bar", "motion"):
        for split in ("train", "heldout"):
            asked = {
                str(s.messages[0].content[1].text)
                for s in many(assets, name, 40, split)
                if isinstance(s.messages[0].content[1], TextPart)
            }
            other = "heldout" if split == "train" else "train"
            tasks = {"color": ("color",), "bar": ("highest", "bar_value", "bar_count"), "motion": ("motion",)}[name]
            for template in (t for task in tasks for t in phrasings(task, other)):  # type: ignore[arg-type]
                pattern = re.sub(r"\\\{\w+\\\}", ".+", re.escape(template))
                same_shape = [q for q in asked if re.fullmatch(pattern, q)]
                own = [re.sub(r"\\\{\w+\\\}", ".+", re.escape(t)) for task in tasks for t in phrasings(task, split)]  # type: ignore[arg-type]
                assert all(any(re.fullmatch(p, q) for p in own) for q in same_shape)


def test_a_split_depends_on_the_name_alone() -> None:
    assert word_split("Open") == word_split("OPEN") == word_split("open") == "heldout"
    assert word_split("the") == "train"
    assert superfamily_split("noto") == "heldout"
    assert superfamily_split("dejavu") == "train"
    names = [f"n{i}" for i in range(9)]
    assert held_out_of("picture", names, 2) == held_out_of("picture", reversed(names), 2)
    share = sum(word_split(f"word{i}") == "heldout" for i in range(4000)) / 4000
    assert 0.08 < share < 0.12
