"""W8A8: every path against the exact reference, on widths with and without tails."""

from __future__ import annotations

import pytest
import torch

from nvila.ops.int8_linear import (
    Activation,
    Int8Linear,
    int8_linear,
    pack_int8,
    quantise_tokens,
    quantise_weight_int8,
    reference_int8_linear,
)

SHAPES = [(5, 64, 48), (17, 269, 72), (3, 4304, 16), (1, 32, 8)]


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest difference as a part of the largest value; infinite for NaN."""
    error = float((found.float() - wanted.float()).abs().max() / wanted.float().abs().max())
    return error if error == error else float("inf")


@pytest.mark.parametrize(("tokens", "inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("activation", [None, "gelu_tanh"])
def test_the_fast_path_equals_the_reference(
    tokens: int, inputs: int, outputs: int, dtype: torch.dtype, static: bool, activation: Activation | None
) -> None:
    x = torch.randn(2, tokens, inputs).to(dtype) * torch.logspace(-1, 1, tokens)[:, None].to(dtype)
    weight = pack_int8(*quantise_weight_int8(torch.randn(outputs, inputs)))
    bias = torch.randn(outputs).to(dtype)
    scale = torch.tensor([float(x.abs().max()) / 127]) if static else None
    found = int8_linear(x, weight, bias, input_scale=scale, activation=activation)
    assert found.dtype == dtype
    assert found.shape == (2, tokens, outputs)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 1.2e-2, torch.float16: 2e-3}[dtype]
    wanted = reference_int8_linear(x, weight, bias, input_scale=scale, activation=activation)
    assert relative(found, wanted) < tolerance


def test_rounding_keeps_the_largest_value_of_each_row_and_token() -> None:
    weight, x = torch.randn(16, 40), torch.randn(6, 40)
    values, scale = quantise_weight_int8(weight)
    assert torch.equal(values.abs().amax(1), torch.full((16,), 127, dtype=torch.int8))
    assert (values * scale[:, None] - weight).abs().max() <= scale.max() / 2 + 1e-6
    tokens, scales = quantise_tokens(x)
    assert ((tokens * scales - x).abs() <= scales / 2 + 1e-6).all()


def test_a_token_of_zeros_gives_the_bias() -> None:
    weight, bias = pack_int8(*quantise_weight_int8(torch.randn(8, 24))), torch.randn(8)
    assert torch.equal(int8_linear(torch.zeros(2, 24), weight, bias), bias.expand(2, 8))


def test_a_static_scale_clips_what_is_larger() -> None:
    weight = pack_int8(*quantise_weight_int8(torch.eye(16)))
    found = int8_linear(torch.full((1, 16), 9.0), weight, input_scale=torch.tensor([1 / 127]))
    assert torch.allclose(found, torch.ones(1, 16), atol=1e-4)


def test_scales_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="8 outputs has 7 scales"):
        pack_int8(torch.zeros(8, 16, dtype=torch.int8), torch.ones(7))


def test_the_layer_packs_again_after_it_moved() -> None:
    layer = Int8Linear(32, 16, bias=False, static_input=False)
    values, scale = quantise_weight_int8(torch.randn(16, 32))
    layer.load_state_dict({"weight": values, "weight_scale": scale[:, None]})
    x = torch.randn(3, 32)
    before = layer(x)
    values, scale = quantise_weight_int8(torch.randn(16, 32))
    layer.load_state_dict({"weight": values, "weight_scale": scale[:, None]}, assign=True)
    assert not torch.equal(before, layer(x))
    assert relative(layer(x), reference_int8_linear(x, layer.prepared())) < 1e-5


@pytest.mark.parametrize(("tokens", "inputs", "outputs"), [(5, 64, 48), (70, 269, 72), (3, 4304 // 16, 16)])
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("activation", [None, "gelu_tanh"])
def test_triton_equals_the_reference(
    tokens: int, inputs: int, outputs: int, static: bool, activation: Activation | None
) -> None:
    interpreted()
    from nvila.ops.triton_int8 import int8_product, quantise_tokens_fused

    x, bias = torch.randn(tokens, inputs), torch.randn(outputs)
    weight = pack_int8(*quantise_weight_int8(torch.randn(outputs, inputs)))
    scale = torch.tensor([0.02]) if static else None  # which clips what lies beyond 2.54
    values, scales = quantise_tokens_fused(x, scale, activation)
    wanted, wanted_scales = quantise_tokens(x, scale, activation)
    assert torch.allclose(scales, wanted_scales)
    assert (values.int() - wanted.int()).abs().max() <= 1
    assert (values != wanted).float().mean() < 0.01
    found = int8_product(wanted, wanted_scales.reshape(-1), weight.values, weight.scale, bias, torch.float32)
    exact = reference_int8_linear(x, weight, bias, input_scale=scale, activation=activation)
    assert relative(found, exact) < 1e-5


def interpreted() -> None:
    """Skips where Triton is missing, or would want a GPU."""
    pytest.importorskip("triton")
    import triton

    if not triton.knobs.runtime.interpret:
        pytest.skip("TRITON KERNELS NOT CHECKED: set TRITON_INTERPRET=1")
