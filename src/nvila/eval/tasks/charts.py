"""Simple charts: which bar is the highest or lowest; values, slices and curves for information."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nvila.eval.metrics import accepted
from nvila.eval.task import Task


def _is_extreme(meta: Mapping[str, Any]) -> bool:
    return meta["ask"] in ("highest", "lowest")


def _is_value(meta: Mapping[str, Any]) -> bool:
    return bool(meta["ask"] == "value")


TASKS = (
    Task(name="bars", generator="bar", metrics={"accepted": accepted}, keep=_is_extreme, floor=0.80),
    Task(name="bar_values", generator="bar", metrics={"accepted": accepted}, keep=_is_value),
    Task(name="pies", generator="pie", metrics={"accepted": accepted}),
    Task(name="curves", generator="line_chart", metrics={"accepted": accepted}),
)
