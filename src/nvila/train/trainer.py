"""The trainer: `transformers.Trainer` with our two losses, our batches, a log, a probe, and clean stops.

What it adds is small: the loss comes from `Learner`, batches from `BatchStream` as they are, checkpoints hold the
seconds spent, SIGTERM and SIGINT save before they end the run. Everything else (accelerate, clipping, optimiser state,
resuming) is transformers' own.
"""

from __future__ import annotations

import json
import signal
import time
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from nvila.train.learner import Learner
from nvila.train.recipe import Run, Stage
from nvila.train.schedule import StageClock, StageEnd
from nvila.train.stream import BatchStream

CLOCK_FILE = "clock.json"
WEIGHTS_FILE = "model.safetensors"


class StageTrainer(Trainer):
    """Trains a `Learner` on a `BatchStream` for one stage."""

    optimizer: Any
    lr_scheduler: Any

    def __init__(self, learner: Learner, stream: BatchStream, clock: StageClock, run: Run, folder: Path) -> None:
        self.stream = stream
        self.clock = clock
        self.run = run
        self.tally = Tally(stream.stage)
        super().__init__(model=learner, args=training_arguments(stream.stage, run, folder))
        stream.rank, stream.world_size = self.args.process_index, self.args.world_size
        self.add_callback(StageEnd(clock, run.checkpoint_seconds))
        self.add_callback(StopOnSignal())

    def get_train_dataloader(self) -> DataLoader[Any]:
        workers = self.run.workers
        return DataLoader(
            self.stream,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=6 if workers else None,
            multiprocessing_context="fork" if workers else None,
        )

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        stage = self.stream.stage
        if self.optimizer is None:
            learner = self.accelerator.unwrap_model(self.model)
            groups = parameter_groups(learner, stage)
            self.optimizer = torch.optim.AdamW(groups, lr=stage.learning_rate, betas=(0.9, 0.98), fused=True)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(self.create_optimizer(), self.clock.rate)
        return self.lr_scheduler

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        sources = inputs.pop("sources")
        outputs = model(**inputs)
        self.tally.add(sources, outputs)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs = {**logs, **self.tally.take(), "seconds": round(self.clock.seconds, 1)}
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.accelerator.unwrap_model(self.model), str(folder / WEIGHTS_FILE))
        (folder / CLOCK_FILE).write_text(json.dumps({"seconds": self.clock.seconds}), encoding="utf-8")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_model(self.model, str(Path(resume_from_checkpoint) / WEIGHTS_FILE))


def parameter_groups(learner: Learner, stage: Stage) -> list[dict[str, Any]]:
    """AdamW's groups: one for each learning rate and weight decay; only matrices that are no embeddings decay."""
    rates = {
        id(weight): stage.part_learning_rates.get(name, stage.learning_rate)
        for name, part in learner.parts().items()
        for weight in part.parameters()
    }
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = defaultdict(list)
    for name, weight in learner.named_parameters():
        if weight.requires_grad:
            decay = stage.weight_decay if weight.ndim > 1 and "embed" not in name else 0.0
            groups[rates.get(id(weight), stage.learning_rate), decay].append(weight)
    return [{"params": weights, "lr": rate, "weight_decay": decay} for (rate, decay), weights in groups.items()]


class Tally:
    """Sums what the steps since the last log line reported: samples a second, losses, and answers right by task."""

    def __init__(self, stage: Stage) -> None:
        self.labels = [source.label for source in stage.source]
        self._clear()

    def _clear(self) -> None:
        self.started = time.monotonic()
        self.samples = 0
        self.sums: dict[str, list[torch.Tensor]] = defaultdict(list)
        self.right: dict[str, list[float]] = defaultdict(list)

    def add(self, sources: torch.Tensor, outputs: dict[str, torch.Tensor]) -> None:
        self.samples += len(sources)
        for name, value in outputs.items():
            if value.ndim == 0 and name != "loss":
                self.sums[name].append(value.detach())
        if "correct" in outputs:
            for source, correct in zip(sources.tolist(), outputs["correct"].tolist(), strict=True):
                self.right[self.labels[source]].append(correct)

    def take(self) -> dict[str, float]:
        """The means since the last call."""
        elapsed = time.monotonic() - self.started
        values = {name: round(float(torch.stack(parts).mean()), 4) for name, parts in sorted(self.sums.items())}
        for label, hits in sorted(self.right.items()):
            values[f"exact_{label}"] = round(sum(hits) / len(hits), 3)
        values["samples_per_s"] = round(self.samples / max(elapsed, 1e-9), 1)
        self._clear()
        return values


class StopOnSignal(TrainerCallback):
    """SIGTERM and SIGINT end the training after the step at hand, with a checkpoint."""

    def __init__(self) -> None:
        self.caught: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._catch)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.caught is not None:
            control.should_save = True
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self.caught = number


def training_arguments(stage: Stage, run: Run, folder: Path) -> TrainingArguments:
    """Our recipe in transformers' terms."""
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.batch_size,
        learning_rate=stage.learning_rate,
        weight_decay=stage.weight_decay,
        max_grad_norm=1.0,
        bf16=run.bf16,
        seed=run.seed,
        save_strategy="no",
        save_total_limit=2,
        logging_steps=run.log_steps,
        logging_first_step=True,
        disable_tqdm=True,
        report_to=[],
        remove_unused_columns=False,
        ignore_data_skip=True,
        use_cpu=not torch.cuda.is_available(),
    )
