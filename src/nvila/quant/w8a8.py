"""A layer of the vision tower in W8A8: smoothing into its two LayerNorms, then int8 (SmoothQuant, arXiv 2211.10438).

A few channels of a ViT's activations are far larger than the rest, and would take all of int8's steps. Dividing a
LayerNorm's output by a scale a channel and multiplying the columns behind it by the same moves the size into the
weights, and changes nothing else. How much is moved (the strength) is searched for each LayerNorm by the error of the
layers behind it, no smoothing among the candidates. The inputs of `out_proj` and `fc2` are rounded as they are.

Letters: T tokens, I features in, O features out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from nvila.ops.int8_linear import LARGEST, Int8Linear, quantise_tokens, quantise_weight_int8
from nvila.quant.calibrate import Watched, quota, watch
from nvila.quant.options import Activations, QuantiseOptions

STRENGTHS = tuple(step / 10 for step in range(1, 10))
STATIC_MARGIN = 1.05
"""Room of a static scale above the largest activation seen, and by how much its error may exceed a scale a token's."""
SMOOTHED = {"layer_norm1": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "layer_norm2": ("mlp.fc1",)}
LINEARS = (*SMOOTHED["layer_norm1"], "self_attn.out_proj", "mlp.fc1", "mlp.fc2")


@torch.no_grad()
def quantise_vision_layer(
    layer: nn.Module, inputs: Sequence[torch.Tensor], options: QuantiseOptions, *, dtype: torch.dtype
) -> dict[str, Any]:
    """Replaces the linear layers of a SigLIP encoder layer, in place; inputs: (N, P, C) each. Gives notes.

    dtype: what the LayerNorms are stored in.
    """
    linears = {name: layer.get_submodule(name) for name in LINEARS}
    searched = options.rounding == "searched"
    watched = {name: Watched(quota(options, inputs), None) for name in LINEARS}
    with watch(linears, watched):
        for x in inputs:
            layer(x, None)
    tokens = {name: one.tokens for name, one in watched.items()}
    largest = {name: one.largest for name, one in watched.items()}
    notes: dict[str, Any] = {}
    if searched:
        for norm_name, names in SMOOTHED.items():
            norm: Any = layer.get_submodule(norm_name)
            strength, scale = _search(names, linears, tokens[names[0]], largest[names[0]])
            notes[norm_name] = strength
            if scale is not None:
                scale = fold_into_norm(norm, scale, dtype)
                for name in names:
                    linears[name].weight.data *= scale  # type: ignore[operator]
                    tokens[name] = tokens[name] / scale
                    largest[name] = largest[name] / scale
    for name, linear in linears.items():
        assert isinstance(linear, nn.Linear)
        way: Activations = options.activations if searched else "token"
        replacement, note = _quantised(linear, tokens[name], float(largest[name].max()), way)
        parent, _, child = name.rpartition(".")
        setattr(layer.get_submodule(parent), child, replacement)
        notes[name] = note
    return notes


def fold_into_norm(norm: Any, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Divides a norm's weight (and bias) by `scale` (I,), and gives what it was really divided by.

    The weight is stored rounded to `dtype`; what the rounding adds goes into the scale, and so into the layers behind.
    """
    before = norm.weight.data.float()
    stored = (before / scale).to(dtype).float()
    scale = torch.where(stored != 0, before / stored, scale)
    norm.weight.data = stored.to(norm.weight.dtype)
    if getattr(norm, "bias", None) is not None:
        norm.bias.data = (norm.bias.data.float() / scale).to(norm.bias.dtype)
    return scale


def _search(
    names: Sequence[str], linears: dict[str, nn.Module], tokens: torch.Tensor, largest: torch.Tensor
) -> tuple[float, torch.Tensor | None]:
    """The strength with the least error over the layers `names`, and its scale (I,); 0 and None for no smoothing."""
    weights: list[Any] = [linears[name].weight for name in names]
    columns = torch.stack([weight.float().abs().amax(0) for weight in weights]).amax(0).clamp_min(1e-8)
    rows = largest.clamp_min(1e-8)
    best: tuple[float, float, torch.Tensor | None] = (_error(weights, tokens, None), 0.0, None)
    for strength in STRENGTHS:
        scale = (rows**strength / columns ** (1 - strength)).clamp_min(1e-5)
        scale = scale / (scale.amax() * scale.amin()).sqrt()
        error = _error(weights, tokens, scale)
        if error < best[0]:
            best = (error, strength, scale)
    return best[1], best[2]


def _error(weights: Sequence[torch.Tensor], tokens: torch.Tensor, scale: torch.Tensor | None) -> float:
    x = tokens if scale is None else tokens / scale
    values, x_scale = quantise_tokens(x)
    rounded = values.float() * x_scale
    total = 0.0
    for weight in weights:
        scaled = weight.float() if scale is None else weight.float() * scale
        steps, w_scale = quantise_weight_int8(scaled)
        wanted = tokens @ weight.float().t()
        total += float((rounded @ (steps.float() * w_scale[:, None]).t() - wanted).square().mean())
    return total


def _quantised(
    linear: nn.Linear, tokens: torch.Tensor, largest: float, way: Activations
) -> tuple[Int8Linear, dict[str, Any]]:
    values, scale = quantise_weight_int8(linear.weight.data)
    static = torch.tensor([max(largest, 1e-12) * STATIC_MARGIN / LARGEST], device=values.device)
    rounded = (values.float() * scale[:, None]).t()
    wanted = tokens @ linear.weight.data.float().t()
    errors = []
    for input_scale in (None, static):
        x, x_scale = quantise_tokens(tokens, input_scale)
        errors.append(float((x.float() * x_scale @ rounded - wanted).norm() / wanted.norm().clamp_min(1e-12)))
    use_static = way == "static" or (way == "auto" and errors[1] <= STATIC_MARGIN * errors[0])
    layer = int8_layer(values, scale, linear.bias, static if use_static else None)
    return layer, {"error": errors[int(use_static)], "error_token": errors[0], "error_static": errors[1]}


def int8_layer(
    values: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, input_scale: torch.Tensor | None
) -> Int8Linear:
    """A layer of these tensors."""
    with torch.device("meta"):
        layer = Int8Linear(
            values.shape[1], values.shape[0], bias=bias is not None, static_input=input_scale is not None
        )
    tensors = {"weight": values, "weight_scale": scale[:, None], "bias": bias, "input_scale": input_scale}
    layer.load_state_dict({name: tensor for name, tensor in tensors.items() if tensor is not None}, assign=True)
    return layer


def quantised_head(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """The tensors of a language head (O, I) in int8, without a second float copy of the whole."""
    parts = [quantise_weight_int8(rows) for rows in weight.split(4096)]
    values, scale = torch.cat([one for one, _ in parts]), torch.cat([one for _, one in parts])
    return {"weight": values, "weight_scale": scale[:, None]}
