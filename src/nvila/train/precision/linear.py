"""Linear layers that keep their input in FP8 for the backward pass, that multiply in FP8, or both.

What is kept in FP8 (COAT, its mixed granularity): groups of 128 channels where the product is in 16 bits, and just what
the product takes (one scale a tensor or a row) where it is in FP8. Layers that read one tensor (query, key and value;
gate and up) pack it once and keep one copy. Weights are packed anew in the backward pass rather than kept twice.

The three products of a step, as torchao's recipes of the same names have them: "tensorwise" takes E4M3 values and
weights and E5M2 gradients, a scale each; "rowwise" takes E4M3 everywhere, with scales (powers of two) along the
dimension that is summed over, so operands are packed anew for each product.

Letters: M tokens, I features in, O features out.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from nvila.train.precision.fp8_format import (
    E5M2,
    QuantisedTensor,
    dequantise,
    quantise_groups,
    quantise_rows,
    quantise_tensor,
    transpose,
)
from nvila.train.precision.matmul import scaled_matmul
from nvila.train.precision.options import Recipe


class InputPacker:
    """Packs the input of the linear layers that share this object; a tensor that several of them read, once.

    Keeps what it packed only as long as the tensor that it was packed from lives. Copies and pickles start empty.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._source: weakref.ref[torch.Tensor] | None = None
        self._packed: tuple[int, torch.dtype, QuantisedTensor] | None = None

    def pack(self, x: torch.Tensor, dtype: torch.dtype) -> QuantisedTensor:
        """`x` (..., I), seen as `dtype`, as (M, I): in groups for the recipe "none", else as its products take it."""
        if torch.compiler.is_compiling():
            # The compiler finds equal work by itself, and cannot follow weak references.
            return self._pack(x, dtype)
        if self._packed is not None and self._source is not None and self._source() is x:
            version, packed_dtype, packed = self._packed
            if (version, packed_dtype) == (x._version, dtype):
                return packed
        packed = self._pack(x, dtype)
        self._source = weakref.ref(x, self._forget)
        self._packed = (x._version, dtype, packed)
        return packed

    def _pack(self, x: torch.Tensor, dtype: torch.dtype) -> QuantisedTensor:
        x_MI = x.detach().reshape(-1, x.shape[-1]).to(dtype)
        if self.recipe == "none":
            return quantise_groups(x_MI)
        return quantise_tensor(x_MI) if self.recipe == "tensorwise" else quantise_rows(x_MI)

    def _forget(self, source: weakref.ref[torch.Tensor]) -> None:
        if self._source is source:
            self._source = self._packed = None

    def __reduce__(self) -> tuple[type[InputPacker], tuple[Recipe]]:
        return InputPacker, (self.recipe,)

    def __deepcopy__(self, memo: dict[int, Any]) -> InputPacker:
        memo[id(self)] = copy = InputPacker(self.recipe)
        return copy


class Fp8Linear(nn.Linear):
    """A linear layer with the parameters, and their names, of the one it is made from.

    recipe: how the products are made; "none" makes them as usual, and the output is then the usual one to the bit.
    keep_packed: whether the packed input is kept for the backward pass, or the input as it is.
    """

    recipe: Recipe
    keep_packed: bool
    packer: InputPacker

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, *, recipe: Recipe, keep_packed: bool, packer: InputPacker | None = None
    ) -> Fp8Linear:
        """Shares the parameters of `linear`; `packer` is the one of all layers that read the same tensor."""
        layer = cls(linear.in_features, linear.out_features, bias=False, device="meta")
        layer.weight, layer.bias = linear.weight, linear.bias
        layer.recipe, layer.keep_packed = recipe, keep_packed
        layer.packer = packer or InputPacker(recipe)
        layer.train(linear.training)
        return layer

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., I) to (..., O), in autocast's type where autocast is on."""
        dtype = compute_dtype(input)
        keep = torch.is_grad_enabled() and self.weight.requires_grad
        if self.recipe == "none" and not (keep and self.keep_packed):
            return F.linear(input, self.weight, self.bias)
        values, scale, group_size = self.packer.pack(input, dtype)
        plan = LinearPlan(self.recipe, dtype, group_size, self.keep_packed)
        output: torch.Tensor = _Linear.apply(input, self.weight, self.bias, values, scale, plan)
        return output

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, recipe={self.recipe}, keep_packed={self.keep_packed}"


@dataclass(frozen=True)
class LinearPlan:
    """How one call of a linear layer computes: see `Fp8Linear`; `dtype` is the type of the products' results."""

    recipe: Recipe
    dtype: torch.dtype
    group_size: int
    keep_packed: bool


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        values: torch.Tensor,
        scale: torch.Tensor,
        plan: LinearPlan,
    ) -> torch.Tensor:
        ctx.plan, ctx.x_shape, ctx.x_dtype = plan, x.shape, x.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype
        needed = ctx.needs_input_grad[1]
        kept = (values, scale) if plan.keep_packed else (x.to(plan.dtype), None)
        ctx.save_for_backward(weight, *(kept if needed else (None, None)))
        weight = weight.to(plan.dtype)
        if plan.recipe == "none":
            return F.linear(x.to(plan.dtype), weight, None if bias is None else bias.to(plan.dtype))
        packed = QuantisedTensor(values, scale, plan.group_size)
        output = scaled_matmul(packed, pack_operand(weight, plan.recipe), plan.dtype, fast_accumulation=True)
        output = output if bias is None else output + bias.to(plan.dtype)
        return output.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        plan: LinearPlan = ctx.plan
        weight, kept, scale = ctx.saved_tensors
        grad_MO = grad.reshape(-1, grad.shape[-1]).to(plan.dtype)
        grad_x = grad_weight = grad_bias = None
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        if plan.recipe == "tensorwise":
            packed_grad = quantise_tensor(grad_MO, format=E5M2)
            if needs_x:
                packed_weight = transpose(quantise_tensor(weight.to(plan.dtype)))
                grad_x = scaled_matmul(packed_grad, packed_weight, plan.dtype)
            if needs_weight:
                packed_x = transpose(_kept_packed(kept, scale, plan))
                grad_weight = scaled_matmul(transpose(packed_grad), packed_x, plan.dtype)
        else:
            if needs_x:
                grad_x = _product(grad_MO, weight.to(plan.dtype).t(), plan)
            if needs_weight:
                grad_weight = _product(grad_MO.t(), _kept_plain(kept, scale, plan).t(), plan)
        if needs_bias:
            grad_bias = grad_MO.sum(0).to(ctx.bias_dtype)
        return (
            None if grad_x is None else grad_x.view(ctx.x_shape).to(ctx.x_dtype),
            None if grad_weight is None else grad_weight.to(weight.dtype),
            grad_bias,
            None,
            None,
            None,
        )


def _product(a: torch.Tensor, b: torch.Tensor, plan: LinearPlan) -> torch.Tensor:
    """a @ b.T of matrices (R, K) and (S, K) of `plan.dtype`, in FP8 with scales a row unless the recipe is "none"."""
    if plan.recipe == "none":
        with torch.autocast(a.device.type, enabled=False):
            return a @ b.t()
    return scaled_matmul(pack_operand(a, plan.recipe), pack_operand(b, plan.recipe), plan.dtype)


def pack_operand(matrix: torch.Tensor, recipe: Recipe) -> QuantisedTensor:
    """A matrix (R, K), packed in E4M3 for a product that sums over K."""
    return quantise_tensor(matrix) if recipe == "tensorwise" else quantise_rows(matrix)


def _kept_packed(kept: torch.Tensor, scale: torch.Tensor | None, plan: LinearPlan) -> QuantisedTensor:
    if scale is None:
        return quantise_tensor(kept.reshape(-1, kept.shape[-1]))
    return QuantisedTensor(kept, scale, plan.group_size)


def _kept_plain(kept: torch.Tensor, scale: torch.Tensor | None, plan: LinearPlan) -> torch.Tensor:
    if scale is None:
        return kept.reshape(-1, kept.shape[-1])
    return dequantise(QuantisedTensor(kept, scale, plan.group_size), plan.dtype)


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """What a matrix product of `x` is computed in: autocast's type where it is on, else that of `x`."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
