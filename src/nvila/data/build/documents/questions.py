"""Questions about a view of a page. Each maker returns the questions of its kind that have exactly one right answer.

A question about a word asks for one that occurs once in all that is seen (case and joined punctuation aside). Regions
hold whole lines and nothing else, never one that ends in a hyphen before the last. Answers that are boxes are in
thousandths of the picture, as are boxes in questions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

import numpy as np

from nvila.data.build.documents.layout import Box, Line, Word, around, overlap
from nvila.data.build.documents.view import MARK_COLOURS, View, mark, pad, to_thousandths
from nvila.data.build.documents.wordings import WORDINGS
from nvila.data.corpus.canvas import Turn, chance, number, pick
from nvila.types import LabelledBox

Asked = tuple[Turn, list[LabelledBox]]
"""A question, and the boxes (in pixels) that it is about."""

_WORD = re.compile(r"[A-Za-zÀ-ÖØ-öø-ÿ][A-Za-z0-9À-ÖØ-öø-ÿ'-]*[A-Za-z0-9À-ÖØ-öø-ÿ]|[0-9]+(?:\.[0-9]+)*")
_CLOSING = ".,;:!?)"
_CONTENTS = re.compile(
    r"(?:(?P<section>\d+(?:\.\d+)*|[A-Z](?:\.\d+)+)\.? )?(?P<title>[^ .].*?)(?: ?\.){3,} ?(?P<page>\d+)"
)
_KEY_VALUE = re.compile(r"(?P<key>[A-Z][A-Za-z ]{2,24}): (?P<value>\S.*)")


def as_text(box: Box, size: tuple[int, int]) -> str:
    """A pixel box as questions and answers write it: "[x1, y1, x2, y2]" in thousandths."""
    return f"[{', '.join(str(side) for side in to_thousandths(box, size))}]"


def bare(text: str) -> str:
    """A word without the punctuation around it, in lower case: what "the same word" means."""
    return text.strip("\"'`()[]{}<>.,;:!?").lower()


def _ask(rng: np.random.Generator, kind: str, *answers: str, **slots: str) -> Turn:
    return Turn(question=pick(rng, WORDINGS[kind]).format(**slots), answers=tuple(dict.fromkeys(answers)))


def _shuffled(rng: np.random.Generator, count: int) -> list[int]:
    return [int(place) for place in rng.permutation(count)]


def _region(rng: np.random.Generator, view: View, most: int) -> list[Line] | None:
    """One to `most` consecutive lines of a paragraph whose box holds no word of any other line."""
    for place in _shuffled(rng, len(view.paragraphs))[:6]:
        run = [view.lines[index] for index in view.paragraphs[place]]
        count = number(rng, 1, min(most, len(run)))
        start = number(rng, 0, len(run) - count)
        lines = run[start : start + count]
        inner = around([line.box for line in lines])
        mine = {id(word) for line in lines for word in line.words}
        alone = not any(overlap(pad(inner, 1), word.box) > 0.25 for word in view.words if id(word) not in mine)
        letters = sum(letter.isalnum() for line in lines for letter in line.text)
        if (
            alone
            and letters >= 4
            and not any(_has_leader(line) for line in lines)
            and not any(line.text.endswith("-") for line in lines[:-1])
        ):
            return lines
    return None


def _has_leader(line: Line) -> bool:
    """Whether dots lead across the line, whose exact number is nobody's business."""
    return re.search(r"\. ?\. ?\. ?\.", line.text) is not None


def _read_box(rng: np.random.Generator, view: View) -> Asked | None:
    lines = _region(rng, view, 3)
    if not lines:
        return None
    box, text = around([line.box for line in lines]), " ".join(line.text for line in lines)
    return _ask(rng, "read_box", text, box=as_text(box, view.image.size)), [LabelledBox(label=text, box=box)]


def _marked(rng: np.random.Generator, view: View, kind: str, most: int) -> Asked | None:
    lines = _region(rng, view, most)
    colour = pick(rng, MARK_COLOURS)
    if not lines:
        return None
    box, text = around([line.box for line in lines]), " ".join(line.text for line in lines)
    mark(view.image, pad(box, 3), colour)
    answer = text if kind == "read_marked" else str(len(lines))
    return _ask(rng, kind, answer, colour=colour), [LabelledBox(label=text, box=box)]


def _read_marked(rng: np.random.Generator, view: View) -> Asked | None:
    return _marked(rng, view, "read_marked", 3)


def _count_lines(rng: np.random.Generator, view: View) -> Asked | None:
    return _marked(rng, view, "count_lines", 8)


def _is_word(text: str) -> bool:
    return _WORD.fullmatch(text) is not None


def _open_end(text: str) -> str:
    """A word without closing punctuation."""
    return text.rstrip(_CLOSING) if not text.endswith("...") else text


def _once(view: View) -> frozenset[str]:
    """The bare words that are seen exactly once."""
    counts = Counter(bare(word.text) for word in view.words)
    return frozenset(word for word, count in counts.items() if count == 1)


def _neighbour(rng: np.random.Generator, view: View, kind: str) -> Asked | None:
    step = 1 if kind == "next_word" else -1
    once = _once(view)
    found: list[tuple[Word, Word]] = []
    for line in view.lines:
        for place, word in enumerate(line.words):
            if not 0 <= place + step < len(line.words):
                continue
            other = line.words[place + step]
            gap = max(other.box[0] - word.box[2], word.box[0] - other.box[2])
            named = _is_word(word.text) and len(word.text) >= 3 and bare(word.text) in once
            if named and gap < 1.5 * line.size and _is_word(_open_end(other.text)):
                found.append((word, other))
    if not found:
        return None
    word, other = found[number(rng, 0, len(found) - 1)]
    turn = _ask(rng, kind, _open_end(other.text), other.text, word=word.text)
    return turn, [LabelledBox(label=other.text, box=other.box)]


def _next_word(rng: np.random.Generator, view: View) -> Asked | None:
    return _neighbour(rng, view, "next_word")


def _previous_word(rng: np.random.Generator, view: View) -> Asked | None:
    return _neighbour(rng, view, "previous_word")


def _end_word(rng: np.random.Generator, view: View, kind: str) -> Asked | None:
    found = [line for line in view.lines if len(line.words) >= 4 and _no_gaps(line) and not line.text.endswith("-")]
    end = -1 if kind == "last_word" else 0
    found = [line for line in found if _is_word(_open_end(line.words[end].text))]
    if not found:
        return None
    line = found[number(rng, 0, len(found) - 1)]
    word = line.words[end]
    turn = _ask(rng, kind, _open_end(word.text), word.text, box=as_text(line.box, view.image.size))
    return turn, [LabelledBox(label=line.text, box=line.box)]


def _no_gaps(line: Line) -> bool:
    return all(right.box[0] - left.box[2] < 2 * line.size for left, right in pairwise(line.words))


def _last_word(rng: np.random.Generator, view: View) -> Asked | None:
    return _end_word(rng, view, "last_word")


def _first_word(rng: np.random.Generator, view: View) -> Asked | None:
    return _end_word(rng, view, "first_word")


def _next_line(rng: np.random.Generator, view: View) -> Asked | None:
    starts = Counter(" ".join(line.text.split()[:3]).lower() for line in view.lines)
    everything = " ".join(word.text for word in view.words).lower()
    found: list[tuple[str, Line]] = []
    for run in view.paragraphs:
        for upper, lower in pairwise(run):
            start = " ".join(view.lines[upper].text.split()[:3])
            clear = starts[start.lower()] == 1 and everything.count(start.lower()) == 1
            led = _has_leader(view.lines[upper]) or _has_leader(view.lines[lower])
            if clear and not led and len(view.lines[upper].words) >= 4 and len(view.lines[lower].text) >= 4:
                found.append((start, view.lines[lower]))
    if not found:
        return None
    start, line = found[number(rng, 0, len(found) - 1)]
    return _ask(rng, "next_line", line.text, line=start), [LabelledBox(label=line.text, box=line.box)]


def _find(rng: np.random.Generator, view: View) -> Asked | None:
    everything = " ".join(bare(word.text) for word in view.words)
    for place in _shuffled(rng, len(view.lines))[:8]:
        line = view.lines[place]
        count = number(rng, 1, min(4, len(line.words)))
        start = number(rng, 0, len(line.words) - count)
        words = line.words[start : start + count]
        phrase = " ".join(word.text for word in words)
        clear = everything.count(" ".join(bare(word.text) for word in words)) == 1
        if clear and len(phrase) >= 4 and all(_is_word(word.text) for word in words):
            box = around([word.box for word in words])
            turn = _ask(rng, "find", as_text(box, view.image.size), phrase=phrase)
            return turn, [LabelledBox(label=phrase, box=box)]
    return None


def _heading(rng: np.random.Generator, view: View) -> Asked | None:
    """The line in the largest letters: at least 15 % larger than any other, and nothing larger is cut."""
    if len(view.lines) < 4:
        return None
    ordered = sorted(view.lines, key=lambda line: -line.size)
    top, second = ordered[0], ordered[1]
    tallest_cut = max((word.box[3] - word.box[1] for word in view.others), default=0.0)
    clear = top.size >= 1.15 * second.size and tallest_cut < 0.8 * top.size
    if not clear or len(top.words) > 10 or sum(letter.isalpha() for letter in top.text) < 4:
        return None
    numbered = re.fullmatch(r"[A-Z]?[\d.]+ (.+)", top.text)
    accepted = (top.text, *([numbered[1]] if numbered else []))
    return _ask(rng, "heading", *accepted), [LabelledBox(label=top.text, box=top.box)]


def _page_number(rng: np.random.Generator, view: View) -> Asked | None:
    if not view.whole_page or view.page_number is None:
        return None
    boxes = [LabelledBox(label=line.text, box=line.box) for line in view.lines if line.text == view.page_number]
    return _ask(rng, "page_number", view.page_number), boxes


def _mention(rng: np.random.Generator, view: View) -> Asked | None:
    """Yes with a word that is wholly seen; no needs a word from elsewhere and is asked by `mention_absent`."""
    found = [word for line in view.lines for word in line.words if _is_word(word.text) and len(word.text) >= 5]
    if not found:
        return None
    word = found[number(rng, 0, len(found) - 1)]
    return _ask(rng, "mention", "yes", "Yes", word=word.text), [LabelledBox(label=word.text, box=word.box)]


def mention_absent(rng: np.random.Generator, page_text: str, candidates: Sequence[str]) -> Turn | None:
    """A question about a word of another page that is nowhere on this one, not even inside another word."""
    here = re.sub(r"[\s-]", "", page_text.lower())
    absent = [word for word in candidates if _is_word(word) and len(word) >= 5 and word.lower() not in here]
    return _ask(rng, "mention", "no", "No", word=pick(rng, absent)) if absent else None


def _contents(rng: np.random.Generator, view: View) -> Asked | None:
    """A line of a table of contents or an index with dots between the title and its page."""
    matches = [(line, found) for line in view.lines if (found := _CONTENTS.fullmatch(line.text))]
    titles = Counter(found["title"].lower() for _, found in matches)
    pages = Counter(found["page"] for _, found in matches)
    named = [(line, found) for line, found in matches if sum(map(str.isalpha, found["title"])) >= 3]
    clear = [(line, found) for line, found in named if titles[found["title"].lower()] == 1]
    if not clear:
        return None
    line, found = clear[number(rng, 0, len(clear) - 1)]
    boxes = [LabelledBox(label=line.text, box=line.box)]
    if pages[found["page"]] == 1 and not view.others and chance(rng, 0.25):
        accepted = (found["title"], *([f"{found['section']} {found['title']}"] if found["section"] else []))
        return _ask(rng, "contents_title", *accepted, number=found["page"]), boxes
    if found["section"] and chance(rng, 0.3):
        return _ask(rng, "contents_section", found["section"], title=found["title"]), boxes
    return _ask(rng, "contents_page", found["page"], title=found["title"]), boxes


def _key_value(rng: np.random.Generator, view: View) -> Asked | None:
    everything = " ".join(word.text for word in view.words)
    matches = [(line, found) for line in view.lines if (found := _KEY_VALUE.fullmatch(line.text))]
    clear = [(line, found) for line, found in matches if everything.count(f"{found['key']}:") == 1]
    if not clear:
        return None
    line, found = clear[number(rng, 0, len(clear) - 1)]
    return _ask(rng, "key_value", found["value"], word=found["key"]), [LabelledBox(label=line.text, box=line.box)]


Maker = Callable[[np.random.Generator, View], Asked | None]

MAKERS: Mapping[str, tuple[Maker, float]] = MappingProxyType(
    {
        "read_box": (_read_box, 1.5),
        "read_marked": (_read_marked, 1.2),
        "count_lines": (_count_lines, 0.5),
        "next_word": (_next_word, 0.8),
        "previous_word": (_previous_word, 0.5),
        "last_word": (_last_word, 0.4),
        "first_word": (_first_word, 0.4),
        "next_line": (_next_line, 0.6),
        "find": (_find, 1.2),
        "heading": (_heading, 2.0),
        "page_number": (_page_number, 3.0),
        "mention": (_mention, 0.6),
        "contents": (_contents, 4.0),
        "key_value": (_key_value, 2.0),
    }
)
"""Every kind of question, and how much it is wanted where it can be asked."""
