"""W4A16 linear layers: asymmetric 4-bit weights in groups along the input, activations in 16 bits.

A weight is (q - zero) * scale with q and zero from -8 to 7, and a scale and a zero for each group of a row. Stored as
compressed-tensors stores them: eight to an int32, the lowest bits first, with 8 added to each.

Decode (few tokens) is bound by reading weights, so it multiplies with them packed; prefill is bound by arithmetic, so
it writes the weights out in 16 bits and uses the usual product. Where the two cross was measured
(`benchmarks/bench_kernels.py`).

Letters: M tokens, I features in, O features out, G groups of a row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

LOWEST, HIGHEST = -8, 7
VALUES_PER_WORD = 8
CPU_CROSSING = 64
"""With more tokens than this, writing the weights out is faster on a CPU."""
CUDA_CROSSING = 64
_CPU_GROUPS = (32, 64, 128, 256)
_CPU_OUTPUTS = 16


class Int4Weight(NamedTuple):
    """A weight ready to be multiplied with."""

    packed: torch.Tensor
    """(O, I / 8) int32."""
    scales: torch.Tensor
    """(O, G), floating."""
    zeros: torch.Tensor
    """(O, G) int8, from -8 to 7."""
    group_size: int
    blocks: torch.Tensor | None
    """The values in torch's blocks for decoding on CPUs in bfloat16; None where that cannot be."""
    scales_and_offsets: torch.Tensor | None
    """(G, O, 2) bfloat16 that goes with the blocks: a weight is q * scale + offset."""


def pack_words(values: torch.Tensor) -> torch.Tensor:
    """(R, C) int8 from -8 to 7 to (R, ceil(C / 8)) int32."""
    rows, columns = values.shape
    nibbles = F.pad(values.to(torch.int64) - LOWEST, (0, -columns % VALUES_PER_WORD)).view(rows, -1, VALUES_PER_WORD)
    words = (nibbles << _shifts(values.device)).sum(dim=-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def unpack_words(words: torch.Tensor, columns: int) -> torch.Tensor:
    """What `pack_words` packed: (R, columns) int8."""
    nibbles = (words[..., None] >> _shifts(words.device).to(torch.int32)) & 15
    return (nibbles.to(torch.int8) + LOWEST).flatten(1)[:, :columns]


def pack_int4(packed: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor) -> Int4Weight:
    """packed: (O, I / 8) int32; scales: (O, G); zeros: (O, G) int8. Adds what the device's kernel wants besides."""
    num_outputs, num_inputs = packed.shape[0], packed.shape[1] * VALUES_PER_WORD
    groups = scales.shape[1]
    if scales.shape != zeros.shape or len(scales) != num_outputs or num_inputs % groups:
        raise ValueError(
            f"a 4-bit weight of {num_outputs} x {num_inputs} has scales {tuple(scales.shape)} and zeros "
            f"{tuple(zeros.shape)}; both must be outputs x groups"
        )
    group_size = num_inputs // groups
    blocks = offsets = None
    if packed.device.type == "cpu" and group_size in _CPU_GROUPS and num_outputs % _CPU_OUTPUTS == 0:
        nibbles = unpack_words(packed, num_inputs).to(torch.int32) - LOWEST
        blocks = torch.ops.aten._convert_weight_to_int4pack_for_cpu(nibbles, 2)
        pair = torch.stack((scales.float(), -zeros.float() * scales.float()), dim=-1)
        offsets = pair.transpose(0, 1).contiguous().bfloat16()
    return Int4Weight(packed, scales, zeros, group_size, blocks, offsets)


def dequantise_int4(weight: Int4Weight, dtype: torch.dtype) -> torch.Tensor:
    """The weight (O, I) as it is multiplied with."""
    num_outputs, groups = weight.scales.shape
    values = unpack_words(weight.packed, groups * weight.group_size).view(num_outputs, groups, weight.group_size)
    steps = (values - weight.zeros[..., None]).to(dtype)
    return (steps * weight.scales[..., None].to(dtype)).flatten(1)


def reference_int4_linear(x: torch.Tensor, weight: Int4Weight, bias: torch.Tensor | None = None) -> torch.Tensor:
    """What `int4_linear` computes, with weights and sums in float32."""
    y = x.float() @ dequantise_int4(weight, torch.float32).t()
    return (y if bias is None else y + bias.float()).to(x.dtype)


def int4_linear(x: torch.Tensor, weight: Int4Weight, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x (..., I) to (..., O) in its own dtype. bias: (O,) or None."""
    x_MI = x.reshape(-1, x.shape[-1])
    if x.device.type == "cuda" and len(x_MI) <= CUDA_CROSSING:
        from nvila.ops.triton_int4 import int4_product

        return int4_product(x_MI, weight, bias).view(*x.shape[:-1], -1)
    if weight.blocks is not None and x.dtype == torch.bfloat16 and 0 < len(x_MI) <= CPU_CROSSING:
        y: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x_MI.contiguous(), weight.blocks, weight.group_size, weight.scales_and_offsets
        )
        return (y if bias is None else y.add_(bias)).view(*x.shape[:-1], -1)
    return F.linear(x, dequantise_int4(weight, x.dtype), bias)


def _shifts(device: torch.device) -> torch.Tensor:
    return torch.arange(0, 32, 4, dtype=torch.int64, device=device)


class Int4Linear(nn.Module):
    """A linear layer in W4A16, with the tensors of the compressed-tensors layout under their names.

    weight_packed: (O, I / 8) int32; weight_scale: (O, G) in the model's dtype; weight_zero_point: (ceil(O / 8), G)
    int32, packed along the outputs; weight_shape: (2,) int64, O and I; bias: (O,) or None.
    """

    weight_packed: torch.Tensor
    weight_scale: torch.Tensor
    weight_zero_point: torch.Tensor
    weight_shape: torch.Tensor

    def __init__(self, in_features: int, out_features: int, *, bias: bool, group_size: int) -> None:
        super().__init__()
        self.in_features, self.out_features, self.group_size = in_features, out_features, group_size
        groups = in_features // group_size
        words = in_features // VALUES_PER_WORD
        zero_words = -(-out_features // VALUES_PER_WORD)
        self.register_buffer("weight_packed", torch.empty(out_features, words, dtype=torch.int32))
        self.register_buffer("weight_scale", torch.empty(out_features, groups))
        self.register_buffer("weight_zero_point", torch.empty(zero_words, groups, dtype=torch.int32))
        self.register_buffer("weight_shape", torch.empty(2, dtype=torch.int64))
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None
        self._ready: Int4Weight | None = None

    def prepared(self) -> Int4Weight:
        """The weight as `int4_linear` takes it; made on first use and kept until the layer moves."""
        if self._ready is None or self._ready.packed.data_ptr() != self.weight_packed.data_ptr():
            zeros = unpack_words(self.weight_zero_point.t(), self.out_features).t().contiguous()
            self._ready = pack_int4(self.weight_packed, self.weight_scale, zeros)
        return self._ready

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., I) to (..., O)."""
        return int4_linear(x, self.prepared(), self.bias)

    def _apply(self, fn: Any, recurse: bool = True) -> Int4Linear:
        self._ready = None
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, group_size={self.group_size}"
