"""Norms and activations that keep FP8: forward the same to the bit, gradients close, without bias, and kept small."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.train.precision.stack import cosine, slope
from torch import nn
from torch.nn import functional as F
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from nvila.train.precision.activations import Fp8GeluTanh, Fp8LayerNorm, Fp8RMSNorm, silu_mul
from nvila.train.precision.fp8_format import dequantise, quantise_groups
from nvila.train.precision.saved import saved_bytes

WIDTH = 200
Function = Callable[..., torch.Tensor]


def make_pair(kind: str, dtype: torch.dtype) -> tuple[Function, Function, int]:
    """The plain function, the one that keeps FP8, and how many inputs they take."""
    torch.manual_seed(0)
    if kind == "silu_mul":
        return lambda gate, up: F.silu(gate) * up, silu_mul, 2
    if kind == "gelu":
        return lambda x: F.gelu(x, approximate="tanh"), Fp8GeluTanh(), 1
    norm = Qwen2RMSNorm(WIDTH) if kind == "rms_norm" else nn.LayerNorm(WIDTH)
    with torch.no_grad():
        for weight in norm.parameters():
            weight.add_(torch.randn(WIDTH) * 0.3)
    norm.to(dtype)
    return norm, Fp8RMSNorm(norm) if kind == "rms_norm" else Fp8LayerNorm.from_norm(norm), 1


def step(function: Function, inputs: list[torch.Tensor], grad: torch.Tensor) -> list[torch.Tensor]:
    """The output, then the gradients of the inputs and of the parameters."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    output = function(*inputs)
    weights = list(function.parameters()) if isinstance(function, nn.Module) else []
    return [output.detach(), *torch.autograd.grad(output, [*inputs, *weights], grad.to(output.dtype))]


def make_inputs(num_inputs: int, dtype: torch.dtype, rows: int = 60) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(2, rows // 2, WIDTH, generator=generator).to(dtype) * 2 + 0.1 for _ in range(num_inputs + 1)]
    return tensors[:-1], tensors[-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["rms_norm", "layer_norm", "silu_mul", "gelu"])
def test_the_output_is_the_same_to_the_bit_and_gradients_follow(kind: str, dtype: torch.dtype) -> None:
    plain, packed, num_inputs = make_pair(kind, dtype)
    inputs, grad = make_inputs(num_inputs, dtype)
    wanted, found = step(plain, inputs, grad), step(packed, inputs, grad)
    assert torch.equal(found[0], wanted[0])
    assert len(found) == len(wanted)
    for ours, theirs in zip(found[1:], wanted[1:], strict=True):
        assert ours.dtype == theirs.dtype
        assert cosine(ours, theirs) > 0.995
        assert slope(ours, theirs) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("kind", ["silu_mul", "gelu"])
def test_gradients_of_activations_are_exact_for_the_inputs_as_kept(kind: str) -> None:
    plain, packed, num_inputs = make_pair(kind, torch.float32)
    inputs, grad = make_inputs(num_inputs, torch.float32)
    as_kept = [dequantise(quantise_groups(x), torch.float32) for x in inputs]
    for ours, theirs in zip(step(packed, inputs, grad)[1:], step(plain, as_kept, grad)[1:], strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["rms_norm", "layer_norm"])
def test_gradients_of_norms_are_exact_where_fp8_holds_the_input_exactly(kind: str) -> None:
    plain, packed, _ = make_pair(kind, torch.float32)
    codes = torch.tensor([-448.0, -3.5, -1.0, 0.5, 2.0, 13.0, 60.0])
    x = codes[torch.randint(0, 7, (8, WIDTH), generator=torch.Generator().manual_seed(2))]
    # Both groups of every row hold the largest code, so the scale is one.
    x[:, 0] = x[:, -1] = 448.0
    grad = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(3))
    for ours, theirs in zip(step(packed, [x], grad), step(plain, [x], grad), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["rms_norm", "layer_norm", "silu_mul", "gelu"])
def test_the_error_averages_out_over_many_inputs(kind: str) -> None:
    """Gradients of the same upstream gradient, summed over inputs, come closer to the plain sum than single ones."""
    plain, packed, num_inputs = make_pair(kind, torch.float32)
    inputs, _ = make_inputs(num_inputs, torch.float32, rows=4000)
    grad = torch.ones(2, 2000, WIDTH)
    found, wanted = step(packed, inputs, grad)[1], step(plain, inputs, grad)[1]
    single = (found - wanted).norm() / wanted.norm()
    total = (found - wanted).sum((0, 1)).norm() / wanted.sum((0, 1)).norm().clamp(min=wanted.norm() / 10)
    assert single > 1e-3
    assert total < single


@pytest.mark.parametrize("kind", ["rms_norm", "layer_norm", "silu_mul", "gelu"])
def test_bytes_kept_are_those_of_fp8(kind: str) -> None:
    plain, packed, num_inputs = make_pair(kind, torch.bfloat16)
    inputs, _ = make_inputs(num_inputs, torch.bfloat16)
    inputs = [x.requires_grad_() for x in inputs]
    weights = list(packed.parameters()) if isinstance(packed, nn.Module) else []
    statistics = {"rms_norm": 4, "layer_norm": 8}.get(kind, 0)
    rows = 60
    assert saved_bytes(lambda: packed(*inputs), weights) == rows * (num_inputs * (WIDTH + 2 * 2) + statistics)
    assert saved_bytes(lambda: plain(*inputs), weights) >= rows * num_inputs * 2 * WIDTH
    with torch.no_grad():
        assert saved_bytes(lambda: packed(*inputs), weights) == 0


@pytest.mark.parametrize("kind", ["rms_norm", "layer_norm"])
def test_frozen_norms_pass_the_gradient_on(kind: str) -> None:
    plain, packed, _ = make_pair(kind, torch.float32)
    assert isinstance(plain, nn.Module)
    plain.requires_grad_(False)
    (x,), grad = make_inputs(1, torch.float32)
    x.requires_grad_()
    (found,) = torch.autograd.grad(packed(x), x, grad)
    (wanted,) = torch.autograd.grad(plain(x), x, grad)
    assert cosine(found, wanted) > 0.995


@pytest.mark.parametrize("kind", ["rms_norm", "layer_norm", "silu_mul", "gelu"])
def test_autocast_changes_neither_output_nor_types(kind: str) -> None:
    plain, packed, num_inputs = make_pair(kind, torch.float32)
    inputs, grad = make_inputs(num_inputs, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted, found = step(plain, inputs, grad), step(packed, inputs, grad)
    assert torch.equal(found[0], wanted[0])
    assert [one.dtype for one in found] == [one.dtype for one in wanted]


@pytest.mark.parametrize("kind", ["rms_norm", "layer_norm", "silu_mul", "gelu"])
def test_compiled_functions_give_the_same_numbers(kind: str) -> None:
    _, packed, num_inputs = make_pair(kind, torch.float32)
    inputs, grad = make_inputs(num_inputs, torch.float32)
    inputs = [x.requires_grad_() for x in inputs]
    wanted = torch.autograd.grad(packed(*inputs), inputs, grad)
    compiled = torch.compile(packed, backend="aot_eager", fullgraph=True)
    found = torch.autograd.grad(compiled(*inputs), inputs, grad)
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
