"""W8A8 linear layers: int8 weights with a scale an output channel, int8 activations with a scale a token or a tensor.

Both are symmetric, from -127 to 127. On CPUs the product is oneDNN's, on activations shifted to unsigned bytes: the
only form that is fast both with AMX and with AVX-512 VNNI (without AMX, signed bytes fall to a plain loop, thousands of
times slower). On CUDA it is Triton's (`nvila.ops.triton_int8`), where the activation function before a layer is
computed in the pass that quantises what it gives. No width needs padding: SigLIP's 4304 runs as it is.

Letters: M tokens, I features in, O features out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

Activation = Literal["gelu_tanh"]
"""What may be computed of a layer's input first: GELU by its tanh approximation, as in SigLIP."""

LARGEST = 127
_SHIFT = 128
_TINY = 1e-12
"""Scale of a token that is all zeros."""


class Int8Weight(NamedTuple):
    """A weight ready to be multiplied with."""

    values: torch.Tensor
    """(O, I) int8."""
    scale: torch.Tensor
    """(O,) float32."""
    packed: torch.Tensor | None
    """The values in oneDNN's blocks; None where they are not on a CPU."""


def pack_int8(values: torch.Tensor, scale: torch.Tensor) -> Int8Weight:
    """values: (O, I) int8; scale: (O,) or (O, 1). On a CPU this makes a second copy of the values, in blocks."""
    scale = scale.reshape(-1).float()
    if scale.shape[0] != values.shape[0]:
        raise ValueError(f"an int8 weight of {values.shape[0]} outputs has {scale.shape[0]} scales; give one each")
    packed = _onednn("qlinear_prepack")(values.contiguous(), None) if values.device.type == "cpu" else None
    return Int8Weight(values, scale, packed)


def quantise_weight_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight (O, I) to the nearest (O, I) int8 and its scales (O,) float32."""
    scale = weight.float().abs().amax(dim=1).clamp_min_(_TINY) / LARGEST
    return _steps(weight, scale[:, None]).to(torch.int8), scale


def quantise_tokens(
    x: torch.Tensor, input_scale: torch.Tensor | None = None, activation: Activation | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """x (M, I), after the activation, to int8, and the scales (M, 1) float32 of its tokens.

    `input_scale` is one for all, of one element.
    """
    x = activated(x, activation)
    if input_scale is None:
        scale = x.abs().amax(dim=1, keepdim=True).float().clamp_min_(_TINY) / LARGEST
    else:
        scale = input_scale.float().reshape(1, 1).expand(len(x), 1)
    return _steps(x, scale).to(torch.int8), scale


def reference_int8_linear(
    x: torch.Tensor,
    weight: Int8Weight,
    bias: torch.Tensor | None = None,
    *,
    input_scale: torch.Tensor | None = None,
    activation: Activation | None = None,
) -> torch.Tensor:
    """What `int8_linear` computes, with the sums exact in float64."""
    q_MI, scale = quantise_tokens(x.reshape(-1, x.shape[-1]), input_scale, activation)
    y_MO = (q_MI.double() @ weight.values.double().t()) * scale.double() * weight.scale.double()
    y_MO = y_MO if bias is None else y_MO + bias.double()
    return y_MO.to(x.dtype).view(*x.shape[:-1], -1)


def int8_linear(
    x: torch.Tensor,
    weight: Int8Weight,
    bias: torch.Tensor | None = None,
    *,
    input_scale: torch.Tensor | None = None,
    activation: Activation | None = None,
) -> torch.Tensor:
    """x (..., I) to (..., O) in its own dtype. bias: (O,) or None.

    input_scale: one element, the scale of all activations; None gives every token its own, from its largest value.
    activation: computed of x before it is quantised.
    """
    x_MI = x.reshape(-1, x.shape[-1])
    if x.device.type == "cpu":
        y_MO = _on_cpu(activated(x_MI, activation), weight, bias, input_scale)
    else:
        y_MO = _on_cuda(x_MI, weight, bias, input_scale, activation)
    return y_MO.view(*x.shape[:-1], -1)


def activated(x: torch.Tensor, activation: Activation | None) -> torch.Tensor:
    """x after the activation, in its dtype."""
    return x if activation is None else F.gelu(x, approximate="tanh")


def _on_cpu(
    x_MI: torch.Tensor, weight: Int8Weight, bias: torch.Tensor | None, input_scale: torch.Tensor | None
) -> torch.Tensor:
    multiply = _onednn("qlinear_pointwise")
    assert weight.packed is not None
    no_zeros = torch.zeros(len(weight.scale), dtype=torch.int32)
    dtype = x_MI.dtype if x_MI.dtype in (torch.float32, torch.bfloat16) else torch.float32
    if input_scale is not None:
        scale = float(input_scale)
        shifted = _steps(x_MI, scale).add_(_SHIFT).to(torch.uint8)
        given = None if bias is None else bias.float()
        y: torch.Tensor = multiply(
            shifted, scale, _SHIFT, weight.packed, weight.scale, no_zeros, given, 1.0, 0, dtype, "none", [], ""
        )
        return y.to(x_MI.dtype)
    scales_M1 = x_MI.abs().amax(dim=1, keepdim=True).float().clamp_min_(_TINY).div_(LARGEST)
    shifted = _steps(x_MI, scales_M1).add_(_SHIFT).to(torch.uint8)
    y = multiply(shifted, 1.0, _SHIFT, weight.packed, weight.scale, no_zeros, None, 1.0, 0, dtype, "none", [], "")
    y = y.mul_(scales_M1)
    return (y if bias is None else y.add_(bias)).to(x_MI.dtype)


def _on_cuda(
    x_MI: torch.Tensor,
    weight: Int8Weight,
    bias: torch.Tensor | None,
    input_scale: torch.Tensor | None,
    activation: Activation | None,
) -> torch.Tensor:
    from nvila.ops.triton_int8 import int8_product, quantise_tokens_fused

    q_MI, scale = quantise_tokens_fused(x_MI, input_scale, activation)
    return int8_product(q_MI, scale.reshape(-1), weight.values, weight.scale, bias, x_MI.dtype)


def _steps(x: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
    """x in float32 steps of the scale, whole numbers from -127 to 127."""
    return (x.float() / scale).round_().clamp_(-LARGEST, LARGEST)


def _onednn(name: str) -> Callable[..., Any]:
    return getattr(torch.ops.onednn, name)


class Int8Linear(nn.Module):
    """A linear layer in W8A8, with the tensors of the compressed-tensors layout under their names.

    weight: (O, I) int8; weight_scale: (O, 1) float32; input_scale: (1,) float32 where all activations share a scale;
    bias: (O,) or None. `input_activation` is computed of the input first; it is not stored.
    """

    weight: torch.Tensor
    weight_scale: torch.Tensor
    input_scale: torch.Tensor | None

    def __init__(self, in_features: int, out_features: int, *, bias: bool, static_input: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.empty(out_features, 1, dtype=torch.float32))
        self.register_buffer("input_scale", torch.empty(1, dtype=torch.float32) if static_input else None)
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None
        self.input_activation: Activation | None = None
        self._ready: Int8Weight | None = None

    def prepared(self) -> Int8Weight:
        """The weight as `int8_linear` takes it; packed on first use and kept until the layer moves."""
        if self._ready is None or self._ready.values.data_ptr() != self.weight.data_ptr():
            self._ready = pack_int8(self.weight, self.weight_scale)
        return self._ready

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., I) to (..., O)."""
        return int8_linear(
            x, self.prepared(), self.bias, input_scale=self.input_scale, activation=self.input_activation
        )

    def _apply(self, fn: Any, recurse: bool = True) -> Int8Linear:
        self._ready = None
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        scale = "a tensor" if self.input_scale is not None else "a token"
        return f"in_features={self.in_features}, out_features={self.out_features}, activation scale {scale}"
