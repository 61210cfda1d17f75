"""AdamW with FP8 moments: its numbers, its bytes, its state on disk, and what it refuses."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import make_config
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from nvila.errors import CheckpointError, ConfigError, NVILAError
from nvila.model import NVILAForConditionalGeneration
from nvila.train.precision.expansion import CODES
from nvila.train.precision.optimizer import Fp8AdamW, moment_errors
from nvila.train.precision.optimizer_state import planned_state_bytes, state_bytes


def make_mlp(seed: int = 0) -> nn.Sequential:
    """66 thousand parameters; rows of 200 end in a short group."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, 128))


def run_side_by_side(num_steps: int, *, spread: float = 0.0, **options: Any) -> tuple[Fp8AdamW, torch.optim.AdamW, Any]:
    """Float32 AdamW trains an MLP; ours is given the same gradients. Inputs span `spread` powers of ten."""
    model, twin, teacher = make_mlp(), make_mlp(), make_mlp(1)
    reference = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    ours = Fp8AdamW(twin.parameters(), lr=1e-3, weight_decay=0.1, **options)
    scales = 10 ** (-spread * torch.rand(200))
    for _ in range(num_steps):
        inputs = torch.randn(32, 200) * scales
        reference.zero_grad()
        F.mse_loss(model(inputs), teacher(inputs).detach()).backward()
        for param, other in zip(model.parameters(), twin.parameters(), strict=True):
            other.grad = param.grad
        reference.step()
        ours.step()
    return ours, reference, (model, twin)


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([param.detach().flatten() for param in model.parameters()])


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


# --- AdamW ---


def test_fifty_steps_follow_float32() -> None:
    _, _, (model, twin) = run_side_by_side(50)
    moved = flat(model) - flat(make_mlp())
    assert (flat(twin) - flat(model)).norm() < 0.03 * moved.norm()


def test_small_tensors_are_adamw_to_the_last_digits_with_schedules_and_groups() -> None:
    def train(kind: type[torch.optim.Optimizer]) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 5))
        groups = [{"params": model[0].parameters(), "lr": 3e-3}, {"params": model[2].parameters(), "weight_decay": 0.3}]
        optimizer = kind(groups, lr=1e-2, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.0)
        scheduler = LambdaLR(optimizer, lambda step: 1 / (1 + step))
        for _ in range(30):
            optimizer.zero_grad()
            optimizer.step(lambda: F.mse_loss(model(torch.randn(8, 20)), torch.ones(8, 5)).backward())
            scheduler.step()
        return flat(model)

    torch.testing.assert_close(train(Fp8AdamW), train(torch.optim.AdamW), rtol=1e-5, atol=1e-6)


def test_a_convex_problem_ends_at_the_same_loss() -> None:
    torch.manual_seed(0)
    inputs, noise, truth = torch.randn(512, 128), torch.randn(512, 64), torch.randn(64, 128)
    targets = inputs @ truth.T + noise

    def solve(kind: type[torch.optim.Optimizer]) -> float:
        weights = nn.Parameter(torch.zeros(64, 128))
        optimizer = kind([weights], lr=0.1)
        scheduler = LambdaLR(optimizer, lambda step: 1 - step / 200)
        for _ in range(200):
            optimizer.zero_grad()
            loss = F.mse_loss(inputs @ weights.T, targets)
            loss.backward()
            optimizer.step()
            scheduler.step()
        return loss.item()

    best = F.mse_loss(inputs @ torch.linalg.lstsq(inputs, targets).solution, targets).item()
    assert solve(torch.optim.AdamW) == pytest.approx(best, rel=0.01)
    assert solve(Fp8AdamW) == pytest.approx(best, rel=0.01)


def test_expansion_makes_moments_clearly_more_exact() -> None:
    plain = moment_errors(*run_side_by_side(60, expansion=False)[:2])
    expanded = moment_errors(*run_side_by_side(60)[:2])
    assert expanded.first < 0.6 * plain.first < 0.1
    assert expanded.second < 0.6 * plain.second
    assert expanded.update < 0.6 * plain.update < 0.2
    assert expanded.update > 0


@pytest.mark.parametrize("expansion", [True, False])
def test_no_weight_is_thrown_where_inputs_span_six_powers_of_ten(expansion: bool) -> None:
    errors = moment_errors(*run_side_by_side(30, spread=6, expansion=expansion)[:2])
    assert errors.worst_update < 2  # float32's own update is at most about 1
    assert errors.update < (0.15 if expansion else 1)


@pytest.mark.parametrize("shape", [(40, 128), (1, 5000), (70_000,), (60, 7, 30), (256, 16), (2500, 3)])
def test_every_shape_and_strides_take_the_same_step(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    start, grad = torch.randn(shape), torch.randn(shape)
    plain = nn.Parameter(start.clone())
    strided = nn.Parameter(start.T.contiguous().T if len(shape) == 2 else start.clone())
    wanted = nn.Parameter(start.clone())
    for param, kind in ((plain, Fp8AdamW), (strided, Fp8AdamW), (wanted, torch.optim.AdamW)):
        optimizer = kind([param], lr=0.01)
        for _ in range(3):
            param.grad = grad.clone()
            optimizer.step()
    assert torch.equal(plain, strided)
    torch.testing.assert_close(plain, wanted, rtol=0, atol=0.01 * 0.3)


def test_bf16_weights_are_updated_in_float32_and_rounded_once() -> None:
    torch.manual_seed(0)
    start, grad = torch.randn(40, 128).bfloat16(), torch.randn(40, 128).bfloat16()
    half, full = nn.Parameter(start.clone()), nn.Parameter(start.float())
    half.grad, full.grad = grad, grad.float()
    first, second = Fp8AdamW([half], lr=0.1), Fp8AdamW([full], lr=0.1)
    first.step()
    second.step()
    assert torch.equal(half, full.bfloat16())
    assert torch.equal(first.moments(half)[1], second.moments(full)[1])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
def test_a_compiled_step_is_the_plain_step() -> None:
    torch.manual_seed(0)
    start, grad = torch.randn(32, 256), torch.randn(32, 256)
    plain, fast = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = Fp8AdamW([plain], lr=0.01), Fp8AdamW([fast], lr=0.01, compiled=True)
    for step in range(4):
        plain.grad = fast.grad = grad * (1 + step)
        for optimizer in optimizers:
            optimizer.step()
    assert (fast - plain).norm() < 0.01 * (plain - start).norm()
    assert copy.deepcopy(optimizers[1]).compiled


# --- bytes ---


def test_a_real_model_takes_at_most_two_and_a_bit_bytes_a_parameter() -> None:
    vision = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 2}
    text = {"hidden_size": 256, "intermediate_size": 768, "vocab_size": 2048, "num_hidden_layers": 2}
    model = NVILAForConditionalGeneration(make_config(vision=vision, text=text))
    params = list(model.parameters())
    optimizer = Fp8AdamW(params)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    assert state_bytes(optimizer) == planned_state_bytes(params)
    assert 2.0 < state_bytes(optimizer) / sum(param.numel() for param in params) <= 2.3


def test_bytes_of_one_matrix_are_counted_exactly() -> None:
    param = nn.Parameter(torch.zeros(64, 256))
    param.grad = torch.ones_like(param)
    for expansion, bytes_a_group in ((True, 2 * (128 + 4)), (False, 2 * (128 + 2))):
        optimizer = Fp8AdamW([param], expansion=expansion)
        optimizer.step()
        assert state_bytes(optimizer) == 64 * 2 * bytes_a_group + 4  # and the step
    reference = torch.optim.AdamW([param])
    reference.step()
    assert state_bytes(reference) == 8 * param.numel() + 4


# --- state on disk ---


def trained(dtype: torch.dtype = torch.float32, num_steps: int = 5, **options: Any) -> tuple[nn.Module, Fp8AdamW]:
    model = make_mlp().to(dtype)
    optimizer = Fp8AdamW(model.named_parameters(), lr=1e-3)
    advance(model, optimizer, num_steps, seed=0)
    return model, optimizer


def advance(model: nn.Module, optimizer: Fp8AdamW, num_steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num_steps):
        for param in model.parameters():
            param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_goes_through_a_file_exactly_and_training_goes_on_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    model, optimizer = trained(dtype)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    resumed = copy.deepcopy(model)
    again = Fp8AdamW(resumed.named_parameters(), lr=1.0)
    again.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    for param, other in zip(model.parameters(), resumed.parameters(), strict=True):
        state, loaded = optimizer.state[param], again.state[other]
        assert state.keys() == loaded.keys()
        for name in state:
            assert loaded[name].dtype == state[name].dtype
            assert torch.equal(bits(loaded[name]), bits(state[name]))
    assert again.state[resumed[0].weight]["exp_avg"].dtype == CODES
    advance(model, optimizer, 3, seed=1)
    advance(resumed, again, 3, seed=1)
    assert torch.equal(flat(model), flat(resumed))


def test_state_goes_through_safetensors(tmp_path: Path) -> None:
    model, optimizer = trained()
    state = optimizer.state[model[0].weight]
    save_file(state, tmp_path / "state.safetensors")
    loaded = load_file(tmp_path / "state.safetensors")
    assert all(torch.equal(loaded[name].float(), state[name].float()) for name in state)
    assert loaded["exp_avg_sq"].dtype == CODES


def test_what_was_loaded_from_does_not_change_with_later_steps() -> None:
    model, optimizer = trained()
    saved = optimizer.state_dict()
    again = Fp8AdamW(model.named_parameters())
    again.load_state_dict(saved)
    before = copy.deepcopy(saved)
    advance(model, again, 1, seed=2)
    assert saved["state"][0]["step"] == before["state"][0]["step"] == 5
    assert torch.equal(saved["state"][0]["exp_avg"].float(), before["state"][0]["exp_avg"].float())


def test_state_of_others_is_refused_and_nothing_is_loaded() -> None:
    model, optimizer = trained()
    reference = torch.optim.AdamW(model.parameters())
    reference.step()
    with pytest.raises(CheckpointError, match="not written by Fp8AdamW"):
        optimizer.load_state_dict(reference.state_dict())
    wider = Fp8AdamW(nn.Sequential(nn.Linear(300, 200), nn.Tanh(), nn.Linear(200, 128)).named_parameters())
    with pytest.raises(CheckpointError, match=r"0\.weight: .*exp_avg as \(200, 200\).*needs \(200, 300\)"):
        wider.load_state_dict(optimizer.state_dict())
    assert not wider.state


# --- what is skipped and refused ---


def test_frozen_and_unused_weights_have_no_state() -> None:
    model = make_mlp()
    model[2].weight.requires_grad_(False)
    before = flat(model[2])
    optimizer = Fp8AdamW(model.parameters(), weight_decay=0.5)
    model[0](torch.ones(1, 200)).sum().backward()
    optimizer.step()
    assert set(optimizer.state) == set(model[0].parameters())
    assert torch.equal(flat(model[2]), before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_a_gradient_that_is_not_finite_changes_nothing(bad: float) -> None:
    model, optimizer = trained()
    weights, state = flat(model), copy.deepcopy(optimizer.state_dict()["state"])
    model[2].weight.grad[3, 4] = bad
    with pytest.raises(NVILAError, match=r"2\.weight: its gradient of shape \(128, 200\).*nothing was updated"):
        optimizer.step()
    assert torch.equal(flat(model), weights)
    for index, entry in optimizer.state_dict()["state"].items():
        assert all(torch.equal(entry[name].float(), state[index][name].float()) for name in entry)


def test_sparse_gradients_are_refused() -> None:
    table = nn.Embedding(100, 128, sparse=True)
    optimizer = Fp8AdamW(table.parameters())
    table(torch.tensor([3])).sum().backward()
    with pytest.raises(NVILAError, match="sparse=False"):
        optimizer.step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr is -1.0"),
        ({"betas": (0.9, 1.0)}, "betas are"),
        ({"eps": float("nan")}, "eps is nan"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Fp8AdamW([nn.Parameter(torch.zeros(2))], **options)
    with pytest.raises(ConfigError, match="float64"):
        Fp8AdamW([nn.Parameter(torch.zeros(2, dtype=torch.float64))])


def test_errors_are_only_measured_between_equals() -> None:
    ours, reference, (_, twin) = run_side_by_side(2)
    with pytest.raises(ConfigError, match="4 parameters against 1"):
        moment_errors(ours, torch.optim.AdamW([nn.Parameter(torch.zeros(3))]))
    advance(twin, ours, 1, seed=0)
    with pytest.raises(ConfigError, match="3 steps against 2"):
        moment_errors(ours, reference)
