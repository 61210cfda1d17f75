"""AdamW whose two moments lie in FP8: 2.06 bytes a parameter instead of 8, after COAT (arXiv 2410.19313, section 4).

`Fp8AdamW` is `torch.optim.AdamW` in all else: decoupled weight decay, bias correction and the update itself in
float32 from the moments before they are stored. Each moment is E4M3 with a bf16 peak and a bf16 exponent for every
128 numbers (`expansion.py`, `optimizer_state.py`): 2 x (1 + 4 / 128) bytes. Without `expansion` the exponents fall
away (2.03 bytes) and the moments are two to four times as wrong.

First moments are rounded to nearest, as their average moves by a tenth a step; second moments by offsets that are even
over the steps, and never to zero. E5M2 for the second moment was tried and is no better once it is expanded.

Trades: stretching costs two logarithms and four exponentials a parameter and, unless `compiled`, dozens of passes over
memory, so a step is many times slower than a fused AdamW's (`benchmarks/bench_fp8_optimizer.py`). Biases, norms and
matrices of under 4,096 numbers keep float32 moments, in a real model under a thousandth of all.

A gradient that is not finite is refused before anything is changed: in FP8 it would take its whole group along.
Master weights and stochastic rounding of bf16 weights are the trainer's affair.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.nn.utils import get_total_norm
from torch.optim.optimizer import Optimizer, ParamsT

from nvila.errors import ConfigError, NVILAError
from nvila.train.precision.expansion import CODES, Groups, even_offsets, pieces
from nvila.train.precision.optimizer_state import (
    MOMENTS,
    check_state,
    fresh_state,
    groups_of,
    local_shard,
    placed,
    row_length_of,
    saved_states,
)

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Numbers worked on at a time: on a CPU what its cache holds, elsewhere what keeps the float32 copies under 1 GB.
_PIECE_CPU, _PIECE = 2**18, 2**24


class Fp8AdamW(Optimizer):
    """AdamW with `exp_avg` and `exp_avg_sq` in E4M3, of the parameter's shape.

    params: float32, bf16 or f16, dense, on any device; DTensors sharded along dimension 0 or replicated. lr, betas,
    eps, weight_decay as in `torch.optim.AdamW`; `expansion` stretches the dynamic range. All of these may differ
    between groups. `compiled` runs the step through torch.compile: one pass over memory in place of dozens, after a
    compilation at the first step; its last digits differ from the plain step's.

    Raises ConfigError for values out of range, other dtypes and other shardings.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        expansion: bool = True,
        compiled: bool = False,
    ) -> None:
        self.compiled = compiled
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "expansion": expansion}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's. Raises ConfigError as the class says."""
        super().add_param_group(param_group)
        try:
            _check_group(self.param_groups[-1])
        except ConfigError:
            self.param_groups.pop()
            raise

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "compiled": self.compiled}

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient; the closure's loss, if one is given.

        Raises NVILAError for gradients that are sparse, not finite, or too large for float32 to square; parameters
        and moments are then as they were.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._refuse_bad_gradients()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, local_shard(param.grad), group)
        return loss

    def moments(self, param: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both moments of `param` as float32, of its shape (of its local shard's where it is a DTensor)."""
        state, shape = self.state[param], local_shard(param).shape
        if state["exp_avg"].dtype != CODES:
            return local_shard(state["exp_avg"]), local_shard(state["exp_avg_sq"])
        first, second = (groups_of(state, name, row_length_of(param)).read() for name in MOMENTS)
        return first.view(shape), second.view(shape)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but no tensor changes its dtype on the way: torch would cast FP8 to the parameter's.

        Raises CheckpointError for the state of another optimizer or of other shapes; nothing is loaded then.
        """
        saved = saved_states(state_dict)
        params = _numbered(self.param_groups)
        for (where, param), (state, expansion) in zip(params, saved, strict=False):
            check_state(where, param, state, expansion)
        super().load_state_dict({**state_dict, "state": {}})  # raises where the groups do not match
        for (_, param), (state, _) in zip(params, saved, strict=True):
            if state:
                self.state[param] = {name: placed(name, value, param) for name, value in state.items()}

    def _update(self, param: torch.Tensor, grad: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if not state:
            state.update(fresh_state(param, group["expansion"]))
        state["step"] += 1
        if state["exp_avg"].dtype == CODES:
            _advance_fp8(local_shard(param), grad, state, row_length_of(param), group, self.compiled)
        else:
            first, second = (local_shard(state[name]) for name in MOMENTS)
            weights = local_shard(param)
            weights.copy_(adamw_update(weights.float(), grad.float(), first, second, _step(state), group))

    def _refuse_bad_gradients(self) -> None:
        grads = {}
        for where, param in _numbered(self.param_groups):
            if param.grad is None:
                continue
            if param.grad.is_sparse:
                raise NVILAError(f"{where}: its gradient is sparse; build the embedding with sparse=False")
            if local_shard(param.grad).numel():
                grads[where] = local_shard(param.grad)
        # The one wait for the device in a step: whether the largest square is finite.
        if grads and not _squarable(get_total_norm(list(grads.values()), math.inf)):
            where = next(where for where, grad in grads.items() if not _squarable(grad.abs().max()))
            raise NVILAError(
                f"{where}: its gradient of shape {tuple(grads[where].shape)} holds a NaN, an infinity, or a number "
                "that float32 cannot square; nothing was updated. Clip gradients, lower the learning rate, or leave "
                "the batch out"
            )


def adamw_update(
    weights: torch.Tensor,
    grad: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    step: int,
    group: dict[str, Any],
) -> torch.Tensor:
    """AdamW (arXiv 1711.05101, algorithm 2) on float32 tensors of one shape; the new weights.

    `first` and `second` are moved in place; `step` counts from 1.
    """
    beta1, beta2 = group["betas"]
    first.lerp_(grad, 1 - beta1)
    second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    lr = float(group["lr"])
    return weights * (1 - lr * group["weight_decay"]) - lr * _direction(first, second, step, group)


@dataclass(frozen=True, kw_only=True)
class MomentErrors:
    """How far moments are from float32's, as ||ours - theirs|| / ||theirs|| over all parameters.

    `update` is that of what moves the weights, m / (sqrt(v) + eps) with bias correction; `worst_update` is the
    largest difference of one number of it (1 is a full step of the learning rate).
    """

    first: float
    second: float
    update: float
    worst_update: float


@torch.no_grad()
def moment_errors(optimizer: Fp8AdamW, reference: torch.optim.AdamW) -> MomentErrors:
    """The errors of `optimizer` against `reference`, which had the same gradients for parameters of the same order.

    Parameters that never had a gradient do not count. Raises ConfigError where the two hold other parameters or took
    other numbers of steps.
    """
    ours, theirs = _numbered(optimizer.param_groups), _numbered(reference.param_groups)
    if [param.shape for _, param in ours] != [param.shape for _, param in theirs]:
        raise ConfigError(f"{len(ours)} parameters against {len(theirs)}, or of other shapes: compare equal models")
    groups = [group for group in optimizer.param_groups for _ in group["params"]]
    squares = torch.zeros(2, 3, dtype=torch.float64)
    worst = 0.0
    for (where, param), (_, other), group in zip(ours, theirs, groups, strict=True):
        step, expected = (
            _step(owner.state.get(tensor, {})) for owner, tensor in ((optimizer, param), (reference, other))
        )
        if step != expected:
            raise ConfigError(f"{where}: {step} steps against {expected}; compare after equally many")
        if step == 0:
            continue
        right = (reference.state[other]["exp_avg"].float(), reference.state[other]["exp_avg_sq"].float())
        pairs = zip(
            _with_direction(optimizer.moments(param), step, group), _with_direction(right, step, group), strict=True
        )
        for column, (value, truth) in enumerate(pairs):
            error = (value - truth).double()
            squares[:, column] += torch.stack([error.square().sum(), truth.double().square().sum()]).cpu()
        worst = max(worst, error.abs().max().item())
    first, second, update = (squares[0] / squares[1]).sqrt().tolist()
    return MomentErrors(first=first, second=second, update=update, worst_update=worst)


def _advance_fp8(
    param: torch.Tensor,
    grad: torch.Tensor,
    state: dict[str, Any],
    row_length: int,
    group: dict[str, Any],
    compiled: bool,
) -> None:
    """One step of a local `param` and its moments in place, piece by piece: float32 copies exist of a piece only."""
    grid = (param.numel() // row_length, row_length)
    weights, grads = param.reshape(grid), grad.reshape(grid)
    stores = [groups_of(state, name, row_length) for name in MOMENTS]
    options = {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")}
    advance = _compiled_piece() if compiled else _advance_piece
    step = _step(state)
    offsets = even_offsets(step, param.device)
    for piece in pieces(*grid, _PIECE_CPU if param.device.type == "cpu" else _PIECE):
        part, part_grad = weights[piece.rows, piece.columns], grads[piece.rows, piece.columns]
        first, second = (store.cut(piece) for store in stores)
        advance(part, part_grad, first, second, step, offsets, options)
    if not param.is_contiguous():  # then `weights` may be a copy
        param.copy_(weights.view(param.shape))


def _advance_piece(
    weights: torch.Tensor,
    grad: torch.Tensor,
    first: Groups,
    second: Groups,
    step: int,
    offsets: torch.Tensor,
    options: dict[str, Any],
) -> None:
    m, v = first.read(), second.read()
    weights.copy_(adamw_update(weights.float(), grad.float(), m, v, step, options))
    first.write(m)
    second.write(v, spare_octaves=2, never_zero=True, offsets=offsets)


@functools.cache
def _compiled_piece() -> Callable[..., None]:
    """One compilation serves all shapes and steps."""
    return torch.compile(_advance_piece, dynamic=True)


def _direction(first: torch.Tensor, second: torch.Tensor, step: int, group: dict[str, Any]) -> torch.Tensor:
    """m / (sqrt(v) + eps), both corrected for their start at zero; the corrections are Python's doubles."""
    beta1, beta2 = group["betas"]
    root = second.sqrt().div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
    return first / root.mul_(1 - beta1**step)


def _with_direction(
    moments: tuple[torch.Tensor, torch.Tensor], step: int, group: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (*moments, _direction(*moments, step, group))


def _check_group(group: dict[str, Any]) -> None:
    """Raises ConfigError for values out of range and for parameters that are not supported."""
    for name in ("lr", "eps", "weight_decay"):
        if not group[name] >= 0:
            raise ConfigError(f"Fp8AdamW: {name} is {group[name]}; it must be at least 0")
    if not all(0 <= beta < 1 for beta in group["betas"]):
        raise ConfigError(f"Fp8AdamW: betas are {group['betas']}; both must be at least 0 and below 1")
    for where, param in _numbered([group]):
        if param.dtype not in _DTYPES:
            raise ConfigError(f"{where}: dtype {param.dtype}; Fp8AdamW takes {', '.join(map(str, _DTYPES))}")
        if isinstance(param, DTensor) and not set(param.placements) <= {Shard(0), Replicate()}:
            raise ConfigError(f"{where}: placements {param.placements}; Fp8AdamW takes Shard(0) and Replicate()")


def _numbered(groups: list[dict[str, Any]]) -> list[tuple[str, torch.Tensor]]:
    """Every parameter with the name that an error calls it by."""
    numbered = []
    for index, group in enumerate(groups):
        names = group.get("param_names") or [
            f"parameter {place} of group {index}" for place in range(len(group["params"]))
        ]
        numbered += list(zip(names, group["params"], strict=True))
    return numbered


def _step(state: dict[str, Any]) -> int:
    return int(state["step"].item()) if state else 0


def _squarable(norm: torch.Tensor) -> bool:
    return bool(norm.float().square().isfinite())
