"""Where held-out samples come from: a generator's held-out side, or the held-out shards of a built corpus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from nvila.data.corpus import Assets, generate
from nvila.data.formats import open_source
from nvila.errors import DataError
from nvila.eval.task import Task
from nvila.types import Message, Part, Sample, TextPart

MAX_LEFT_OUT = 1000
"""So many samples in a row that a task asks nothing about mean that its filter is wrong."""


def default_corpus() -> Path:
    """The corpus in the package: a small part of what `nvila data build full` makes."""
    return Path(str(files("nvila") / "assets" / "corpus"))


def has_family(corpus: Path, family: str) -> bool:
    """Whether `corpus` has held-out shards of `family`."""
    return any((corpus / "heldout").glob(f"{family}-*.tar"))


def held_out_samples(task: Task, assets: Assets, corpus: Path, seed: int) -> Iterator[Sample]:
    """The task's held-out samples, each with one question; a generator's without end, a family's once.

    `meta` has `question`, `answer` (the first accepted one) and `answers`. Raises DataError for a family that the
    corpus does not have, and where a task's filter leaves out everything.
    """
    found = _generated(task, assets, seed) if task.generator else _asked(task, corpus, seed)
    skipped = 0
    for sample in found:
        if task.keep is None or task.keep(sample.meta):
            skipped = 0
            yield sample
            continue
        skipped += 1
        if skipped >= MAX_LEFT_OUT:
            raise DataError(
                f"task {task.name!r} left out {skipped} samples of {task.generator or task.family!r} in a row; "
                "its filter is wrong"
            )


def _generated(task: Task, assets: Assets, seed: int) -> Iterator[Sample]:
    for index, size in enumerate(cycle([task.size])):
        yield generate(task.generator, assets, split="heldout", seed=seed, index=index, size=size)


def _asked(task: Task, corpus: Path, seed: int) -> Iterator[Sample]:
    """One question about each sample of the family that the task keeps: the first of them in a random order."""
    if not has_family(corpus, task.family):
        raise DataError(
            f"task {task.name!r} needs held-out shards of {task.family!r}, of which {corpus} has none; build the full "
            "corpus (nvila data build full --out DIR) and give --corpus DIR"
        )
    source = open_source(str(corpus / "heldout" / f"{task.family}-*.tar"), name=task.family)
    rng = np.random.default_rng(seed)
    for index in rng.permutation(len(source)).tolist():
        questions = asked_alone(source[index])
        kept = [one for one in questions if task.keep is None or task.keep(one.meta)]
        if questions:
            yield (kept or questions)[int(rng.integers(len(kept or questions)))]


def asked_alone(sample: Sample) -> list[Sample]:
    """The sample's questions, each as if it were the only one: with the media of the first turn, and its own answers.

    `meta` keeps what is said of the whole sample, and has `kind` where it names the kinds of its questions.
    """
    media = tuple(part for part in sample.messages[0].content if not isinstance(part, TextPart))
    kinds = sample.meta.get("kinds") or [""] * len(sample.meta["answers"])
    found = []
    for number, (accepted, kind) in enumerate(zip(sample.meta["answers"], kinds, strict=False)):
        question = _text(sample.messages[2 * number])
        content: tuple[Part, ...] = (*media, TextPart(text=question))
        meta: dict[str, Any] = {"question": question, "answer": accepted[0], "answers": accepted, "kind": kind}
        message = Message(role="user", content=content)
        found.append(replace(sample, messages=(message,), meta={**sample.meta, **meta}))
    return found


def _text(message: Message) -> str:
    return "".join(part.text for part in message.content if isinstance(part, TextPart)).strip()
