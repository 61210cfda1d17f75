"""Coloured shapes: how many, which colour, which shape, where, and which is more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nvila.eval.metrics import accepted
from nvila.eval.task import Task


def _is_1_to_9(meta: Mapping[str, Any]) -> bool:
    return 1 <= int(meta["answer"]) <= 9


TASKS = (
    Task(name="counting", generator="count", metrics={"accepted": accepted}, keep=_is_1_to_9, floor=0.85),
    Task(name="color", generator="color", metrics={"accepted": accepted}, floor=0.92),
    Task(name="shape", generator="shape", metrics={"accepted": accepted}, floor=0.92),
    Task(name="position", generator="position", metrics={"accepted": accepted}, floor=0.92),
    Task(name="comparison", generator="compare", metrics={"accepted": accepted}),
)
