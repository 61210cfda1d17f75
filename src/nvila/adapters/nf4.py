"""Linear layers kept in 4 bits: NF4 with double quantisation (QLoRA, arXiv 2305.14314, section 3).

Blocks of 64 weights share a scale, the largest magnitude among them, and each weight is the nearest of 16 levels that
a normal distribution fills evenly. Scales are stored as 8-bit differences from their mean, 256 of which share a float:
4.127 bits a weight. Everything is plain torch, so a layer trains and merges on any device with the same numbers.

The trade: the weight is written out in 16 or 32 bits for every product and forgotten again, forward and backward.
bitsandbytes has fused kernels for CUDA, but other numbers (a table in place of even 8-bit steps). An adapter belongs to
the rounding that it was trained with, and should merge where bitsandbytes is not: so there is one format, this one.

Letters: O outputs, I inputs, B blocks, G groups of blocks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

BLOCK = 64
GROUP = 256
STEPS = 127
_EDGE = 0.9677083
"""Quantile of the outermost level: 1 - (1/32 + 1/30) / 2, halfway between the edges for 16 and for 15 levels."""


def levels(device: torch.device | str | None = None) -> torch.Tensor:
    """(16,) float32: the levels in rising order, from -1 to 1, with 0 among them."""
    above = torch.special.ndtri(torch.linspace(_EDGE, 0.5, 9, dtype=torch.float64, device=device)[:-1])
    below = -torch.special.ndtri(torch.linspace(_EDGE, 0.5, 8, dtype=torch.float64, device=device)[:-1])
    zero = torch.zeros(1, dtype=torch.float64, device=device)
    found = torch.cat([below, zero, above.flip(0)])
    return (found / found[-1]).float()


class NF4Linear(nn.Linear):
    """A linear layer whose weight is frozen in NF4; `weight` is the packed one, `dequantised` what it stands for.

    Buffers: packed (ceil(O*I/64) * 32,) uint8, two levels a byte; scale_steps (B,) int8; scale_sizes (G,) and
    scale_mean () float32; pairs (256, 2) float32, the two levels of each byte.
    """

    packed: torch.Tensor
    pairs: torch.Tensor
    scale_steps: torch.Tensor
    scale_sizes: torch.Tensor
    scale_mean: torch.Tensor

    def __init__(self, linear: nn.Linear) -> None:
        """Takes over the bias and the rounded weight of `linear`; the rounding is done on the weight's device."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        for name, buffer in quantise(linear.weight.detach()).items():
            self.register_buffer(name, buffer)
        found = levels(self.packed.device)
        pairs = torch.stack([found.repeat_interleave(16), found.repeat(16)], dim=1)
        self.register_buffer("pairs", pairs, persistent=False)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The packed weight, for whoever asks a linear layer's weight where it is."""
        return self.packed

    def dequantised(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight (O, I) as it is multiplied with."""
        scales_B = self._scales()
        values = F.embedding(self.packed.int(), self.pairs).view(len(scales_B), BLOCK).mul_(scales_B[:, None])
        count = self.out_features * self.in_features
        return values.flatten()[:count].view(self.out_features, self.in_features).to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., I) to (..., O)."""
        product: torch.Tensor = _Product.apply(x, self)
        return product

    def _scales(self) -> torch.Tensor:
        sizes_B = self.scale_sizes.repeat_interleave(GROUP)[: len(self.scale_steps)]
        return self.scale_steps.float() * sizes_B + self.scale_mean


class _Product(torch.autograd.Function):
    """x @ W.T + bias that keeps neither x nor W for the backward pass: W never learns."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: NF4Linear) -> torch.Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        bias = None if layer.bias is None else layer.bias.to(dtype)
        return F.linear(x.to(dtype), layer.dequantised(dtype), bias)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None]:
        (grad,) = upstream
        return (grad @ ctx.layer.dequantised(grad.dtype)).to(ctx.dtype), None


def quantise(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """The buffers of an `NF4Linear` for a weight of any shape and floating dtype."""
    flat = weight.float().flatten()
    blocks = F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scales_B = blocks.abs().amax(dim=1)
    mean = scales_B.mean()
    count = len(scales_B)
    offsets = F.pad(scales_B - mean, (0, -count % GROUP)).view(-1, GROUP)
    sizes_G = offsets.abs().amax(dim=1) / STEPS
    steps = (offsets / _not_zero(sizes_G)[:, None]).round().clamp(-STEPS, STEPS).to(torch.int8)
    found = levels(weight.device)
    borders = (found[1:] + found[:-1]) / 2
    places = torch.bucketize(blocks / _not_zero(scales_B)[:, None], borders).to(torch.uint8).flatten()
    return {
        "packed": places[::2] * 16 + places[1::2],
        "scale_steps": steps.flatten()[:count].clone(),
        "scale_sizes": sizes_G,
        "scale_mean": mean,
    }


def _not_zero(sizes: torch.Tensor) -> torch.Tensor:
    return torch.where(sizes > 0, sizes, torch.ones_like(sizes))


def quantise_linears(model: nn.Module, names: list[str]) -> None:
    """Replaces the linear layers of these names, one after the other, so that no second copy is ever whole."""
    for name in names:
        parent, _, child = name.rpartition(".")
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear), name
        setattr(model.get_submodule(parent), child, NF4Linear(linear))


def relative_error(linear: nn.Linear) -> float:
    """Root mean square of what rounding a layer to NF4 changes, as a part of its weights' own."""
    weight = linear.weight.detach().float()
    return float((NF4Linear(linear).dequantised(torch.float32) - weight).norm() / weight.norm())
