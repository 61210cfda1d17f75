"""Naming pictures: held-out renderings of known concepts."""

from __future__ import annotations

from nvila.eval.metrics import accepted
from nvila.eval.task import Task

TASKS = (
    Task(
        name="naming",
        generator="naming",
        metrics={"accepted": accepted},
        num_samples=500,
        max_new_tokens=24,
        floor=0.60,
    ),
    Task(name="naming_tiled", generator="naming", metrics={"accepted": accepted}, size=(224, 224), max_new_tokens=24),
)
