"""Reading rendered text: held-out words in held-out superfamilies of fonts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nvila.eval.metrics import accepted, cer, exact
from nvila.eval.task import Task


def _is_16_px(meta: Mapping[str, Any]) -> bool:
    return int(meta["font_size"]) >= 16


TASKS = (
    Task(
        name="words",
        generator="word",
        metrics={"exact": exact, "cer": cer},
        num_samples=500,
        max_new_tokens=24,
        keep=_is_16_px,
        floor=0.70,
    ),
    Task(name="lines", generator="line", metrics={"cer": cer, "exact": exact}, max_new_tokens=48, floor=0.30),
    Task(name="paragraphs", generator="paragraph", metrics={"cer": cer}, max_new_tokens=120),
    Task(name="signs", generator="sign", metrics={"exact": exact, "cer": cer}, max_new_tokens=40),
    Task(
        name="signs_tiled", generator="sign", metrics={"exact": exact, "cer": cer}, size=(336, 224), max_new_tokens=40
    ),
    Task(name="receipts", generator="receipt", metrics={"accepted": accepted}, size=(112, 224)),
)
