"""Per-token cross entropy of a linear head, in pieces: the logits of all tokens never exist at once.

Forward goes by tokens, whole rows at a time, and keeps one number a token (the log of the softmax's sum). Backward
computes the logits again: four matrix products where plain cross entropy takes three, in exchange for N x V numbers.
With a frozen head the forward pass makes the gradient of the hidden states at once, and nothing is computed twice.

torch has a chunked `linear_cross_entropy` since 2.13; it knows neither soft targets nor which tokens were right, and
computes ignored tokens too.

Backward goes by tiles of tokens x vocabulary that are near square. A chunk of few tokens against the whole vocabulary
would be simpler, but each adds to all of the weight's gradient: on a CPU that took three times as long as its matrix
product (128 tokens, 32k x 512).

Letters: N tokens, M tokens that are not ignored, T tokens of a piece, V vocabulary, R vocabulary rows of a tile,
H width, K time tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

IGNORED = -100
"""The target of a token that is not learned; the same number as in torch's cross entropy."""
BYTES_PER_LOGIT = 10
"""What a piece holds for each of its logits: the product in 16 bits, and logits and log-softmax in float32."""
CPU_BYTES = 64 * 2**20
GPU_BYTES = 2**30
"""Most memory of a piece. A GPU reads the head's weight for every piece of the forward pass, so its pieces are
larger."""


class SoftTable(NamedTuple):
    """Targets that are spread over the time tokens: a target first_id + i has the probabilities `table_KK[i]`."""

    first_id: int
    table_KK: torch.Tensor

    def rows(self, targets_T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which targets are time tokens (T,) bool, and the probabilities (T, K) of those; 0 for the others."""
        places = targets_T - self.first_id
        soft_T = (places >= 0) & (places < len(self.table_KK))
        return soft_T, self.table_KK[places.clamp(0, len(self.table_KK) - 1)] * soft_T[:, None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How one call is computed."""

    dtype: torch.dtype
    """Of the operands of matrix products; everything else is float32."""
    max_logits: int
    """Most logits of a piece; at least one token's row in forward."""
    soft: SoftTable | None = None
    training: bool = True
    """Whether gradients may be asked for later."""

    def tokens(self, num_rows: int) -> int:
        """Tokens of a piece in the forward pass, against `num_rows` rows of the vocabulary."""
        return max(1, self.max_logits // num_rows)

    def tile(self, num_tokens: int, num_rows: int) -> tuple[int, int]:
        """Tokens and vocabulary rows of a tile in the backward pass.

        All tokens where the tile stays no flatter than 4 to 1: then each row of the weight's gradient is written once.
        """
        tokens = max(1, min(num_tokens, 2 * math.isqrt(self.max_logits)))
        return tokens, max(1, min(num_rows, self.max_logits // tokens))


class ChunkedTokenLosses(torch.autograd.Function):
    """(hidden (N, H), weight (V, H), bias (V,) or None, targets (N,), plan) to losses (N,) float32, correct (N,)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        plan: Plan,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # A host-device synchronisation, paid: sizes depend on how many tokens are learned, and the others cost nothing.
        kept_M = (targets != IGNORED).nonzero()[:, 0]
        losses_N = torch.zeros(len(targets), dtype=torch.float32, device=hidden.device)
        correct_N = torch.zeros(len(targets), dtype=torch.bool, device=hidden.device)
        lse_M = torch.empty(len(kept_M), dtype=torch.float32, device=hidden.device)
        for_hidden, for_weight, for_bias = (plan.training and need for need in ctx.needs_input_grad[:3])
        early_MH = None
        if for_hidden and not (for_weight or for_bias):
            early_MH = torch.empty(len(kept_M), hidden.shape[1], dtype=plan.dtype, device=hidden.device)
        weight_VH = weight.to(plan.dtype)
        bias_V = None if bias is None else bias.to(plan.dtype)
        num_tokens = min(plan.tokens(len(weight)), len(kept_M))
        room = _Room(plan, num_tokens * len(weight), hidden.device)
        logp = torch.empty_like(room.wide)
        for part in _slices(len(kept_M), max(1, num_tokens)):
            picked_T = kept_M[part]
            targets_T = targets[picked_T]
            logits_TV = room.logits(hidden[picked_T].to(plan.dtype), weight_VH, bias_V)
            losses_N[picked_T], correct_N[picked_T], lse_M[part] = _row_losses(logits_TV, targets_T, plan.soft, logp)
            if early_MH is not None:
                errors_TV = room.operand(_errors(logits_TV, targets_T, lse_M[part], 0, plan.soft))
                torch.mm(errors_TV, weight_VH, out=early_MH[part])
        ctx.save_for_backward(hidden, weight, bias, targets, kept_M, lse_M, early_MH)
        ctx.plan = plan
        ctx.mark_non_differentiable(correct_N)
        return losses_N, correct_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_N: torch.Tensor, _correct: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, targets, kept_M, lse_M, early_MH = ctx.saved_tensors
        upstream_M = upstream_N[kept_M].float()
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        if early_MH is not None:
            grad_hidden = torch.zeros_like(hidden)
            grad_hidden[kept_M] = (early_MH * upstream_M[:, None]).to(hidden.dtype)
            return grad_hidden, None, None, None, None
        totals = _Gradients(
            hidden=torch.zeros_like(hidden) if for_hidden else None,
            weight=torch.zeros_like(weight, dtype=torch.float32) if for_weight else None,
            bias=torch.zeros_like(bias, dtype=torch.float32) if for_bias else None,
        )
        tile = ctx.plan.tile(len(kept_M), len(weight))
        room = _Room(ctx.plan, tile[0] * tile[1], hidden.device)
        for part in _slices(len(kept_M), tile[0]):
            piece = _Piece(kept_M[part], targets[kept_M[part]], lse_M[part], upstream_M[part])
            _add_gradients(totals, piece, hidden, weight, bias, tile[1], room)
        return (
            totals.hidden,
            None if totals.weight is None else totals.weight.to(weight.dtype),
            None if totals.bias is None else totals.bias.to(bias.dtype),
            None,
            None,
        )


class _Gradients(NamedTuple):
    """Sums over the tokens so far; those of the head in float32. None is not asked for."""

    hidden: torch.Tensor | None
    weight: torch.Tensor | None
    bias: torch.Tensor | None


class _Piece(NamedTuple):
    """T learned tokens: their places among all, targets, log-sums of the softmax, and upstream gradients."""

    places_T: torch.Tensor
    targets_T: torch.Tensor
    lse_T: torch.Tensor
    upstream_T: torch.Tensor


class _Room:
    """Memory that all pieces of a pass share: fresh pages for every piece would cost as much as the softmax."""

    def __init__(self, plan: Plan, num_logits: int, device: torch.device) -> None:
        self.plan = plan
        self.wide = torch.empty(num_logits, dtype=torch.float32, device=device)
        """Logits in float32."""
        self.narrow = self.wide
        """Logits, and later their gradients, in the dtype of the products."""
        if plan.dtype != torch.float32:
            self.narrow = torch.empty(num_logits, dtype=plan.dtype, device=device)

    def logits(self, hidden_TH: torch.Tensor, weight_RH: torch.Tensor, bias_R: torch.Tensor | None) -> torch.Tensor:
        """The logits (T, R) in float32, rounded to the dtype of the products before, as under autocast."""
        shape = (len(hidden_TH), len(weight_RH))
        narrow_TR = self.narrow[: math.prod(shape)].view(shape)
        if bias_R is None:
            torch.mm(hidden_TH, weight_RH.t(), out=narrow_TR)
        else:
            torch.addmm(bias_R, hidden_TH, weight_RH.t(), out=narrow_TR)
        if self.narrow is self.wide:
            return narrow_TR
        return self.wide[: math.prod(shape)].view(shape).copy_(narrow_TR)

    def operand(self, errors_TR: torch.Tensor) -> torch.Tensor:
        """The same numbers (T, R) in the dtype of the products."""
        if self.narrow is self.wide:
            return errors_TR
        return self.narrow[: errors_TR.numel()].view(errors_TR.shape).copy_(errors_TR)


def _slices(length: int, step: int) -> Iterator[slice]:
    """0..length in pieces of `step`, the last one shorter."""
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _row_losses(
    logits_TV: torch.Tensor, targets_T: torch.Tensor, soft: SoftTable | None, logp: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Losses (T,), whether the likeliest token is the target (T,) bool, and the log-sums of the softmax (T,).

    `logp` is memory for as many numbers as there are logits.
    """
    top_T, best_T = logits_TV.max(dim=-1)
    logp_TV = logp[: logits_TV.numel()].view(logits_TV.shape)
    torch.log_softmax(logits_TV, dim=-1, out=logp_TV)
    losses_T = -logp_TV.gather(1, targets_T[:, None])[:, 0]
    if soft is not None:
        soft_T, table_TK = soft.rows(targets_T)
        window_TK = logp_TV[:, soft.first_id : soft.first_id + table_TK.shape[1]]
        losses_T = torch.where(soft_T, -(table_TK * window_TK).sum(dim=-1), losses_T)
    return losses_T, best_T == targets_T, top_T - logp_TV.gather(1, best_T[:, None])[:, 0]


def _errors(
    logits_TR: torch.Tensor, targets_T: torch.Tensor, lse_T: torch.Tensor, first_row: int, soft: SoftTable | None
) -> torch.Tensor:
    """Softmax less target probability (T, R) for the vocabulary from `first_row` on; overwrites the logits."""
    errors_TR = logits_TR.sub_(lse_T[:, None]).exp_()
    num_rows = errors_TR.shape[1]
    columns_T = targets_T - first_row
    hard_T = (columns_T >= 0) & (columns_T < num_rows)
    if soft is not None:
        soft_T, table_TK = soft.rows(targets_T)
        hard_T &= ~soft_T
        start = max(soft.first_id - first_row, 0)
        stop = min(soft.first_id + table_TK.shape[1] - first_row, num_rows)
        if start < stop:
            shift = first_row - soft.first_id
            errors_TR[:, start:stop] -= table_TK[:, start + shift : stop + shift]
    # Every row subtracts, 0 where the target lies elsewhere: picking the rows would cost a synchronisation.
    tokens_T = torch.arange(len(targets_T), device=targets_T.device)
    errors_TR[tokens_T, columns_T.clamp(0, num_rows - 1)] -= hard_T.float()
    return errors_TR


def _add_gradients(
    totals: _Gradients,
    piece: _Piece,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    num_rows: int,
    room: _Room,
) -> None:
    """Add what the tokens of `piece` give to the gradients, `num_rows` rows of the vocabulary at a time.

    The upstream gradient scales the (T, H) sides of both products instead of the (T, R) errors between them.
    """
    plan = room.plan
    scale_T1 = piece.upstream_T[:, None]
    hidden_TH = hidden[piece.places_T].to(plan.dtype)
    scaled_TH = (hidden_TH * scale_T1).to(plan.dtype)
    sums_TH = torch.zeros_like(hidden_TH, dtype=torch.float32)
    for rows in _slices(len(weight), num_rows):
        weight_RH = weight[rows].to(plan.dtype)
        bias_R = None if bias is None else bias[rows].to(plan.dtype)
        logits_TR = room.logits(hidden_TH, weight_RH, bias_R)
        errors_TR = _errors(logits_TR, piece.targets_T, piece.lse_T, rows.start, plan.soft)
        if totals.bias is not None:
            totals.bias[rows].addmv_(errors_TR.t(), piece.upstream_T)
        operand_TR = room.operand(errors_TR)
        if totals.hidden is not None:
            _add_product(sums_TH, operand_TR, weight_RH)
        if totals.weight is not None:
            _add_product(totals.weight[rows], operand_TR.t(), scaled_TH)
    if totals.hidden is not None:
        totals.hidden[piece.places_T] = (sums_TH * scale_T1).to(hidden.dtype)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """total += left @ right, the sum in float32; a product of 16-bit operands is rounded to them first."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)
