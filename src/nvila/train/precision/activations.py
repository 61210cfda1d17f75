"""Norms and activation functions that keep their inputs for the backward pass in E4M3, with a scale a group of 128
channels (COAT, its mixed granularity).

The forward pass is the plain one to the bit. Gradients are computed in float32 from the inputs read back, whose
rounding (up to 1/16 of a value, of either sign) makes them noisy rather than biased. Norms keep the exact statistics,
a float32 number or two a row; without gradients nothing is kept. The residual stream, and what attention keeps of its
own, stay in 16 bits.

Letters: C channels, I the width inside an MLP.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from nvila.train.precision.fp8_format import GROUP_SIZE, QuantisedTensor, dequantise, quantise_groups


class RMSNormLike(Protocol):
    """What transformers' RMSNorm of Qwen2 and Llama has."""

    weight: nn.Parameter
    variance_epsilon: float
    training: bool


class Fp8RMSNorm(nn.Module):
    """transformers' RMSNorm of Qwen2 and Llama, sharing its weight; (..., C) to (..., C)."""

    def __init__(self, norm: RMSNormLike) -> None:
        super().__init__()
        self.weight = norm.weight
        self.variance_epsilon = norm.variance_epsilon
        self.train(norm.training)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = _RMSNorm.apply(
            hidden_states, self.weight, self.variance_epsilon, torch.is_grad_enabled()
        )
        return output

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self.variance_epsilon}"


class Fp8LayerNorm(nn.LayerNorm):
    """torch's LayerNorm over the channels, with weight and bias; (..., C) to (..., C)."""

    @classmethod
    def from_norm(cls, norm: nn.LayerNorm) -> Fp8LayerNorm:
        """Shares the parameters of `norm`, which normalises the last dimension and has a weight and a bias."""
        assert len(norm.normalized_shape) == 1
        layer = cls(norm.normalized_shape[0], norm.eps, device="meta")
        layer.weight, layer.bias = norm.weight, norm.bias
        layer.train(norm.training)
        return layer

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = _LayerNorm.apply(input, self.weight, self.bias, self.eps, torch.is_grad_enabled())
        return output


class Fp8GatedMLP(nn.Module):
    """The MLP of Qwen2 and Llama, silu(gate) * up, with the linear layers that it is given; (..., C) to (..., C)."""

    def __init__(self, gate_proj: nn.Module, up_proj: nn.Module, down_proj: nn.Module) -> None:
        super().__init__()
        self.gate_proj = gate_proj
        self.up_proj = up_proj
        self.down_proj = down_proj
        self.train(gate_proj.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.down_proj(silu_mul(self.gate_proj(x), self.up_proj(x)))
        return output


class Fp8GeluTanh(nn.Module):
    """SigLIP's activation function, gelu by its tanh approximation; any shape (..., I)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = _GeluTanh.apply(x, torch.is_grad_enabled())
        return output


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up for two tensors (..., I) of one type; keeps both in FP8, and neither the product nor the silu."""
    output: torch.Tensor = _SiluMul.apply(gate, up, torch.is_grad_enabled())
    return output


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float, keep: bool) -> torch.Tensor:
        ctx.x_dtype = x.dtype
        # Step by step what transformers does, so that the results are the same to the bit.
        x_float = x.float()
        rstd = torch.rsqrt(x_float.pow(2).mean(-1, keepdim=True) + eps)
        output = weight * (x_float * rstd).to(x.dtype)
        if keep:
            _keep(ctx, (x,), weight, rstd)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x,), (weight, rstd) = _kept(ctx, 1)
        normed, grad = x * rstd, grad.float()
        grad_normed = grad * weight.float()
        grad_x = rstd * (grad_normed - normed * (grad_normed * normed).mean(-1, keepdim=True))
        grad_weight = _over_rows(grad * normed, weight) if ctx.needs_input_grad[1] else None
        return grad_x.to(ctx.x_dtype), grad_weight, None, None


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, keep: bool
    ) -> torch.Tensor:
        ctx.x_dtype = x.dtype
        if keep:
            variance, mean = torch.var_mean(x.float(), -1, correction=0, keepdim=True)
            _keep(ctx, (x,), weight, bias, mean, torch.rsqrt(variance + eps))
        return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x,), (weight, bias, mean, rstd) = _kept(ctx, 1)
        normed, grad = (x - mean) * rstd, grad.float()
        grad_normed = grad * weight.float()
        along = (grad_normed * normed).mean(-1, keepdim=True)
        grad_x = rstd * (grad_normed - grad_normed.mean(-1, keepdim=True) - normed * along)
        grad_weight = _over_rows(grad * normed, weight) if ctx.needs_input_grad[1] else None
        grad_bias = _over_rows(grad, bias) if ctx.needs_input_grad[2] else None
        return grad_x.to(ctx.x_dtype), grad_weight, grad_bias, None, None


class _SiluMul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor, keep: bool) -> torch.Tensor:
        ctx.dtypes = gate.dtype, up.dtype
        if keep:
            _keep(ctx, (gate, up))
        return F.silu(gate) * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        (gate, up), _ = _kept(ctx, 2)
        grad, sigmoid = grad.float(), torch.sigmoid(gate)
        grad_gate = grad * up * sigmoid * (1 + gate * (1 - sigmoid))
        return grad_gate.to(ctx.dtypes[0]), (grad * gate * sigmoid).to(ctx.dtypes[1]), None


class _GeluTanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, keep: bool) -> torch.Tensor:
        ctx.x_dtype = x.dtype
        if keep:
            _keep(ctx, (x,))
        return F.gelu(x, approximate="tanh")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (x,), _ = _kept(ctx, 1)
        grad_x: torch.Tensor = torch.ops.aten.gelu_backward(grad.float(), x, approximate="tanh")
        return grad_x.to(ctx.x_dtype), None


def _keep(ctx: Any, inputs: tuple[torch.Tensor, ...], *exact: torch.Tensor) -> None:
    """Saves `inputs` in FP8 and `exact` as they are."""
    packed = [part for x in inputs for part in quantise_groups(x.detach())[:2]]
    ctx.save_for_backward(*packed, *exact)


def _kept(ctx: Any, num_inputs: int) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]:
    """What `_keep` saved: the inputs in float32, and the exact ones."""
    saved = ctx.saved_tensors
    pairs = zip(saved[: 2 * num_inputs : 2], saved[1 : 2 * num_inputs : 2], strict=True)
    inputs = [dequantise(QuantisedTensor(values, scale, GROUP_SIZE), torch.float32) for values, scale in pairs]
    return inputs, saved[2 * num_inputs :]


def _over_rows(grad: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(..., C) summed to (C,) in the type of `like`."""
    return grad.flatten(0, -2).sum(0).to(like.dtype)
