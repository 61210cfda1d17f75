"""A layer of the decoder in W4A16 by AWQ (Lin et al., arXiv 2306.00978): which weights matter, the activations tell.

Before a linear layer is rounded, its columns are multiplied by a scale and the layer in front divided by the same; a
large scale protects a column. The scales are powers of the activations' mean size, alone or divided by powers of the
columns' own; the power is searched by the error of the layers' outputs. Then the ends of each group's range are pulled
in as far as its error falls. Everything is found on the inputs that the layer will see, after the layers before it were
quantised.

Letters: T tokens, I features in, O features out, G groups of a row, S weights of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from nvila.ops.int4_linear import HIGHEST, LOWEST, Int4Linear, pack_words
from nvila.quant.calibrate import Watched, quota, watch
from nvila.quant.options import QuantiseOptions, group_size_for
from nvila.quant.w8a8 import fold_into_norm

POWERS = tuple(step / 20 for step in range(20))
SHRINKS = tuple(1 - step / 20 for step in range(10))
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
LINEARS = (*ATTENTION, "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
NOT_CLIPPED = ("self_attn.q_proj", "self_attn.k_proj")
"""Their product decides, which their outputs' errors do not tell."""
SCALED = (
    ("input_layernorm", ATTENTION),
    ("self_attn.v_proj", ("self_attn.o_proj",)),
    ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    ("mlp.up_proj", ("mlp.down_proj",)),
)


class Rounded(NamedTuple):
    """A weight in 4 bits: values (O, I) int8 and zeros (O, G) int8 from -8 to 7, scales (O, G)."""

    values: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor

    def dequantised(self) -> torch.Tensor:
        """(O, I) float32."""
        groups = self.values.unflatten(1, (self.scales.shape[1], -1)) - self.zeros[..., None].float()
        return (groups * self.scales[..., None].float()).flatten(1)


def round_groups(
    weight: torch.Tensor, group_size: int, dtype: torch.dtype, shrink: torch.Tensor | float = 1.0
) -> Rounded:
    """weight (O, I) to the nearest steps; scales are of `dtype`. shrink: (O, G) or one, what of the range is kept."""
    groups = weight.float().unflatten(1, (-1, group_size))
    low, high = (groups.amin(-1).clamp_max(0) * shrink), (groups.amax(-1).clamp_min(0) * shrink)
    steps = HIGHEST - LOWEST
    scales = ((high - low) / steps).clamp_min(1e-8).to(dtype)
    exact = scales.float()
    zeros = (LOWEST - low / exact).round_().clamp_(LOWEST, HIGHEST)
    values = ((groups / exact[..., None]).round_() + zeros[..., None]).clamp_(LOWEST, HIGHEST)
    return Rounded(values.flatten(1).to(torch.int8), scales, zeros.to(torch.int8))


@torch.no_grad()
def quantise_decoder_layer(
    layer: nn.Module,
    run: Callable[[nn.Module, Any], Any],
    inputs: Sequence[Any],
    options: QuantiseOptions,
    *,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Replaces the linear layers of a Qwen2 or Llama layer, in place, and gives notes.

    run: calls the layer with one of the `inputs`. dtype: what scales and norms are stored in. Layers whose width no
    group size divides stay as they are.
    """
    linears: dict[str, Any] = {name: layer.get_submodule(name) for name in LINEARS}
    sizes = {name: group_size_for(linear.in_features) for name, linear in linears.items()}
    notes: dict[str, Any] = {}
    shrinks: dict[str, torch.Tensor | float] = dict.fromkeys(LINEARS, 1.0)
    if options.rounding == "searched":
        watched = {name: Watched(quota(options, inputs), sizes[name]) for name in LINEARS}
        with watch(linears, watched):
            for one in inputs:
                run(layer, one)
        scales: dict[str, torch.Tensor] = {}
        for front_name, names in SCALED:
            size = sizes[names[0]]
            front: Any = layer.get_submodule(front_name)
            if size is None or (isinstance(front, nn.Linear) and front.out_features != linears[names[0]].in_features):
                continue
            weights = [linears[name].weight.data for name in names]
            note, scale = _search(weights, watched[names[0]], size, dtype)
            notes[f"{front_name} -> {', '.join(names)}"] = note
            scale = _fold(front, scale, dtype)
            for name in names:
                linears[name].weight.data = (linears[name].weight.data.float() * scale).to(linears[name].weight.dtype)
                scales[name] = scale
        for name in LINEARS:
            size = sizes[name]
            if size is not None and name not in NOT_CLIPPED:
                products = watched[name].products
                if name in scales:
                    parts = scales[name].view(-1, size)
                    products = products / parts[:, :, None] / parts[:, None, :]
                shrinks[name] = _search_shrink(linears[name].weight.data, products, size, dtype)
    for name, linear in linears.items():
        size = sizes[name]
        if size is None:
            notes[name] = f"left in 16 bits: no group size divides {linear.in_features}"
            continue
        parent, _, child = name.rpartition(".")
        rounded = round_groups(linear.weight.data, size, dtype, shrinks[name])
        setattr(layer.get_submodule(parent), child, int4_layer(rounded, linear.bias, size))
    return notes


def int4_layer(rounded: Rounded, bias: torch.Tensor | None, group_size: int) -> Int4Linear:
    """A layer of these tensors."""
    num_outputs, num_inputs = rounded.values.shape
    with torch.device("meta"):
        layer = Int4Linear(num_inputs, num_outputs, bias=bias is not None, group_size=group_size)
    tensors = {
        "weight_packed": pack_words(rounded.values),
        "weight_scale": rounded.scales,
        "weight_zero_point": pack_words(rounded.zeros.t()).t().contiguous(),
        "weight_shape": torch.tensor([num_outputs, num_inputs]),
    }
    layer.load_state_dict(tensors if bias is None else {**tensors, "bias": bias}, assign=True)
    return layer


def _fold(front: Any, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Divides what the layer `front` gives by `scale` (I,), and gives what it was really divided by."""
    if not isinstance(front, nn.Linear):
        return fold_into_norm(front, scale, dtype)
    front.weight.data = (front.weight.data.float() / scale[:, None]).to(front.weight.dtype)
    if front.bias is not None:
        front.bias.data = (front.bias.data.float() / scale).to(front.bias.dtype)
    return scale


def _search(
    weights: Sequence[torch.Tensor], watched: Watched, group_size: int, dtype: torch.dtype
) -> tuple[dict[str, float], torch.Tensor]:
    """The scale (I,) with the least error over `weights` (O, I), which read the same input."""
    tokens, mean = watched.tokens, watched.mean.clamp_min(1e-8)
    columns = torch.cat([_relative_size(weight.float(), group_size) for weight in weights]).mean(0).clamp_min(1e-4)
    wanted = [tokens @ weight.float().t() for weight in weights]
    first = best = -1.0
    note, chosen = {}, torch.ones_like(mean)
    for by_columns in (False, True):
        for power in POWERS:
            scale = mean**power / (columns ** (1 - power) if by_columns else 1.0)
            scale = scale.clamp_min(1e-4)
            scale = scale / (scale.amax() * scale.amin()).sqrt()
            error = 0.0
            for weight, outputs in zip(weights, wanted, strict=True):
                rounded = round_groups(weight.float() * scale, group_size, dtype).dequantised() / scale
                error += float((tokens @ rounded.t() - outputs).square().mean())
            if not by_columns and power == 0:
                first = error
            if best < 0 or error < best:
                best, chosen = error, scale
                note = {"power": power, "by_columns": float(by_columns)}
    return {**note, "error_of_nearest": best / first if first > 0 else 1.0}, chosen


def _relative_size(weight: torch.Tensor, group_size: int) -> torch.Tensor:
    """Sizes of weights (O, I) as parts of the largest of their group."""
    groups = weight.abs().unflatten(1, (-1, group_size))
    return (groups / groups.amax(-1, keepdim=True).clamp_min(1e-8)).flatten(1)


def _search_shrink(weight: torch.Tensor, products: torch.Tensor, group_size: int, dtype: torch.dtype) -> torch.Tensor:
    """(O, G): how much of each group's range to keep. products: (G, S, S), mean x x^T of the groups' inputs."""
    found = []
    for rows in weight.split(1024):
        best = chosen = None
        for shrink in SHRINKS:
            gap = round_groups(rows, group_size, dtype, shrink).dequantised() - rows.float()
            gap_GOS = gap.unflatten(1, (-1, group_size)).transpose(0, 1)
            error = (torch.bmm(gap_GOS, products) * gap_GOS).sum(-1).t()
            if best is None or chosen is None:
                best, chosen = error, torch.full_like(error, shrink)
            else:
                chosen = torch.where(error < best, shrink, chosen)
                best = torch.minimum(error, best)
        assert chosen is not None
        found.append(chosen)
    return torch.cat(found)
