"""Plain tensors out of a quantised checkpoint, for code that has its own layers.

Give the tensors by name, as `nvila.model.checkpoint.read_weights` reads them. `NVILAForConditionalGeneration` needs
none of this: `from_pretrained` builds the layers (`nvila.model.quantised`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch

from nvila.ops.int4_linear import unpack_words

Kind = Literal["int8", "int4", "plain"]


class Int8Tensors(NamedTuple):
    """values (O, I) int8; scale (O,) float32; input_scale (1,) float32, None for a scale a token; bias (O,)."""

    values: torch.Tensor
    scale: torch.Tensor
    input_scale: torch.Tensor | None
    bias: torch.Tensor | None


class Int4Tensors(NamedTuple):
    """packed (O, I / 8) int32, eight from -8 to 7 in each with 8 added; scales and zeros (O, G), zeros int8; bias (O,).

    A weight is (value - zero) * scale of its group.
    """

    packed: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    group_size: int
    bias: torch.Tensor | None


def kind_of(weights: Mapping[str, torch.Tensor], layer: str) -> Kind:
    """How the linear layer is stored."""
    if f"{layer}.weight_packed" in weights:
        return "int4"
    return "int8" if weights[f"{layer}.weight"].dtype == torch.int8 else "plain"


def int8_tensors(weights: Mapping[str, torch.Tensor], layer: str) -> Int8Tensors:
    """The tensors of a layer that is stored in 8 bits; feed `nvila.ops.int8_linear.pack_int8` with the first two."""
    return Int8Tensors(
        weights[f"{layer}.weight"],
        weights[f"{layer}.weight_scale"].reshape(-1),
        weights.get(f"{layer}.input_scale"),
        weights.get(f"{layer}.bias"),
    )


def int4_tensors(weights: Mapping[str, torch.Tensor], layer: str) -> Int4Tensors:
    """The tensors of a layer that is stored in 4 bits; feed `nvila.ops.int4_linear.pack_int4` with the first three."""
    packed, scales = weights[f"{layer}.weight_packed"], weights[f"{layer}.weight_scale"]
    zeros = unpack_words(weights[f"{layer}.weight_zero_point"].t(), len(packed)).t().contiguous()
    group_size = packed.shape[1] * 8 // scales.shape[1]
    return Int4Tensors(packed, scales, zeros, group_size, weights.get(f"{layer}.bias"))
