"""NF4: the levels, the rounding, and a layer that computes with what was rounded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nvila.adapters.nf4 import BLOCK, NF4Linear, levels, quantise, quantise_linears, relative_error

PUBLISHED = (-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0,
             0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0)  # fmt: skip
"""QLoRA, appendix E."""


def make_linear(inputs: int = 40, outputs: int = 24, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs)


def test_levels_are_the_published_ones() -> None:
    assert torch.allclose(levels(), torch.tensor(PUBLISHED), atol=1e-6)


def test_a_weight_takes_little_more_than_four_bits() -> None:
    buffers = quantise(torch.randn(512, 512))
    bits = 8 * sum(buffer.nbytes for buffer in buffers.values()) / 512**2
    assert 4.12 < bits < 4.14


def test_rounding_loses_as_much_as_sixteen_levels_must() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(512, 256, bias=False)
    nn.init.normal_(linear.weight, std=0.02)
    assert 0.07 < relative_error(linear) < 0.11


def test_what_was_rounded_once_stays() -> None:
    first = NF4Linear(make_linear(64, 64))
    again = make_linear(64, 64)
    again.weight.data = first.dequantised(torch.float32)
    # Scales are rounded too, and move by one of their steps at most.
    gap = (NF4Linear(again).dequantised(torch.float32) - again.weight).abs().max()
    assert gap <= 2 * float(first.scale_sizes.max())


@pytest.mark.parametrize("shape", [(24, 40), (7, 9), (1, 1), (64, 64)])
def test_shapes_that_fill_no_block_come_back(shape: tuple[int, int]) -> None:
    linear = make_linear(shape[1], shape[0])
    found = NF4Linear(linear).dequantised(torch.float32)
    assert found.shape == shape
    assert (found - linear.weight).abs().max() < 0.2 * linear.weight.abs().max()


def test_a_block_of_zeros_stays_zero() -> None:
    linear = make_linear(BLOCK, 3)
    linear.weight.data[1] = 0.0
    found = NF4Linear(linear).dequantised(torch.float32)
    assert not found[1].any()
    assert found[0].any()


def test_product_and_gradient_are_those_of_the_rounded_weight() -> None:
    layer = NF4Linear(make_linear())
    dense = make_linear()
    dense.weight.data = layer.dequantised(torch.float32)
    dense.bias = layer.bias
    first, second = torch.randn(2, 5, 40, requires_grad=True), torch.zeros(2, 5, 40, requires_grad=True)
    second.data.copy_(first.data)
    upstream = torch.randn(2, 5, 24)
    layer(first).backward(upstream)
    dense(second).backward(upstream)
    assert torch.allclose(layer(first), dense(second), atol=1e-6)
    assert first.grad is not None
    assert second.grad is not None
    assert torch.allclose(first.grad, second.grad, atol=1e-6)


def test_autocast_multiplies_in_16_bits_and_gives_gradients_of_the_inputs_dtype() -> None:
    layer = NF4Linear(make_linear())
    x = torch.randn(3, 40, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    assert torch.allclose(y.float(), layer(x), atol=0.05)


def test_nothing_of_a_frozen_layer_waits_for_the_backward_pass() -> None:
    layer = NF4Linear(make_linear())
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        layer(torch.randn(3, 40, requires_grad=True))
    assert kept == []


def test_layers_are_replaced_by_name() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    quantise_linears(model, ["1"])
    assert type(model[0]) is nn.Linear
    assert type(model[1]) is NF4Linear
    assert not any(name.startswith("1.weight") for name, _ in model.named_parameters())
