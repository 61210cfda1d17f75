"""The state of `Fp8AdamW`: which tensors a parameter has, of what shape and dtype, fresh or from a checkpoint.

`exp_avg` and `exp_avg_sq` have the parameter's shape in E4M3; `_peak` and `_exponent` of each hold a bf16 for every
128 numbers of a row, a row being one entry of dimension 0. Groups that lie within rows stay whole when FSDP2 shards
dimension 0, so all of them are sharded like the parameter and a checkpoint resumes on another number of processes.
Parameters too small or too narrow to gain keep float32 moments under the same names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.distributed.tensor import zeros as sharded_zeros
from torch.optim.optimizer import Optimizer

from nvila.errors import CheckpointError
from nvila.train.precision.expansion import CODES, PEAKS, Groups, num_groups

MOMENTS = ("exp_avg", "exp_avg_sq")
# Biases and norms are the vectors that have fewer; longer ones are the flat partitions of ZeRO.
_MIN_VECTOR = 65_536
_MIN_MATRIX = 4096
_MIN_ROW = 16  # a group of 16 numbers takes 2.5 bytes each


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of all state tensors on this process, step counters included; for any optimizer."""
    tensors = [
        local_shard(value) for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def planned_state_bytes(params: Iterable[torch.Tensor], *, expansion: bool = True) -> int:
    """What `state_bytes` of an `Fp8AdamW` will be once all `params` had gradients; they may be on the meta device."""
    layouts = [state_layout(param, expansion) for param in params]
    return sum(shape.numel() * dtype.itemsize for layout in layouts for shape, dtype in layout.values())


def groups_of(state: dict[str, Any], name: str, row_length: int) -> Groups:
    """This process's part of the moment `name`, as rows of `row_length`; it shares memory with `state`."""
    codes, exponents = local_shard(state[name]), state.get(f"{name}_exponent")
    return Groups(
        codes.view(codes.numel() // row_length, row_length),
        local_shard(state[f"{name}_peak"]),
        None if exponents is None else local_shard(exponents),
    )


def row_length_of(param: torch.Tensor) -> int:
    """The numbers of one entry of dimension 0, or all of a vector."""
    return param.numel() // param.shape[0] if param.ndim > 1 else param.numel()


def _stays_float32(param: torch.Tensor) -> bool:
    """Whether FP8 would save nothing worth it, or its groups would be cut by sharding (vectors)."""
    if param.ndim < 2:
        return isinstance(param, DTensor) or param.numel() < _MIN_VECTOR
    return param.numel() < _MIN_MATRIX or row_length_of(param) < _MIN_ROW


def state_layout(param: torch.Tensor, expansion: bool) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and dtype of every state tensor; a DTensor's are those of the whole."""
    layout = {"step": (torch.Size(()), torch.float32)}
    if _stays_float32(param):
        return layout | dict.fromkeys(MOMENTS, (param.shape, torch.float32))
    length = row_length_of(param)
    grouped = torch.Size((param.numel() // length, num_groups(length)))
    for name in MOMENTS:
        layout[name] = (param.shape, CODES)
        layout[f"{name}_peak"] = (grouped, PEAKS)
        if expansion:
            layout[f"{name}_exponent"] = (grouped, PEAKS)
    return layout


def fresh_state(param: torch.Tensor, expansion: bool) -> dict[str, torch.Tensor]:
    """Zeros in the layout of `param`, beside it; the step is counted on the CPU, where reading it is free."""
    state = {}
    for name, (shape, dtype) in state_layout(param, expansion).items():
        if name == "step":
            state[name] = torch.zeros(shape, dtype=dtype)
        elif isinstance(param, DTensor):
            state[name] = sharded_zeros(shape, dtype=dtype, device_mesh=param.device_mesh, placements=param.placements)
        else:
            state[name] = torch.zeros(shape, dtype=dtype, device=param.device)
    return state


def saved_states(state_dict: dict[str, Any]) -> list[tuple[dict[str, Any], bool]]:
    """Every parameter's saved state and whether it is expanded. Raises CheckpointError for other optimizers' dicts."""
    saved = []
    for group in state_dict["param_groups"]:
        if "expansion" not in group:
            raise CheckpointError(
                "the optimizer state was not written by Fp8AdamW (its groups have no 'expansion'); "
                "load it into the optimizer that wrote it, or start this one afresh"
            )
        saved += [(state_dict["state"].get(key, {}), group["expansion"]) for key in group["params"]]
    return saved


def check_state(where: str, param: torch.Tensor, state: dict[str, Any], expansion: bool) -> None:
    """Raises CheckpointError unless `state` is empty or has exactly the tensors that `param` needs."""
    wanted = state_layout(param, expansion)
    found = {name: (value.shape, value.dtype) for name, value in state.items() if torch.is_tensor(value)}
    if not state or found == wanted:
        return
    name = next(name for name in (*wanted, *found) if wanted.get(name) != found.get(name))
    raise CheckpointError(
        f"{where}: the saved state has {name} as {_described(found.get(name))}, this model needs "
        f"{_described(wanted.get(name))}; load the state of the same model and optimizer, or start afresh"
    )


def _described(entry: tuple[torch.Size, torch.dtype] | None) -> str:
    return "nothing" if entry is None else f"{tuple(entry[0])} {entry[1]}"


def placed(name: str, value: torch.Tensor, param: torch.Tensor) -> torch.Tensor:
    """A copy where the state lives, so that the dict that was loaded from does not change with later steps."""
    return value.detach().to("cpu" if name == "step" else param.device, copy=True)


def local_shard(tensor: torch.Tensor) -> torch.Tensor:
    """This process's shard of a DTensor; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
