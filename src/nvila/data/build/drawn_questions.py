"""Further questions about the pictures and clips that the corpus generators draw.

Answers follow from what the generator says of its sample: the text, the prices, the values, the boxes of shapes, the
frames at which something appears. Nothing is asked whose answer is a matter of a few pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from nvila.data.corpus.canvas import Turn, chance, number, pick
from nvila.data.corpus.phrasing import phrase
from nvila.data.corpus.scenes import NUMBER_WORDS
from nvila.data.corpus.splits import Split
from nvila.data.corpus.text import ALL_MARKS
from nvila.types import Sample, VideoPart

ORDINALS = ("first", "second", "third", "fourth", "fifth")
_SLICE_GAP = 0.04
"""Shares of a pie that differ by less are not compared."""

_LINE_GAP = 8
"""Values of a line chart (of 100) that differ by less are not compared."""

WORDINGS = {
    "first_character": "What is the first character?|Which character comes first?"
    "|With which character does it begin?|What does the text start with?|Name the first character."
    "|The first character is?",
    "last_character": "What is the last character?|Which character comes last?|With which character does it end?"
    "|What does the text end with?|Name the last character.|The last character is?",
    "num_characters": "How many characters does it have?|How many characters are there?|Count the characters."
    "|How long is it, in characters?|What is the number of characters?|How many characters do you count?",
    "first_word": "What is the first word?|Which word comes first?|With which word does the text begin?"
    "|Read only the first word.|Name the first word.|The text starts with which word?",
    "last_word": "What is the last word?|Which word comes last?|With which word does the text end?"
    "|Read only the last word.|Name the last word.|The text ends with which word?",
    "num_words": "How many words are there?|Count the words.|How many words does the text have?"
    "|What is the number of words?|How many words do you see?|How many words can you read?",
    "num_lines": "How many lines are there?|Count the lines of text.|How many lines of text do you see?"
    "|What is the number of lines?|The text has how many lines?|On how many lines is the text set?",
    "line": "What does the {nth} line say?|Read the {nth} line.|What is written on the {nth} line?"
    "|Read only line {n}.|Line {n}: what does it say?|Transcribe the {nth} line.",
    "dearest": "Which item is the most expensive?|What costs the most?|Which product has the highest price?"
    "|Name the most expensive item.|What is the dearest item?|The highest price is that of which item?",
    "cheapest": "Which item is the cheapest?|What costs the least?|Which product has the lowest price?"
    "|Name the cheapest item.|What is the least expensive item?|The lowest price is that of which item?",
    "num_slices": "How many slices does the pie have?|Count the slices.|Into how many parts is the pie cut?"
    "|How many slices are there?|What is the number of slices?|How many sectors do you see?",
    "num_points": "How many points does the line connect?|How many labels are on the horizontal axis?"
    "|Count the points of the line.|How many values does the line show?|What is the number of data points?"
    "|How many labels are below the line?",
    "appears": "After how many seconds does the last shape appear?|When does the last shape appear, in seconds?"
    "|At what second does the last shape show up?|How many seconds pass until the last shape appears?"
    "|At what time, in seconds, does the final shape come into view?"
    "|How many seconds into the clip does the last shape appear?",
    "num_appearing": "How many shapes appear in all?|How many different shapes does the clip show?"
    "|Count all shapes of the clip.|What is the number of shapes that appear?"
    "|How many shapes can be seen over the whole clip?|In total, how many shapes show up?",
    "duration": "How long is the clip, in seconds?|How many seconds does the clip last?"
    "|What is the length of the video in seconds?|How many seconds long is this?|The clip lasts how many seconds?"
    "|What is the duration in seconds?",
}


def further_turns(rng: np.random.Generator, split: Split, sample: Sample, fps: int | None) -> list[Turn]:
    """Questions beside those that `sample` has, in a random order; `fps` is the rate of a clip.

    Generators that ask all there is to ask get none.
    """
    task = str(sample.meta["task"])
    ask = _BY_TASK.get(task)
    turns = [] if ask is None else ask(rng, split, sample)
    if fps is not None:
        turns += _about_time(rng, sample, fps)
    return [turns[int(place)] for place in rng.permutation(len(turns))]


def wording(rng: np.random.Generator, kind: str, **slots: object) -> str:
    """A random question of a kind with its slots filled in."""
    template: str = pick(rng, WORDINGS[kind].split("|"))
    return template.format(**slots)


def _about_word(rng: np.random.Generator, split: Split, sample: Sample) -> list[Turn]:
    text = sample.meta["answer"]
    ends = [("first_character", text[0]), ("last_character", text[-1])]
    turns = [Turn(question=wording(rng, kind), answers=(character,)) for kind, character in ends]
    return [pick(rng, turns), _numbered(wording(rng, "num_characters"), len(text))]


def _about_line(rng: np.random.Generator, split: Split, sample: Sample) -> list[Turn]:
    words = sample.meta["answer"].split()
    if len(words) < 2 or not all(_is_word(word) for word in words):
        return []
    kind, word = pick(rng, (("first_word", words[0]), ("last_word", words[-1])))
    answers = tuple(dict.fromkeys((word, word.strip(ALL_MARKS))))
    return [Turn(question=wording(rng, kind), answers=answers), _numbered(wording(rng, "num_words"), len(words))]


def _about_sign(rng: np.random.Generator, split: Split, sample: Sample) -> list[Turn]:
    words = sample.meta["answer"].split()
    if not all(_is_word(word) for word in words):
        return []
    return [_numbered(wording(rng, "num_words"), len(words))]


def _is_word(text: str) -> bool:
    """Whether nobody would call `text` a number or a mark."""
    return text.strip(ALL_MARKS).isalpha()


def _about_lines(rng: np.random.Generator, split: Split, sample: Sample) -> list[Turn]:
    lines = sample.meta["answer"].split("\n")
    turns = [_numbered(wording(rng, "num_lines"), len(lines))]
    if 1 < len(lines) <= len(ORDINALS):
        for place in rng.permutation(len(lines))[:2]:
            slots = {"n": int(place) + 1, "nth": ORDINALS[int(place)]}
            turns.append(Turn(question=wording(rng, "line", **slots), answers=(lines[int(place)],)))
    return turns


def _about_receipt(rng: np.random.Generator, split: Split, sample: Sample) -> list[Turn]:
    goods, cents = sample.meta["items"], sample.meta["cents"]
    item = number(rng, 0, len(goods) - 1)
    turns = [
        _priced(phrase(rng, split, "receipt_total"), sum(cents)),
        _priced(phrase(rng, split, "receipt_price", item=goods[item]), cents[item]),
        _numbered(phrase(rng, split, "receipt_items"), len(goods)),
    ]
    asked = {"total": 0, "price": 1, "items": 2}[sample.meta["kind"]]
    turns = [turn for place, turn in enumerate(turns) if place != asked]
    for kind, extreme in (("dearest", max(cents)), ("cheapest", min(cents))):
        if cents.count(extreme) == 1:
            turns.append(Turn(question=wording(rng, kind), answers=(goods[cents.index(extreme)],)))
    return turns


def _about_pie(rng: np.random.Generator, split: Split, sample: Sample) -> list[Turn]:
    labels, shares = sample.meta["labels"], sample.meta["values"]
    turns = [_numbered(wording(rng, "num_slices"), len(labels))]
    ranked = sorted(shares)
    asked = sample.meta["ask"]
    if asked == "smallest" and ranked[-1] - ranked[-2] >= _SLICE_GAP:
        word = pick(rng, ("biggest", "largest"))
        turns.append(
            Turn(question=phrase(rng, split, "slice", biggest=word), answers=(labels[int(np.argmax(shares))],))
        )
    if asked != "smallest" and ranked[1] - ranked[0] >= _SLICE_GAP:
        turns.append(
            Turn(question=phrase(rng, split, "slice", biggest="smallest"), answers=(labels[int(np.argmin(shares))],))
        )
    return turns


def _about_line_chart(rng: np.random.Generator, split: Split, sample: Sample) -> list[Turn]:
    labels, values = sample.meta["labels"], sample.meta["values"]
    turns = [_numbered(wording(rng, "num_points"), len(labels))]
    ranked = sorted(values)
    for word, place, gap in (
        ("highest", int(np.argmax(values)), ranked[-1] - ranked[-2]),
        ("lowest", int(np.argmin(values)), ranked[1] - ranked[0]),
    ):
        if gap >= _LINE_GAP and sample.meta["ask"] != word:
            turns.append(Turn(question=phrase(rng, split, "peak", highest=word), answers=(labels[place],)))
    return turns


def _about_shapes(rng: np.random.Generator, split: Split, sample: Sample) -> list[Turn]:
    """How many shapes there are, by their boxes."""
    count = sum(item.label.startswith("shape:") for item in sample.objects)
    return [_numbered(phrase(rng, split, "count", things=pick(rng, ("shapes", "objects"))), count)]


def _about_order(rng: np.random.Generator, split: Split, sample: Sample) -> list[Turn]:
    if "starts" not in sample.meta:
        return []
    return [_numbered(wording(rng, "num_appearing"), len(sample.meta["starts"]))]


def _about_time(rng: np.random.Generator, sample: Sample, fps: int) -> list[Turn]:
    """Times in seconds of a clip at `fps` frames a second: frame i is seen from i / fps on."""
    num_frames = sum(len(part.video or ()) for part in sample.messages[0].content if isinstance(part, VideoPart))
    turns = []
    if num_frames % fps == 0 and chance(rng, 0.3):
        turns.append(_numbered(wording(rng, "duration"), num_frames // fps))
    starts = sample.meta.get("starts")
    if starts is not None:
        turns.append(Turn(question=wording(rng, "appears"), answers=_seconds(starts[-1] / fps)))
    return turns


def _seconds(time_s: float) -> tuple[str, ...]:
    return (f"{time_s:g}", f"{time_s:g} s", f"{time_s:.1f}", f"{time_s:g} seconds")


def _priced(question: str, cents: int) -> Turn:
    price = f"{cents // 100}.{cents % 100:02d}"
    return Turn(question=question, answers=(price, f"${price}"))


def _numbered(question: str, count: int) -> Turn:
    return Turn(question=question, answers=(str(count), *NUMBER_WORDS[count : count + 1]))


_BY_TASK: Mapping[str, Callable[[np.random.Generator, Split, Sample], list[Turn]]] = MappingProxyType(
    {
        "word": _about_word,
        "line": _about_line,
        "strip": _about_lines,
        "paragraph": _about_lines,
        "sign": _about_sign,
        "receipt": _about_receipt,
        "compare": _about_shapes,
        "pie": _about_pie,
        "line_chart": _about_line_chart,
        "motion": _about_shapes,
        "mover": _about_shapes,
        "order": _about_order,
    }
)
