"""Questions about the held-out pages, charts, maps, scenes and clips of a built corpus.

Left out are boxes, which are another task, and questions with yes or no for an answer, which a coin answers half of the
time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nvila.eval.metrics import SPAN, accepted, anls, overlap, overlap_half, relaxed
from nvila.eval.task import Task

LONGEST_ANSWER = 64
"""Characters."""


def _is_short(meta: Mapping[str, Any]) -> bool:
    """One line, no box, no time, and nothing that a coin could answer."""
    answer = str(meta["answer"])
    return (
        0 < len(answer) <= LONGEST_ANSWER
        and "\n" not in answer
        and not answer.startswith("[")
        and SPAN.search(answer) is None
        and answer.lower().rstrip(".") not in ("yes", "no")
    )


def _is_when(meta: Mapping[str, Any]) -> bool:
    """An event to find in time, and nothing else to say."""
    return SPAN.fullmatch(str(meta["answer"])) is not None


TASKS = (
    Task(name="documents", family="documents", metrics={"anls": anls}, max_new_tokens=72, keep=_is_short, floor=0.30),
    Task(name="tables", family="tables", metrics={"relaxed": relaxed}, max_new_tokens=32, keep=_is_short, floor=0.50),
    Task(name="furniture", family="furniture", metrics={"accepted": accepted}, max_new_tokens=24, keep=_is_short),
    Task(name="cutouts", family="cutouts", metrics={"accepted": accepted}, max_new_tokens=24, keep=_is_short),
    Task(name="stamps", family="stamps", metrics={"accepted": accepted}, max_new_tokens=24, keep=_is_short),
    Task(name="photos", family="photos", metrics={"accepted": accepted}, max_new_tokens=24, keep=_is_short),
    Task(name="maps", family="maps", metrics={"accepted": accepted}, max_new_tokens=32, keep=_is_short),
    Task(name="slices", family="slices", metrics={"accepted": accepted}, max_new_tokens=24, keep=_is_short),
    Task(name="events", family="events", metrics={"accepted": accepted}, max_new_tokens=48, keep=_is_short, floor=0.75),
    Task(
        name="events_when",
        family="events",
        metrics={"iou_half": overlap_half, "iou": overlap},
        max_new_tokens=24,
        keep=_is_when,
        floor=0.75,
    ),
)
