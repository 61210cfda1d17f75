"""Tensors in FP8: E4M3 for values and weights, E5M2 for gradients; one scale a tensor, a row or a group of channels.

scale = absmax / (the format's largest number), so the largest value lands on the largest code. The trade (COAT, its
mixed granularity): groups follow outliers that a scale for the whole tensor would let drown the rest, and cost 2 bytes
a group in bf16 (1.6 % at 128); a scale a tensor is what a matrix product takes as it is.

A group of zeros, and values down to float32's smallest normal number, are kept without a division by zero. A group
that holds an infinity or a NaN becomes NaN as a whole: a broken step is seen, never hidden.

Letters: C channels (the last dimension), G channels a group, K = ceil(C / G) groups; the last may be short.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

E4M3 = torch.float8_e4m3fn
E5M2 = torch.float8_e5m2
GROUP_SIZE = 128


class QuantisedTensor(NamedTuple):
    """values: (..., C) in FP8. scale: () for the whole tensor, or (..., K), a number for `group_size` channels each.

    `group_size` is 0 where there is one scale for all.
    """

    values: torch.Tensor
    scale: torch.Tensor
    group_size: int


def quantise_tensor(x: torch.Tensor, *, format: torch.dtype = E4M3) -> QuantisedTensor:
    """`x` (...) in bf16, f16 or f32 with one float32 scale (). Empty tensors are allowed, here and below."""
    scale = _scale(x.abs().amax() if x.numel() else x.new_zeros(()), format)
    return QuantisedTensor((x.float() / scale).to(format), scale, 0)


def quantise_rows(x: torch.Tensor, *, format: torch.dtype = E4M3) -> QuantisedTensor:
    """`x` (..., C) with one float32 scale a row, (..., 1), rounded up to a power of two.

    With powers of two, quantising along the other dimension later rounds nothing twice but what falls below the
    format's normal numbers.
    """
    amax = x.abs().amax(-1, keepdim=True) if x.shape[-1] else x.new_zeros(*x.shape[:-1], 1)
    scale = _power_of_two(_scale(amax, format))
    return QuantisedTensor((x.float() / scale).to(format), scale, x.shape[-1])


def quantise_groups(
    x: torch.Tensor,
    group_size: int = GROUP_SIZE,
    *,
    format: torch.dtype = E4M3,
    scale_dtype: torch.dtype = torch.bfloat16,
) -> QuantisedTensor:
    """`x` (..., C) with one scale, (..., K) of `scale_dtype`, for every `group_size` channels of a row."""
    # Rounded before values are divided by it, so that the cast to `scale_dtype` below loses nothing.
    scale = _rounded_to(_scale(_group_amax(x, group_size), format), scale_dtype)
    values = _by_group(torch.div, x.float(), scale, group_size).to(format)
    return QuantisedTensor(values, scale.to(scale_dtype), group_size)


def dequantise(packed: QuantisedTensor, dtype: torch.dtype) -> torch.Tensor:
    """The values (..., C) in `dtype`; the product with the scale is made in float32 and rounded once."""
    values, scale, group_size = packed
    if scale.ndim == 0:
        return (values.float() * scale).to(dtype)
    return _by_group(torch.mul, values.float(), scale.float(), group_size).to(dtype)


def transpose(packed: QuantisedTensor) -> QuantisedTensor:
    """A matrix (M, K) with one scale for all, as (K, M) in memory order; one scale a row cannot be transposed."""
    assert packed.scale.ndim == 0
    return QuantisedTensor(packed.values.t().contiguous(), packed.scale, 0)


def _group_amax(x: torch.Tensor, group_size: int) -> torch.Tensor:
    """The largest absolute value (..., K) of each group of `x` (..., C)."""
    whole = x.shape[-1] // group_size * group_size
    amax = x[..., :whole].unflatten(-1, (-1, group_size)).abs().amax(-1) if whole else x[..., :0]
    return amax if whole == x.shape[-1] else torch.cat([amax, x[..., whole:].abs().amax(-1, keepdim=True)], dim=-1)


def _by_group(
    operation: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    scale: torch.Tensor,
    group_size: int,
) -> torch.Tensor:
    """`operation` of each value of `x` (..., C) and the scale, of (..., K), of its group.

    A short last group goes by itself. Filled up with zeros, or with the scales spread over all channels, it is left
    out by torch.compile's loops on a CPU (torch 2.13), and its place holds whatever the memory held.
    """
    whole = x.shape[-1] // group_size
    if scale.shape[-1] == 1:
        return operation(x, scale)
    groups = x[..., : whole * group_size].unflatten(-1, (whole, group_size))
    result = operation(groups, scale[..., :whole, None]).flatten(-2)
    if whole == scale.shape[-1]:
        return result
    return torch.cat([result, operation(x[..., whole * group_size :], scale[..., whole:])], dim=-1)


def _scale(amax: torch.Tensor, format: torch.dtype) -> torch.Tensor:
    """float32 scales; never below the smallest normal number, which also serves groups of zeros. NaN stays NaN."""
    return (amax.float() / torch.finfo(format).max).clamp(min=torch.finfo(torch.float32).tiny)


def _power_of_two(scale: torch.Tensor) -> torch.Tensor:
    """The next power of two at or above each number of `_scale`, exactly."""
    return _rounded(scale, dropped_bits=23, added=(1 << 23) - 1)


def _rounded_to(scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The numbers of `_scale`, still in float32, rounded to the nearest that bf16 has when it is the `dtype`.

    Rounded down, a largest value lies up to 0.2 % above the largest code, which it still rounds to.
    """
    return _rounded(scale, dropped_bits=16, added=1 << 15) if dtype == torch.bfloat16 else scale


def _rounded(scale: torch.Tensor, *, dropped_bits: int, added: int) -> torch.Tensor:
    """Positive float32 numbers with `added` to their bits and the last bits cleared; what is not finite stays.

    Unlike a cast there and back, torch.compile does not take it out.
    """
    mask = ~((1 << dropped_bits) - 1)
    rounded = ((scale.view(torch.int32) + added) & mask).view(torch.float32)
    return torch.where(scale.isfinite(), rounded, scale)
