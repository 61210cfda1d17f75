"""The trainer: `transformers.Trainer` with our losses, our batches, a log, a probe, and clean stops.

What it adds is small: the loss comes from `Learner`, batches from a feed as they are (generated, or of a mixture), a
checkpoint also holds where the feed stands and the seconds spent, SIGTERM and SIGINT save before they end the run.
Everything else (accelerate, clipping, optimiser state, resuming) is transformers' own.
"""

from __future__ import annotations

import json
import os
import signal
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

import torch
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from nvila.errors import ConfigError
from nvila.train.learner import Learner
from nvila.train.meter import StepCounts, StepMeter, peak_flops, peak_memory
from nvila.train.notes import BatchNotes, SampleNote
from nvila.train.plan import Workload, estimate
from nvila.train.precision.optimizer import Fp8AdamW
from nvila.train.recipe import Run, Stage
from nvila.train.schedule import StageClock, StageEnd
from nvila.train.sharded import load_whole_state, whole_state, whole_weights, write_weights
from nvila.train.watch import LossWatch
from nvila.utils.atomic import atomic_write_text

PROGRESS_FILE = "progress.json"
"""Written last, so that a checkpoint that has it is whole: step, seconds, and where the feed stands."""
WEIGHTS_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.pt"
SCHEDULER_FILE = "scheduler.pt"
ADAM_BETAS = (0.9, 0.98)
TYPICAL_LENGTH = 512


class Feed(Protocol):
    """Micro-batches of one rank, from where its state says."""

    num_micro_batches: int
    """Of an optimiser step."""

    def loader(self, num_workers: int) -> Any:
        """An iterable of dictionaries: what `Learner.forward` takes, and `notes` (BatchNotes)."""
        ...

    def state_dict(self, step: int) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class StageTrainer(Trainer):
    """Trains a `Learner` on a feed for one stage."""

    optimizer: Any
    lr_scheduler: Any
    learned_only = False
    """Whether checkpoints hold only the weights that learn."""

    def __init__(
        self,
        learner: Learner,
        feed: Feed,
        stage: Stage,
        clock: StageClock,
        run: Run,
        args: TrainingArguments,
    ) -> None:
        """`args.output_dir` is the stage's folder, within the run's."""
        self.feed = feed
        self.stage = stage
        self.clock = clock
        self.run = run
        self.tally = Tally()
        args.gradient_accumulation_steps = feed.num_micro_batches
        super().__init__(model=learner, args=args)
        # The loss of tokens is divided by those of the whole step, over micro-batches and ranks.
        self.model_accepts_loss_kwargs = stage.loss == "token"
        self.meter = StepMeter(
            flops=flops_of(learner, stage),
            peak=peak_flops(self.args.device, measure=True),
            memory=partial(peak_memory, self.args.device),
            reduce=self._reduce,
        )
        self.watch = LossWatch(Path(args.output_dir).parent, rank=self.args.process_index)
        self._seen: list[SampleNote] = []
        self._step_losses: list[torch.Tensor] = []
        self.remove_callback(PrinterCallback)  # the reporter writes the console's line
        self.add_callback(StageEnd(clock, run.checkpoint_seconds, run.checkpoint_steps))
        self.add_callback(StopOnSignal())

    def get_train_dataloader(self) -> Any:
        return self.feed.loader(self.run.workers)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            learner = self.accelerator.unwrap_model(self.model)
            groups = parameter_groups(learner, self.stage)
            rate = self.stage.learning_rate
            if self.run.optimizer == "fp8":
                self.optimizer = Fp8AdamW(groups, lr=rate, betas=ADAM_BETAS, compiled=self.args.device.type == "cuda")
            else:
                self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=ADAM_BETAS, fused=True)
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
        notes: BatchNotes = inputs.pop("notes")
        outputs = model(**inputs, num_items=num_items_in_batch)
        self.tally.add(notes, outputs)
        self.meter.add(
            StepCounts(
                tokens=notes.num_tokens,
                learned_tokens=notes.num_learned,
                padding_tokens=notes.num_padding,
                tiles=notes.num_tiles,
                samples=len(notes.samples),
            )
        )
        self._seen += notes.samples
        loss = outputs["loss"]
        if num_items_in_batch is not None:
            loss = loss * self.args.world_size  # gradients are averaged over ranks, and the loss is a sum over them
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs = {**logs, **self._rates(), **self.tally.take(), **self.meter.take()}
            logs["seconds"] = round(self.clock.seconds, 3)
        super().log(logs, start_time)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self._step_losses.append(loss)
        return loss

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        """Between the last backward pass of a step and its update: what is wrong here must not get into the weights.

        The one synchronisation of a step, over devices and ranks.
        """
        norm = super()._clip_grad_norm(model)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        total = torch.stack(self._step_losses).sum().float()
        loss = float(self.accelerator.reduce(total, "mean"))
        seen, self._seen, self._step_losses = self._seen, [], []
        self.watch.observe(self.state.global_step + 1, loss, None if norm is None else float(norm), seen)
        return norm

    def _rates(self) -> dict[str, float]:
        """The learning rate of each part that is trained."""
        return {f"learning_rate_{group['name']}": group["lr"] for group in self.optimizer.param_groups}

    def _reduce(self, values: list[float], kind: Literal["sum", "max"]) -> list[float]:
        """The values of all ranks as one, for the meter."""
        if self.args.world_size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.args.device)
        torch.distributed.all_reduce(tensor, getattr(torch.distributed.ReduceOp, kind.upper()))
        return tensor.tolist()

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0

    @property
    def shards(self) -> bool:
        """Whether the ranks share weights or optimiser states, so that each has a part alone (FSDP, DeepSpeed)."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def write_weights(self, path: Path) -> None:
        """Writes the whole weights; all ranks must call it, as all send what they have."""
        learner = self.accelerator.unwrap_model(self.model)
        # Under FSDP2 accelerate gives what was gathered on CPUs before it has arrived.
        whole = whole_weights(learner) if self.is_fsdp_enabled else self.accelerator.get_state_dict(self.model_wrapped)
        if self.args.should_save:
            write_weights(learner, self._kept(learner, whole), path)

    def _kept(self, learner: Any, whole: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What of the weights goes into a checkpoint: what learns, where that is but a part of the model's parts."""
        if not self.learned_only:
            return whole
        learned = {name for name, weight in learner.named_parameters() if weight.requires_grad}
        return {name: tensor for name, tensor in whole.items() if name in learned}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        self.write_weights(Path(output_dir or self.args.output_dir) / WEIGHTS_FILE)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Under FSDP as without: accelerate's own files would go on with FSDP alone."""
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = whole_state(self.optimizer)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_FILE)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self.is_fsdp_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        # Mapped, so that the ranks of a machine read it once and keep their slices alone.
        state = torch.load(Path(checkpoint) / OPTIMIZER_FILE, map_location="cpu", weights_only=True, mmap=True)
        load_whole_state(self.optimizer, state)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_FILE, weights_only=True))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            step = self.state.global_step
            progress = {"step": step, "seconds": self.clock.seconds, "feed": self.feed.state_dict(step)}
            folder = Path(self.args.output_dir) / f"checkpoint-{step}"
            atomic_write_text(folder / PROGRESS_FILE, json.dumps(progress))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Nothing: `stages.run_stage` loaded the weights before any rank got its slices of them."""


def last_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint in `folder` and its progress; one that a kill left half-written does not count.

    Raises ConfigError for a progress file that cannot be read.
    """
    found = sorted(
        (path for path in folder.glob("checkpoint-*") if (path / PROGRESS_FILE).is_file()),
        key=lambda path: int(path.name.rpartition("-")[2]),
    )
    if not found:
        return None
    try:
        progress: dict[str, Any] = json.loads((found[-1] / PROGRESS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the checkpoint {found[-1]} is damaged ({error}); delete it to use the one before"
        ) from error
    return found[-1], progress


def parameter_groups(learner: Learner, stage: Stage) -> list[dict[str, Any]]:
    """AdamW's groups: one for each part and weight decay; only matrices that are no embeddings decay."""
    parts = {id(weight): name for name, part in learner.parts().items() for weight in part.parameters()}
    groups: dict[tuple[str, float], list[torch.nn.Parameter]] = defaultdict(list)
    for name, weight in learner.named_parameters():
        if weight.requires_grad:
            decay = stage.weight_decay if weight.ndim > 1 and "embed" not in name else 0.0
            groups[parts.get(id(weight), "heads"), decay].append(weight)
    rates = stage.part_learning_rates
    return [
        {"params": weights, "lr": rates.get(part, stage.learning_rate), "weight_decay": decay, "name": part}
        for (part, decay), weights in groups.items()
    ]


def flops_of(learner: Learner, stage: Stage) -> Callable[[StepCounts], float]:
    """Operations of a batch, forward and backward, by the plan's formulas; attention as over samples of
    `TYPICAL_LENGTH` tokens."""
    config = learner.model.config
    texts = Workload(
        tokens_per_step=1000,
        tiles_per_step=0,
        sample_length=TYPICAL_LENGTH,
        trainable=stage.train,
        checkpointing=stage.gradient_checkpointing,
        learned_share=0.5,
    )
    tokens = estimate(config, texts).total_flops
    both = estimate(config, replace(texts, tiles_per_step=100)).total_flops
    per_token, per_tile = tokens / 1000, (both - tokens) / 100
    return lambda counts: per_token * (counts.tokens + counts.padding_tokens) + per_tile * counts.tiles


class Tally:
    """Sums what the steps since the last log line reported: losses, and answers right by source."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.sums: dict[str, list[torch.Tensor]] = defaultdict(list)
        self.right: dict[str, list[float]] = defaultdict(list)

    def add(self, notes: BatchNotes, outputs: dict[str, torch.Tensor]) -> None:
        for name, value in outputs.items():
            if value.ndim == 0 and name != "loss":
                self.sums[name].append(value.detach())
        if "correct" in outputs:
            for note, correct in zip(notes.samples, outputs["correct"].tolist(), strict=True):
                self.right[note.source].append(correct)

    def take(self) -> dict[str, float]:
        """The means since the last call, of this rank."""
        values = {name: round(float(torch.stack(parts).mean()), 4) for name, parts in sorted(self.sums.items())}
        for label, hits in sorted(self.right.items()):
            values[f"exact_{label}"] = round(sum(hits) / len(hits), 3)
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


def cpu_backend() -> str | None:
    """gloo where torchrun or accelerate started several processes on CPUs, else torch's own choice."""
    has_others = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return "gloo" if has_others and not torch.cuda.is_available() else None


def training_arguments(stage: Stage, run: Run, folder: Path) -> TrainingArguments:
    """Our recipe in transformers' terms; the number of steps and of micro-batches comes from the feed."""
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.batch_size if stage.source else stage.batches.micro_batch,
        learning_rate=stage.learning_rate,
        weight_decay=stage.weight_decay,
        max_grad_norm=stage.max_grad_norm,
        bf16=run.bf16,
        seed=run.seed,
        save_strategy="no",
        save_total_limit=2,
        logging_steps=run.log_steps,
        logging_first_step=True,
        disable_tqdm=True,
        report_to=list(run.report_to),
        logging_nan_inf_filter=False,  # the watch stops there
        remove_unused_columns=False,
        ignore_data_skip=True,
        use_cpu=not torch.cuda.is_available(),
        ddp_backend=cpu_backend(),
    )
