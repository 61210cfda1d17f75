"""Weights and optimiser states of ranks that share them, as the files of one process.

FSDP2 leaves each rank a slice of every tensor (a DTensor). What is written is whole all the same, under the names and
numbers of a training without shards, so a checkpoint goes on with any number of ranks, sharded or not. The trade:
rank 0 needs the memory of the host for all weights and moments while it writes (12 bytes a parameter), and others wait.

Leaves out how the shards come about (accelerate) and DeepSpeed's optimiser states, which stay in its own format.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer


def write_weights(module: nn.Module, whole: dict[str, torch.Tensor], path: Path) -> None:
    """Writes the `whole` tensors of a (sharded) module as safetensors, a tensor of several names once; those that
    `whole` lacks are left out.

    The file is what `safetensors.torch.load_model` takes. It gets its name when it is complete.
    """
    names: dict[int, str] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        names[id(tensor)] = min(name, names.get(id(tensor), name))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    kept = {name: whole[name].contiguous() for name in names.values() if name in whole}
    save_file(kept, part, metadata={"format": "pt"})
    part.rename(path)


def whole_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's `state_dict` with whole tensors on the CPU, on rank 0; nothing on the others. As `whole_state`."""
    is_first = dist.get_rank() == 0
    found: dict[str, torch.Tensor] = {}
    for name, tensor in module.state_dict().items():
        gathered = _whole(tensor) if isinstance(tensor, DTensor) else tensor
        if is_first:
            found[name] = gathered.cpu()
    return found


def whole_state(optimizer: Any) -> dict[str, Any]:
    """The optimiser's `state_dict` with whole tensors on the CPU, on rank 0; without tensors on the others.

    All ranks must call it, as all of them send their slices. One tensor at a time is whole on a device.
    """
    found: dict[str, Any] = optimizer.state_dict()
    is_first = dist.get_rank() == 0
    states: dict[int, dict[str, Any]] = {}
    for number, state in sorted(found["state"].items()):
        gathered = {name: _whole(value) if isinstance(value, DTensor) else value for name, value in state.items()}
        if is_first:
            states[number] = {
                name: value.cpu() if torch.is_tensor(value) else value for name, value in gathered.items()
            }
    return {**found, "state": states}


def load_whole_state(optimizer: Optimizer, found: dict[str, Any]) -> None:
    """Loads what `whole_state`, or the `state_dict` of one process, gave; each rank takes its slices of it."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    states = {
        number: {name: _sliced(value, params[number]) for name, value in state.items()}
        for number, state in found["state"].items()
    }
    optimizer.load_state_dict({**found, "state": states})


def _whole(tensor: DTensor) -> torch.Tensor:
    if tensor.dtype.itemsize > 1:
        return _arrived(tensor.full_tensor())
    # Not every backend sends FP8: as bytes it goes everywhere.
    local = tensor.to_local().view(torch.uint8)
    plain = DTensor.from_local(
        local, tensor.device_mesh, tensor.placements, shape=tensor.shape, stride=tensor.stride(), run_check=False
    )
    return _arrived(plain.full_tensor()).view(tensor.dtype)


def _arrived(tensor: torch.Tensor) -> torch.Tensor:
    """On a CPU a gathered tensor may still be a promise, which has no storage to write."""
    return tensor.wait() if isinstance(tensor, AsyncCollectiveTensor) else tensor


def _sliced(value: Any, param: torch.Tensor) -> Any:
    """The state of a sharded parameter is sharded alike, but for what counts its steps."""
    if not isinstance(param, DTensor) or not torch.is_tensor(value) or value.ndim == 0:
        return value
    local = value.to(param.device)
    return distribute_tensor(local, param.device_mesh, param.placements, src_data_rank=None)
