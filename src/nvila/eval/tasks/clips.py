"""Short clips: which way something moves, what moves, and what comes first."""

from __future__ import annotations

from nvila.eval.metrics import accepted
from nvila.eval.task import Task

TASKS = (
    Task(name="motion", generator="motion", metrics={"accepted": accepted}, floor=0.90),
    Task(name="mover", generator="mover", metrics={"accepted": accepted}),
    Task(name="order", generator="order", metrics={"accepted": accepted}),
)
