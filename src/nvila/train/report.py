"""What a training tells while it runs: a line on the console, `metrics.jsonl`, TensorBoard, and the held-out probe."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from transformers import TrainerCallback

from nvila.train.learner import Learner
from nvila.train.meter import TimeLeft
from nvila.train.stream import BatchStream

logger = logging.getLogger(__name__)
METRICS_FILE = "metrics.jsonl"


class Reporter(TrainerCallback):
    """Writes every log entry in three places, under `folder`."""

    def __init__(self, folder: Path, stage: str) -> None:
        self.path = folder / METRICS_FILE
        self.stage = stage
        self.board = SummaryWriter(str(folder / "tensorboard"))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        values = {key: value for key, value in (logs or {}).items() if isinstance(value, int | float)}
        self.write(state.global_step, values)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """One entry: `values` at `step` of this stage."""
        entry = {"stage": self.stage, "step": step, "time": round(time.time(), 1), **values}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        for name, value in values.items():
            self.board.add_scalar(f"{self.stage}/{name}", value, step)
        shown = "  ".join(f"{name} {value:.3g}" for name, value in values.items() if name != "epoch")
        logger.info("%s step %d  %s", self.stage, step, shown)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.board.close()


class ShowProgress(TrainerCallback):
    """Tells the line on the terminal how far the stage is."""

    def __init__(self, left: TimeLeft) -> None:
        self.left = left

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.left.update(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        told = logs or {}
        self.left.update(state.global_step, loss=told.get("loss"), tokens_per_s=told.get("tokens_per_s"))


class Probe(TrainerCallback):
    """Scores the same held-out samples of every source every so many seconds, by teacher forcing."""

    def __init__(
        self, learner: Learner, stream: BatchStream, reporter: Reporter, *, seconds: float, samples: int
    ) -> None:
        self.learner = learner
        self.stream = stream
        self.reporter = reporter
        self.seconds = seconds
        self.samples = samples
        self._last = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if time.monotonic() - self._last >= self.seconds or control.should_training_stop:
            self.reporter.write(
                state.global_step, probe(self.learner, self.stream, self.samples, state.global_step, bf16=args.bf16)
            )
            self._last = time.monotonic()


def probe(learner: Learner, stream: BatchStream, num_samples: int, step: int, *, bf16: bool) -> dict[str, float]:
    """`heldout_TASK`, the part of exact answers, or the accuracy on characters where nothing is answered."""
    values: dict[str, float] = {}
    device = next(learner.parameters()).device
    training = learner.training
    learner.eval()
    for index, source in enumerate(stream.stage.source):
        batch = stream.probe(index, num_samples, step)
        batch.pop("notes")
        moved = {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            outputs = learner(**moved)
        if "correct" in outputs:
            values[f"heldout_{source.label}"] = round(float(outputs["correct"].float().mean()), 3)
        for name in ("accuracy_char", "accuracy_name"):
            if name in outputs and float(outputs[name]) > 0:
                values[f"heldout_{name}_{source.label}"] = round(float(outputs[name]), 3)
    learner.train(training)
    return values
