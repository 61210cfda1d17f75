"""Random hidden states, head and targets, and what a kernel makes of them; what tests of losses share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nvila.ops.losses import SoftTargets, TokenLosses

VOCABULARY, WIDTH = 50, 8
TIMES = SoftTargets(first_id=13, num_tokens=17, std=1.5)
Inputs = dict[str, torch.Tensor]


def make_inputs(
    num_tokens: int,
    *,
    seed: int = 0,
    vocabulary: int = VOCABULARY,
    width: int = WIDTH,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Inputs:
    """hidden, weight and bias that ask for gradients, and targets of which about a third are ignored."""
    draw = torch.Generator().manual_seed(seed)
    targets = torch.randint(vocabulary, (num_tokens,), generator=draw)
    targets[torch.rand(num_tokens, generator=draw) < 0.3] = -100
    leaves = {
        "hidden": torch.randn(num_tokens, width, generator=draw),
        "weight": torch.randn(vocabulary, width, generator=draw),
        "bias": torch.randn(vocabulary, generator=draw),
    }
    made = {name: value.to(device, dtype).requires_grad_() for name, value in leaves.items()}
    return {**made, "targets": targets.to(device)}


def results(
    function: Callable[..., TokenLosses], inputs: Inputs, upstream: torch.Tensor, **options: Any
) -> dict[str, torch.Tensor]:
    """Losses, correctness, and the gradients of what asks for one, for a random upstream gradient per token."""
    leaves = {name: value.detach().requires_grad_(value.requires_grad) for name, value in inputs.items()}
    found = function(**leaves, **options)
    wanted = {name: value for name, value in leaves.items() if value.requires_grad}
    gradients = torch.autograd.grad(found.losses, list(wanted.values()), upstream)
    named = dict(zip(wanted, gradients, strict=True))
    return {"losses": found.losses.detach(), "correct": found.correct, **named}


def upstream_of(inputs: Inputs, seed: int = 1) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(len(inputs["targets"]), generator=draw).to(inputs["targets"].device)
