"""Metrics of one answer against the accepted ones, all between 0 and 1; the runner averages them.

`exact` is for text that was to be read (case and signs count), `accepted` for names and short answers (they do not),
`cer` the character error rate: edits over the length of the truth, at most 1 a sample; `anls`, `relaxed` and
`overlap` are those of document questions, charts and stretches of time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

Metric = Callable[[str, Sequence[str]], float]
LESS_IS_BETTER = frozenset({"cer"})
"""Names of metrics that are errors."""
SPAN = re.compile(r"<(\d+(?:\.\d+)?)>\s*<(\d+(?:\.\d+)?)>")
"""A stretch of time in an answer, in seconds: <start> <end>."""


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


def anls(answer: str, accepted_answers: Sequence[str]) -> float:
    """1 minus the edit distance over the longer length, to the nearest accepted answer; below one half it is 0.

    The score of DocVQA (Biten et al., 2019), without regard to case and outer space.
    """
    given = plain(answer)
    return max(_similarity(given, plain(truth)) for truth in accepted_answers)


def relaxed(answer: str, accepted_answers: Sequence[str]) -> float:
    """1 for a number within 5 % of an accepted one, as on ChartQA; other answers must be accepted as they are."""
    value = _number(answer)
    truths = [_number(truth) for truth in accepted_answers]
    if value is not None and any(truth is not None and abs(value - truth) <= 0.05 * abs(truth) for truth in truths):
        return 1.0
    return accepted(answer, accepted_answers)


def overlap(answer: str, accepted_answers: Sequence[str]) -> float:
    """Intersection over union of the first <start> <end> in the answer and in the first accepted one; 0 without."""
    given, truth = SPAN.search(answer), SPAN.search(accepted_answers[0])
    if given is None or truth is None:
        return 0.0
    (start, end), (true_start, true_end) = (tuple(map(float, found.groups())) for found in (given, truth))
    shared = min(end, true_end) - max(start, true_start)
    return max(0.0, shared) / max(1e-9, max(end, true_end) - min(start, true_start)) if end >= start else 0.0


def overlap_half(answer: str, accepted_answers: Sequence[str]) -> float:
    """1 when `overlap` is at least one half (R@1, IoU 0.5 of temporal localisation)."""
    return float(overlap(answer, accepted_answers) >= 0.5)


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


def _similarity(first: str, second: str) -> float:
    longest = max(len(first), len(second))
    value = 1.0 - edit_distance(first, second) / longest if longest else 1.0
    return value if value >= 0.5 else 0.0


def _number(text: str) -> float | None:
    """The number that a text is, thousands' commas, a currency sign in front and a percent sign behind aside."""
    bare = text.strip().rstrip(".").replace(",", "").removeprefix("$").removesuffix("%").strip()
    return float(bare) if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)", bare) else None


def _spaced(text: str) -> str:
    return " ".join(text.split())
