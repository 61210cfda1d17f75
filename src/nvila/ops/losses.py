"""Cross entropy of a linear language head, per token, and which kernel computes it.

Three kernels have one signature: `reference_token_losses` makes all logits and is what the others are compared with;
`chunked_token_losses` is ours, in plain torch; `liger_token_losses` is Liger's Triton kernel. `token_losses` picks
between the last two. Shifting targets against inputs, and the weights of answers, are the caller's.

Time tokens may have soft targets (NVILA's temporal localisation): a neighbouring second is nearly right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from nvila.errors import ConfigError, DataError
from nvila.ops.chunked import BYTES_PER_LOGIT, CPU_BYTES, GPU_BYTES, IGNORED, ChunkedTokenLosses, Plan, SoftTable

LIGER_VERSION = (0, 8, 5)
"""Oldest Liger we use. Releases before mid-2026 scale the head's per-token gradients by the first token's alone
(linkedin/Liger-Kernel, pull request 1298); their losses are right, so that nothing would show it."""


class TokenLosses(NamedTuple):
    """What a head makes of each token; 0 and False where the target is ignored."""

    losses: torch.Tensor
    """(N,) float32; gradients flow through it."""
    correct: torch.Tensor
    """(N,) bool: whether the likeliest token is the target."""


@dataclass(frozen=True, kw_only=True)
class SoftTargets:
    """Time tokens, whose neighbours count as nearly right.

    A target t among the ids first_id .. first_id + num_tokens - 1 becomes the probabilities
    exp(-(id - t)^2 / (2 std^2)) over these ids, normalised; other targets stay as they are. The ids are those of
    consecutive times. Raises ConfigError for ids or a spread that cannot be.
    """

    first_id: int
    num_tokens: int
    std: float = 1.0
    """Spread in tokens."""

    def __post_init__(self) -> None:
        if self.first_id < 0 or self.num_tokens < 1:
            raise ConfigError(
                f"time tokens start at id {self.first_id} and are {self.num_tokens}; "
                "give the id of the first, at least 0, and their number, at least 1"
            )
        if not (math.isfinite(self.std) and self.std > 0):
            raise ConfigError(f"the spread of time tokens is {self.std}; give a positive number of tokens")

    def table(self, device: torch.device) -> SoftTable:
        """The probabilities (num_tokens, num_tokens) float32 of all time tokens, a row for each target."""
        ids = torch.arange(self.num_tokens, dtype=torch.float32, device=device)
        table_KK = torch.exp((ids[:, None] - ids).square() / (-2 * self.std**2))
        return SoftTable(self.first_id, table_KK / table_KK.sum(dim=-1, keepdim=True))


# Sizes depend on the targets, which a compiled graph cannot hold; a compiled caller is split at the loss.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def token_losses(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    chunk: int | None = None,
    bias: torch.Tensor | None = None,
    soft_targets: SoftTargets | None = None,
) -> TokenLosses:
    """Cross entropy of every token under the head `hidden @ weight.T + bias`, without the logits of all tokens.

    hidden: (N, H); weight: (V, H); bias: (V,); of one floating dtype, or any under autocast, which then sets the dtype
    of matrix products; softmax and sums are float32. targets: (N,) int64, -100 where nothing is learned, which costs
    nothing. chunk: tokens whose logits exist at once, by default what 64 MiB hold, on a GPU 1 GiB; Liger ignores it.
    Every token may get its own upstream gradient; gradients of gradients are not there.

    On CUDA Liger computes it where liger-kernel (0.8.5 or newer) is installed and no target is soft; otherwise we do.
    Raises ConfigError where shapes or dtypes disagree or the time tokens lie outside the vocabulary, DataError for a
    target outside the vocabulary.
    """
    if soft_targets is None and uses_liger(hidden.device):
        return liger_token_losses(hidden, weight, targets, chunk=chunk, bias=bias)
    return chunked_token_losses(hidden, weight, targets, chunk=chunk, bias=bias, soft_targets=soft_targets)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    num_items: int | torch.Tensor | None = None,
    chunk: int | None = None,
    bias: torch.Tensor | None = None,
    soft_targets: SoftTargets | None = None,
) -> torch.Tensor:
    """The sum () float32 of `token_losses` over `num_items`, by default over the number of tokens that are learned.

    `num_items` is how many are learned in all of a step, where this is one part of it (accumulation, several ranks).
    Zero where nothing is learned. Arguments and errors are those of `token_losses`.
    """
    if num_items is None:
        num_items = (targets != IGNORED).sum().clamp(min=1)
    if soft_targets is None and hidden.requires_grad and uses_liger(hidden.device):
        return _liger_sum(hidden, weight, targets, bias) / num_items
    losses = token_losses(hidden, weight, targets, chunk=chunk, bias=bias, soft_targets=soft_targets).losses
    return losses.sum() / num_items


def reference_token_losses(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    chunk: int | None = None,
    bias: torch.Tensor | None = None,
    soft_targets: SoftTargets | None = None,
) -> TokenLosses:
    """As `token_losses`, by torch's own operations on the logits of all tokens; `chunk` changes nothing."""
    _check(hidden, weight, targets, bias, soft_targets)
    logits = F.linear(hidden, weight, bias).float()
    losses = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
    if soft_targets is not None:
        first_id, table = soft_targets.table(hidden.device)
        places = targets - first_id
        is_time = (places >= 0) & (places < len(table))
        wanted = torch.zeros_like(logits)
        wanted[:, first_id : first_id + len(table)] = table[places.clamp(0, len(table) - 1)]
        losses = torch.where(is_time, F.cross_entropy(logits, wanted, reduction="none"), losses)
    return TokenLosses(losses, logits.detach().argmax(dim=-1) == targets)


def chunked_token_losses(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    chunk: int | None = None,
    bias: torch.Tensor | None = None,
    soft_targets: SoftTargets | None = None,
) -> TokenLosses:
    """As `token_losses`, by our own kernel in plain torch; on any device."""
    dtype = _check(hidden, weight, targets, bias, soft_targets)
    budget = (CPU_BYTES if hidden.device.type == "cpu" else GPU_BYTES) // BYTES_PER_LOGIT
    plan = Plan(
        dtype=dtype,
        max_logits=budget if chunk is None else chunk * len(weight),
        soft=None if soft_targets is None else soft_targets.table(hidden.device),
        training=torch.is_grad_enabled(),
    )
    return TokenLosses(*ChunkedTokenLosses.apply(hidden, weight, bias, targets, plan))


def liger_token_losses(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    chunk: int | None = None,
    bias: torch.Tensor | None = None,
    soft_targets: SoftTargets | None = None,
) -> TokenLosses:
    """As `token_losses`, by Liger's kernel, which computes the logits again in backward as ours does.

    `chunk` changes nothing: Liger chooses its own. Raises ConfigError for soft targets too, which it has not.
    """
    if soft_targets is not None:
        raise ConfigError("Liger's cross entropy has no soft targets; use chunked_token_losses for time tokens")
    _check(hidden, weight, targets, bias, None)
    kept = (targets != IGNORED).nonzero()[:, 0]  # a host-device synchronisation, paid as in our own kernel
    if not len(kept):
        return chunked_token_losses(hidden, weight, targets, bias=bias)
    losses, predicted = _liger(hidden[kept], weight, targets[kept], bias, "none")
    all_losses = torch.zeros(len(targets), dtype=torch.float32, device=hidden.device).index_copy(0, kept, losses)
    correct = torch.zeros(len(targets), dtype=torch.bool, device=hidden.device)
    return TokenLosses(all_losses, correct.index_copy(0, kept, predicted == targets[kept]))


@cache
def liger_installed() -> bool:
    """Whether triton is here, and a liger-kernel whose per-token gradients are right."""
    if find_spec("triton") is None:
        return False
    try:
        found = version("liger_kernel")
    except PackageNotFoundError:
        return False
    return tuple(int(part) for part in found.split(".")[:3] if part.isdigit()) >= LIGER_VERSION


def uses_liger(device: torch.device) -> bool:
    """Whether Liger computes losses on `device`."""
    return device.type == "cuda" and liger_installed()


def _liger_sum(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """The sum () of the losses; gradients are made in the forward pass, so that no logits are computed twice.

    `hidden` must require a gradient: where it does not, Liger makes none for the head either. Liger scales the stored
    gradients in place, so that backward may run once only.
    """
    _check(hidden, weight, targets, bias, None)
    kept = (targets != IGNORED).nonzero()[:, 0]  # a host-device synchronisation, paid as in our own kernel
    if not len(kept):
        return chunked_token_losses(hidden, weight, targets, bias=bias).losses.sum()
    return _liger(hidden[kept], weight, targets[kept], bias, "sum")[0]


def _liger(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, bias: torch.Tensor | None, reduction: str
) -> tuple[torch.Tensor, Any]:
    """Losses, (N,) or their sum (), and the likeliest tokens (N,) where they are per token."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    per_token = reduction == "none"
    result = liger_fused_linear_cross_entropy(
        hidden,
        weight,
        targets,
        bias=bias,
        ignore_index=IGNORED,
        reduction=reduction,
        accum_dtype=torch.float32,
        return_predicted_tokens=per_token,
    )
    return (result.loss, result.predicted_tokens) if per_token else (result, None)


def _check(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    bias: torch.Tensor | None,
    soft_targets: SoftTargets | None,
) -> torch.dtype:
    """The dtype of matrix products. Raises ConfigError and DataError as `token_losses` says."""
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ConfigError(
            f"hidden states are {tuple(hidden.shape)} and the head's weight {tuple(weight.shape)}, where (N, H) and "
            "(V, H) are needed; gather the head first where it is sharded"
        )
    if targets.shape != hidden.shape[:1] or (bias is not None and bias.shape != weight.shape[:1]):
        found = None if bias is None else tuple(bias.shape)
        raise ConfigError(
            f"targets are {tuple(targets.shape)} and the bias {found}, where {len(hidden)} tokens and a vocabulary of "
            f"{len(weight)} are given; give one target a token and one number a word"
        )
    if soft_targets is not None and soft_targets.first_id + soft_targets.num_tokens > len(weight):
        last = soft_targets.first_id + soft_targets.num_tokens - 1
        raise ConfigError(f"the last time token has the id {last}, but the vocabulary ends at {len(weight) - 1}")
    outside = (targets != IGNORED) & ((targets < 0) | (targets >= len(weight)))
    # A host-device synchronisation, paid: the device's own report of a wrong target ends the process without its id.
    if outside.any():
        raise DataError(
            f"a target has the id {int(targets[outside][0])}, but the vocabulary ends at {len(weight) - 1}; "
            "use the tokenizer that belongs to the model"
        )
    return _product_dtype(hidden, weight)


def _product_dtype(hidden: torch.Tensor, weight: torch.Tensor) -> torch.dtype:
    """The dtype of matrix products: autocast's where it is on, otherwise the one that both have."""
    if torch.is_autocast_enabled(hidden.device.type):
        return torch.get_autocast_dtype(hidden.device.type)
    if hidden.dtype != weight.dtype:
        raise ConfigError(f"hidden states are {hidden.dtype} and the head {weight.dtype}; give both one, or autocast")
    return hidden.dtype
