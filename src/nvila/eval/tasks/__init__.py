"""The held-out tasks, by name."""

from __future__ import annotations

from collections.abc import Iterable

from nvila.errors import ConfigError, nearest
from nvila.eval.task import Task
from nvila.eval.tasks import charts, clips, corpus, pictures, shapes, text


def all_tasks() -> dict[str, Task]:
    """Every task by name, in the order of reports."""
    groups = (text.TASKS, pictures.TASKS, shapes.TASKS, charts.TASKS, clips.TASKS, corpus.TASKS)
    return {task.name: task for group in groups for task in group}


def choose_tasks(names: Iterable[str]) -> list[Task]:
    """The tasks called `names`, or all when there are none. Raises ConfigError for an unknown name."""
    known = all_tasks()
    wanted = list(names)
    for name in wanted:
        if name not in known:
            raise ConfigError(f"unknown task {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    return [known[name] for name in wanted] or list(known.values())
