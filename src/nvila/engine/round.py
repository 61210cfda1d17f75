"""Number formats chosen when a model is loaded: what is not quantised yet is rounded to nearest, in place.

A checkpoint that `nvila quantize` made has searched weights and stays as it is; rounding costs some accuracy more, and
seconds instead of a calibration. Embeddings, head and projector stay as they are (paper, section 2.4).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from nvila.errors import ConfigError, nearest
from nvila.model.quantised import fuse_activations
from nvila.ops.int8_linear import quantise_weight_int8
from nvila.quant.awq import int4_layer, round_groups
from nvila.quant.options import group_size_for
from nvila.quant.w8a8 import int8_layer

VISION_FORMATS = ("w8a8",)
LANGUAGE_FORMATS = ("w4a16",)


def check_formats(vision: str | None, language: str | None) -> None:
    """Raises ConfigError for a format that there is not."""
    for part, given, known in (("vision", vision, VISION_FORMATS), ("language", language, LANGUAGE_FORMATS)):
        if given is not None and given not in known:
            raise ConfigError(
                f"{given!r} is no format of the {part} part{nearest(given, known)}; give {' or '.join(known)}, or none"
            )


@torch.no_grad()
def round_in_place(model: Any, *, vision: str | None, language: str | None) -> None:
    """Bring the linear layers of an `NVILAForConditionalGeneration`'s tower and decoder into these formats.

    Layer by layer, so that no more than one is held twice. A layer whose width no group divides stays as it is.
    """
    check_formats(vision, language)
    if vision is not None:
        for layer in model.vision_tower.vision_model.encoder.layers:
            _replace_linears(layer, _to_int8)
        fuse_activations(model.vision_tower)
    if language is not None:
        for layer in model.llm.model.layers:
            _replace_linears(layer, _to_int4)


def _replace_linears(module: nn.Module, convert: Callable[[nn.Linear], nn.Module]) -> None:
    for name, linear in [(name, child) for name, child in module.named_modules() if type(child) is nn.Linear]:
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, convert(linear))


def _to_int8(linear: nn.Linear) -> nn.Module:
    values, scale = quantise_weight_int8(linear.weight.data)
    return int8_layer(values, scale, linear.bias, None)


def _to_int4(linear: nn.Linear) -> nn.Module:
    size = group_size_for(linear.in_features)
    if size is None:
        return linear
    return int4_layer(round_groups(linear.weight.data, size, linear.weight.dtype), linear.bias, size)
