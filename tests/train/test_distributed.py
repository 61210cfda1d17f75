"""Shards: FSDP2 on two processes gives the losses and weights of one, and its checkpoints go on with one and with two.

accelerate shards on GPUs and their like alone: `AcceleratorState` does not look at its FSDP settings where the ranks
are CPUs. So the processes here run this module's `train`, which sets that one switch; all that follows (accelerate's
sharding, torch's FSDP2 over gloo, our checkpoints) is what runs on GPUs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import DistributedType
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from tests.train.conftest import Backbones
from tests.train.tiny_runs import make_recipe, make_stage
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from nvila import config as config_files
from nvila.config import load
from nvila.train import stages
from nvila.train.precision.optimizer import Fp8AdamW
from nvila.train.recipe import Batches, Recipe
from nvila.train.sharded import load_whole_state, whole_state
from nvila.train.trainer import StageTrainer

ROOT = Path(__file__).parents[2]
STAGES = ("projector", "vision", "pretrain", "images")
"""Table 7's stages, by what they train; the fifth trains what the fourth does."""


@dataclass(frozen=True)
class Runs:
    """The same recipe, run to its end in folders of their own."""

    recipe: Recipe
    path: Path
    one: Path
    two: Path


@pytest.fixture(scope="module")
def runs(backbones: Backbones, mixture: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Table 7's stages, one after the other: by one process, and by two that share the weights."""
    root = tmp_path_factory.mktemp("sharded")
    # A small rate: AdamW's first steps have the size of the rate whatever the gradient's, even where that is all noise.
    batches = Batches(max_tokens=256, rows_per_step=4, window=16)
    shown = (make_stage(mixture, name, steps=4, learning_rate=1e-4, batches=batches) for name in STAGES)
    recipe = make_recipe(backbones, *shown, checkpoint_steps=2)
    found = Runs(recipe=recipe, path=root / "recipe.toml", one=root / "one", two=root / "two")
    found.path.write_text(config_files.dump(recipe), encoding="utf-8")
    stages.run_recipe(recipe, found.one)
    launch_sharded(found.path, found.two)
    return found


def launch(config: str, module: str, *arguments: str | Path) -> None:
    """Two processes with a configuration that users are given."""
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--main_process_port", "0"),
        *("--config_file", str(ROOT / "recipes" / "accelerate" / config), "-m", module, *map(str, arguments)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def launch_sharded(recipe: Path, *folders: Path) -> None:
    launch("fsdp2.yaml", "tests.train.test_distributed", recipe, *folders)


def train(recipe: Path, *folders: Path) -> None:
    """One rank: begins the runs in `folders`, or goes on with them. Refuses to train without shards."""
    shard_on_cpus()
    plain = StageTrainer.training_step

    def training_step(self: StageTrainer, model: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        assert all(isinstance(weight, DTensor) for weight in model.parameters())
        return plain(self, model, *args, **kwargs)

    StageTrainer.training_step = training_step  # type: ignore[method-assign]
    for folder in folders:
        stages.run_recipe(load(Recipe, recipe), folder)


def shard_on_cpus() -> None:
    """Has `AcceleratorState` heed its FSDP settings on CPUs as it does on GPUs."""
    plain = AcceleratorState.__init__

    def init(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        plain(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin

    AcceleratorState.__init__ = init


def logged(folder: Path, name: str) -> dict[tuple[str, int], float]:
    """What was logged last of every step of every stage."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {(entry["stage"], entry["step"]): entry[name] for entry in map(json.loads, lines) if name in entry}


def assert_alike(one: Path, two: Path) -> None:
    for name, close in (("loss", 1e-5), ("grad_norm", 1e-4)):
        first, second = logged(one, name), logged(two, name)
        assert first.keys() == second.keys()
        assert second == pytest.approx(first, rel=close)
    for stage in STAGES:
        weights, others = (load_file(run / stage / stages.FINAL_FILE) for run in (one, two))
        assert weights.keys() == others.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(others[name], weight, rtol=0.0, atol=1e-5)


@pytest.mark.slow
def test_two_processes_with_shards_train_as_one(runs: Runs) -> None:
    assert len(logged(runs.one, "loss")) == 4 * len(STAGES)
    assert_alike(runs.one, runs.two)


def stopped(run: Path, copy: Path) -> Path:
    """A copy of a run as a kill in its last stage leaves it, between the second step's checkpoint and the fourth's."""
    shutil.copytree(run, copy)
    last = copy / STAGES[-1]
    (last / stages.FINAL_FILE).unlink()
    shutil.rmtree(last / "checkpoint-4")
    lines = (copy / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["stage"] != STAGES[-1] or json.loads(line)["step"] < 3]
    (copy / "metrics.jsonl").write_text("".join(kept), encoding="utf-8")
    return copy


@pytest.mark.slow
def test_a_checkpoint_of_two_processes_goes_on_with_one(runs: Runs, tmp_path: Path) -> None:
    copy = stopped(runs.two, tmp_path / "two")
    stages.run_recipe(runs.recipe, copy)
    assert_alike(runs.one, copy)


@pytest.mark.slow
def test_checkpoints_go_on_with_two_processes(runs: Runs, tmp_path: Path) -> None:
    """Written by two and written by one."""
    copies = [stopped(run, tmp_path / run.name) for run in (runs.two, runs.one)]
    launch_sharded(runs.path, *copies)
    for copy in copies:
        assert_alike(runs.one, copy)


@pytest.mark.slow
def test_two_processes_of_zero2_train_as_one_and_go_on(runs: Runs, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    whole = tmp_path / "whole"
    launch("deepspeed_zero2.yaml", "nvila", "train", runs.path, "--out", whole)
    assert_alike(runs.one, whole)
    copy = stopped(whole, tmp_path / "copy")
    launch("deepspeed_zero2.yaml", "nvila", "train", runs.path, "--out", copy)
    assert_alike(runs.one, copy)


def test_fp8_moments_are_whole_on_the_way(tmp_path: Path) -> None:
    """Gathered from slices and cut into slices again, by a group of one rank."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        weight = torch.nn.Parameter(distribute_tensor(torch.ones(64, 256), mesh, [Shard(0)]))
        optimizer = Fp8AdamW([weight], lr=1e-2)
        weight.grad = distribute_tensor(torch.randn(64, 256), mesh, [Shard(0)])
        optimizer.step()
        state = whole_state(optimizer)
        assert state["state"][0]["exp_avg"].dtype == torch.float8_e4m3fn
        assert not any(isinstance(value, DTensor) for value in state["state"][0].values())
        again = Fp8AdamW([weight], lr=1e-2)
        load_whole_state(again, state)
        for mine, theirs in zip(optimizer.moments(weight), again.moments(weight), strict=True):
            assert torch.equal(mine, theirs)
        assert isinstance(again.state[weight]["exp_avg"], DTensor)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    train(*map(Path, sys.argv[1:]))
