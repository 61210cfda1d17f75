"""Metrics of one answer against the accepted ones, all between 0 and 1; the runner averages them.

`exact` is for text that was to be read (case and signs count), `accepted` for names and short answers (they do not),
`cer` the character error rate: edits over the length of the truth, at most 1 a sample.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

Metric = Callable[[str, Sequence[str]], float]


def exact(answer: str, accepted_answers: Sequence[str]) -> float:
    """1 when the answer equals one of the accepted ones, outer and repeated white space aside."""
    return float(_spaced(answer) in {_spaced(accepted) for accepted in accepted_answers})


def accepted(answer: str, accepted_answers: Sequence[str]) -> float:
    """1 when the answer is one of the accepted ones: case, a leading article and a final full stop do not count."""
    return float(plain(answer) in {plain(known) for known in accepted_answers})


def cer(answer: str, accepted_answers: Sequence[str]) -> float:
    """Character error rate to the first accepted answer, at most 1; less is better."""
    truth = _spaced(accepted_answers[0])
    if not truth:
        return float(bool(_spaced(answer)))
    return min(1.0, edit_distance(_spaced(answer), truth) / len(truth))


def edit_distance(first: str, second: str) -> int:
    """Insertions, deletions and substitutions that turn one string into the other."""
    row = list(range(len(second) + 1))
    for number, letter in enumerate(first, start=1):
        diagonal, row[0] = row[0], number
        for column, other in enumerate(second, start=1):
            changed = diagonal + (letter != other)
            diagonal = row[column]
            row[column] = min(row[column] + 1, row[column - 1] + 1, changed)
    return row[-1]


def plain(answer: str) -> str:
    """Lower case, single spaces, no leading article and no final full stop."""
    text = _spaced(answer).lower().removesuffix(".")
    return re.sub(r"^(a|an|the) ", "", text)


def _spaced(text: str) -> str:
    return " ".join(text.split())
