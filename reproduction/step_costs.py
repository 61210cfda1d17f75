"""What a training step takes, by its own tensors: bytes of weights, gradients, optimiser and activations; seconds.

Bytes are those of the tensors that a real step holds, each storage once, so that they mean the same on a CPU and on a
GPU: weights in the form they are kept in (4-bit ones packed), gradients after the backward pass, the optimiser's states
after its step, activations as autograd keeps them at the end of the forward pass (copies that autocast makes of learned
weights among them). Left out: what is there for a moment within a layer, and the allocator's fragments.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nvila.train import stages
from nvila.train.learner import Learner
from nvila.train.precision.saved import held_bytes
from nvila.train.recipe import Recipe
from nvila.train.start import load_or_build_tokenizer
from nvila.train.trainer import ADAM_BETAS, parameter_groups

Batch = Mapping[str, Any]


class Stepper:
    """The learner of a recipe with an AdamW as the trainer has it, and one whole step."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        """`folder` takes the tokenizer."""
        stage = recipe.stage[0]
        tokenizer = load_or_build_tokenizer(folder / "tokenizer", None, recipe.model)
        torch.manual_seed(recipe.run.seed)
        self.learner: Learner = stages.new_learner(recipe, tokenizer, ())
        stages.prepare(self.learner, stage, adapters=recipe.adapters)
        self.learner.train()
        self.bf16 = recipe.run.bf16
        self.weights = [weight for weight in self.learner.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(parameter_groups(self.learner, stage), betas=ADAM_BETAS, fused=True)

    def loss(self, batch: Batch) -> torch.Tensor:
        """Forward, as the trainer runs it."""
        device = self.weights[0].device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            loss: torch.Tensor = self.learner(**{key: value for key, value in batch.items() if key != "notes"})["loss"]
        return loss

    def update(self) -> None:
        """Clipping, AdamW, and gradients set to none."""
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def memory(self, batch: Batch) -> dict[str, int]:
        """Bytes by component of a real step on `batch`, which it takes."""
        model = self.learner.model
        own = [*model.parameters(), *model.buffers()]
        loss, activations = held_bytes(lambda: self.loss(batch), own)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        states = [value for state in self.optimizer.state.values() for name, value in state.items() if name != "step"]
        found = {
            "weights": stored_bytes(own),
            "gradients": stored_bytes(gradients),
            "optimizer": stored_bytes(states),
            "activations": activations,
        }
        self.optimizer.zero_grad()
        return found

    def seconds(self, batch: Batch) -> float:
        """Of one step."""
        began = time.perf_counter()
        self.loss(batch).backward()  # type: ignore[no-untyped-call]
        self.update()
        return time.perf_counter() - began


def stored_bytes(tensors: Sequence[torch.Tensor]) -> int:
    """Bytes of the storages of tensors, each once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def iterations_per_second(steppers: Mapping[str, Stepper], batches: Sequence[Batch]) -> dict[str, float]:
    """One over the median seconds of a step; steppers take turns batch by batch, after one round that is not timed."""
    taken: dict[str, list[float]] = {name: [] for name in steppers}
    for number, batch in enumerate((batches[0], *batches)):
        for name, stepper in steppers.items():
            seconds = stepper.seconds(batch)
            if number:
                taken[name].append(seconds)
    return {name: round(1 / statistics.median(seconds), 3) for name, seconds in taken.items()}
