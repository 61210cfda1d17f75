"""FP8 moments under FSDP2: two processes take the steps of one, and their checkpoint resumes on one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from nvila.errors import ConfigError
from nvila.train.precision.expansion import CODES
from nvila.train.precision.optimizer import Fp8AdamW
from nvila.train.precision.optimizer_state import state_bytes


def make_model() -> nn.Sequential:
    """101 rows do not divide by two, and rows of 101 are one short group."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 101), nn.Tanh(), nn.Linear(101, 128), nn.Linear(128, 40))


def train(model: nn.Module, optimizer: Fp8AdamW, num_steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num_steps):
        optimizer.zero_grad()
        model(torch.randn(8, 256, generator=generator)).square().mean().backward()
        optimizer.step()


def run_shard(rank: int, folder: str) -> None:
    """One of two processes: trains four steps and saves weights (gathered), moments (sharded) and their bytes."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        mesh = init_device_mesh("cpu", (2,))
        model = fully_shard(make_model(), mesh=mesh)
        optimizer = Fp8AdamW(model.parameters(), lr=1e-2)
        train(model, optimizer, 4, seed=1)
        moment = optimizer.state[model[0].weight]["exp_avg"]
        assert isinstance(moment, DTensor)
        assert moment.to_local().dtype == CODES
        with pytest.raises(ConfigError, match="Shard"):
            Fp8AdamW([nn.Parameter(distribute_tensor(torch.zeros(64, 256), mesh, [Shard(1)]))])
        weights = [param.full_tensor() for param in model.parameters()]
        dcp.save({"optimizer": get_optimizer_state_dict(model, optimizer)}, checkpoint_id=f"{folder}/moments")
        torch.save((weights, state_bytes(optimizer)), f"{folder}/weights{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one_and_resume_on_one(tmp_path: Path) -> None:
    mp.spawn(run_shard, args=(str(tmp_path),), nprocs=2)
    (weights, bytes_0), (_, bytes_1) = (torch.load(tmp_path / f"weights{rank}.pt") for rank in range(2))
    model = make_model()
    optimizer = Fp8AdamW(model.parameters(), lr=1e-2)
    train(model, optimizer, 4, seed=1)
    num_steps_bytes = 4 * len(weights)  # each process counts its steps
    assert bytes_0 + bytes_1 == state_bytes(optimizer) + num_steps_bytes
    start = make_model()
    for param, other, first in zip(model.parameters(), weights, start.parameters(), strict=True):
        assert (param - other).norm() < 0.02 * (param - first).norm()

    resumed = make_model()
    with torch.no_grad():
        for param, saved in zip(resumed.parameters(), weights, strict=True):
            param.copy_(saved)
    again = Fp8AdamW(resumed.parameters(), lr=1e-2)
    state = {"optimizer": get_optimizer_state_dict(resumed, again)}
    dcp.load(state, checkpoint_id=tmp_path / "moments")
    set_optimizer_state_dict(resumed, again, optim_state_dict=state["optimizer"])
    for param, other in zip(model.parameters(), resumed.parameters(), strict=True):
        assert again.state[other]["exp_avg"].dtype == optimizer.state[param]["exp_avg"].dtype
        for mine, theirs in zip(optimizer.moments(param), again.moments(other), strict=True):
            assert (mine - theirs).norm() < 0.03 * mine.norm()
    train(model, optimizer, 3, seed=2)
    train(resumed, again, 3, seed=2)
    for param, other, first in zip(model.parameters(), resumed.parameters(), start.parameters(), strict=True):
        assert (param - other).norm() < 0.03 * (param - first).norm()
