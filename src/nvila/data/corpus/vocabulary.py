"""Which labels the dense loss knows and which whole words the tokenizer should hold.

Both lists follow from the wordings, the concepts and the shapes alone, in a stable order.
"""

from __future__ import annotations

import re
from collections import Counter

from nvila.data.corpus.assets import Assets
from nvila.data.corpus.charts import BAR_ROLES
from nvila.data.corpus.concepts import accepted_names
from nvila.data.corpus.phrasing import phrasing_tasks, phrasings
from nvila.data.corpus.scenes import NUMBER_WORDS, RELATIONS, plural
from nvila.data.corpus.shapes import COLOURS, MIDDLE_LABEL, SHAPES

ANSWER_WORDS = ("yes", "no", "left", "right", "up", "down", "above", "below", "shapes", "objects", "shape", "object")
QUESTION_WORDS = (
    "bigger biggest larger largest smaller smallest highest tallest lowest shortest greatest least first last moving"
    " thing things to the of a is are it and"
)


def dense_labels(assets: Assets) -> list[str]:
    """Every label that `Sample.objects` may carry: characters, names, shapes, colours, what a bar is, middles."""
    characters = [f"char:{chr(code)}" for code in range(33, 127)]
    names = [f"name:{concept}" for concept in assets.concepts]
    shapes = [*(f"shape:{name}" for name in SHAPES), *(f"color:{name}" for name in COLOURS)]
    return [*characters, *names, *shapes, *(f"bar:{role}" for role in BAR_ROLES), MIDDLE_LABEL]


def tokenizer_words(assets: Assets) -> list[str]:
    """Words of questions and of closed answers, most useful first, without duplicates; no words to be read.

    Letter case matters: a word is listed as it is written. Marks and single letters are left to the bytes.
    """
    answers = [*ANSWER_WORDS, *COLOURS, *SHAPES, *(plural(shape) for shape in SHAPES), *NUMBER_WORDS, *RELATIONS]
    answers += [word for concept in assets.concepts for word in _words(concept)]
    accepted = [word for concept in assets.concepts for name in accepted_names(concept) for word in _words(name)]
    counts: Counter[str] = Counter()
    for task in phrasing_tasks():
        for template in (*phrasings(task, "train"), *phrasings(task, "heldout")):
            counts.update(_words(re.sub(r"\{\w+\}", "", template)))
    asked = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    every = dict.fromkeys([*answers, *asked, *QUESTION_WORDS.split(), *accepted])
    return [word for word in every if len(word) > 1]


def _words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z]+", text)
