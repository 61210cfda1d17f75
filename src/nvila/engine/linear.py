"""Linear layers as the decoder calls them: an object with one call, whatever number format its weights have.

Layers that read the same input are fused along their outputs, so that a step reads one long weight instead of two or
three. A format of its own joins by a case in `fuse`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F

from nvila.ops.int4_linear import Int4Linear, Int4Weight, int4_linear, pack_int4


class Linear(Protocol):
    """(T, in) to (T, out)."""

    def __call__(self, x_TH: torch.Tensor, /) -> torch.Tensor: ...


@dataclass(frozen=True)
class DenseLinear:
    """A weight (out, in) in 16 or 32 bits, and a bias (out,) or None."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, x_TH: torch.Tensor) -> torch.Tensor:
        return F.linear(x_TH, self.weight, self.bias)


@dataclass(frozen=True)
class PackedLinear:
    """A weight in 4 bits with a scale and a zero a group, and a bias (out,) or None."""

    weight: Int4Weight
    bias: torch.Tensor | None

    def __call__(self, x_TH: torch.Tensor) -> torch.Tensor:
        return int4_linear(x_TH, self.weight, self.bias)


@dataclass(frozen=True)
class SideBySide:
    """Layers that cannot be fused: their outputs, one behind the other."""

    layers: tuple[nn.Module, ...]

    def __call__(self, x_TH: torch.Tensor) -> torch.Tensor:
        return torch.cat([layer(x_TH) for layer in self.layers], dim=-1)


def fuse(layers: Sequence[nn.Module]) -> Linear:
    """One call for `layers`, which read the same input; the outputs lie one behind the other.

    The layers share memory with the result afterwards: their weights become parts of the fused one, so that nothing is
    held twice and the model that they belong to still works.
    """
    dense = [layer for layer in layers if type(layer) is nn.Linear]
    if len(dense) == len(layers):
        return _fuse_dense(dense)
    packed = [layer for layer in layers if isinstance(layer, Int4Linear)]
    if len(packed) == len(layers) and len({layer.group_size for layer in packed}) == 1:
        return _fuse_packed(packed)
    return layers[0] if len(layers) == 1 else SideBySide(tuple(layers))


@torch.no_grad()
def _fuse_dense(layers: list[nn.Linear]) -> DenseLinear:
    if len(layers) == 1:
        return DenseLinear(layers[0].weight.data, _joined_bias(layers))
    weight = torch.cat([layer.weight for layer in layers])
    for layer, part in zip(layers, weight.split([layer.out_features for layer in layers]), strict=True):
        layer.weight.data = part
    return DenseLinear(weight, _joined_bias(layers))


@torch.no_grad()
def _fuse_packed(layers: list[Int4Linear]) -> PackedLinear:
    if len(layers) == 1:
        return PackedLinear(layers[0].prepared(), _joined_bias(layers))
    parts = [layer.prepared() for layer in layers]
    weight = pack_int4(
        torch.cat([part.packed for part in parts]),
        torch.cat([part.scales for part in parts]),
        torch.cat([part.zeros for part in parts]),
    )
    sizes = [layer.out_features for layer in layers]
    for layer, packed, scales in zip(layers, weight.packed.split(sizes), weight.scales.split(sizes), strict=True):
        layer.weight_packed, layer.weight_scale = packed, scales  # which lets go of what the layer had prepared
    return PackedLinear(weight, _joined_bias(layers))


def _joined_bias(layers: Sequence[nn.Linear] | Sequence[Int4Linear]) -> torch.Tensor | None:
    """The biases one behind the other, with zeros for a layer that has none; None where none has one."""
    biases = [layer.bias for layer in layers]
    one = next((bias for bias in biases if bias is not None), None)
    if one is None:
        return None
    sizes = [layer.out_features for layer in layers]
    return torch.cat([one.new_zeros(n) if b is None else b.data for b, n in zip(biases, sizes, strict=True)])
