"""Quantised checkpoints: which layers are in 8 or 4 bits, and a model built with them.

A checkpoint says so in the compressed-tensors layout: `quantization_config` in config.json gives groups of layers (by
patterns of their names) with a scheme each. Two schemes are understood, those that `nvila.quant` writes: W8A8 and
W4A16 with groups. Everything else is refused rather than guessed.

transformers learns of the layers by a quantizer of its own interface, so that dtype, device maps and saving work as
always; it is registered under a name that no file has, because its own way with these files needs another package and
would write the weights out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from nvila.errors import ConfigError
from nvila.ops.int4_linear import VALUES_PER_WORD, Int4Linear
from nvila.ops.int8_linear import Int8Linear

QUANT_METHOD = "compressed-tensors"
_METHOD_HERE = "nvila"


@dataclass(frozen=True, kw_only=True)
class LayerScheme:
    """How one linear layer is stored: int8 with an activation scale a token or a tensor, or int4 in groups."""

    kind: Literal["int8", "int4"]
    static_input: bool = False
    group_size: int = 0

    def build(self, in_features: int, out_features: int, *, bias: bool) -> Int8Linear | Int4Linear:
        """An empty layer of the scheme."""
        if self.kind == "int8":
            return Int8Linear(in_features, out_features, bias=bias, static_input=self.static_input)
        if in_features % self.group_size or in_features % VALUES_PER_WORD:
            raise ConfigError(
                f"quantization_config: a layer of {in_features} inputs cannot be stored in groups of {self.group_size}"
            )
        return Int4Linear(in_features, out_features, bias=bias, group_size=self.group_size)


class Schemes:
    """The schemes of a `quantization_config`, by name of layer. Raises ConfigError for what is not understood."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        method = config.get("quant_method")
        groups = config.get("config_groups")
        if method != QUANT_METHOD or not isinstance(groups, dict) or not groups:
            raise ConfigError(
                f"quantization_config: quant_method is {method!r} with {len(groups or ())} config_groups; only "
                f"{QUANT_METHOD!r} with its groups is read"
            )
        self._ignored = [_pattern(name) for name in config.get("ignore") or ()]
        self._groups = [
            (_pattern(target), _scheme(name, group)) for name, group in groups.items() for target in group["targets"]
        ]

    def of(self, name: str) -> LayerScheme | None:
        """The scheme of the linear layer `name`; None where it stays as it is."""
        if any(pattern.match(name) for pattern in self._ignored):
            return None
        return next((scheme for pattern, scheme in self._groups if pattern.match(name)), None)


def swap_linears(model: nn.Module, config: Mapping[str, Any]) -> list[str]:
    """Puts empty quantised layers where `config` says, in place, and gives their names.

    Raises ConfigError for a configuration that is not understood or that means no layer of the model.
    """
    schemes = Schemes(config)
    linears = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    found = {name: scheme for name in linears if (scheme := schemes.of(name)) is not None}
    if not found:
        raise ConfigError("quantization_config: its targets mean no linear layer of this model")
    for name, scheme in found.items():
        linear = linears[name]
        with torch.device(linear.weight.device):
            layer = scheme.build(linear.in_features, linear.out_features, bias=linear.bias is not None)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.train(linear.training))
    return list(found)


def fuse_activations(tower: nn.Module) -> None:
    """Has the 8-bit second layers of SigLIP's MLPs compute the activation before them, in place.

    Where there is a kernel for it, what the activation gives is never written out.
    """
    mlp: Any
    for mlp in tower.modules():
        second = getattr(mlp, "fc2", None)
        if isinstance(second, Int8Linear) and mlp.config.hidden_act == "gelu_pytorch_tanh":
            mlp.activation_fn = nn.Identity()
            second.input_activation = "gelu_tanh"


def for_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` under the name by which transformers finds the quantizer below."""
    return {"quant_method": _METHOD_HERE, "stored": dict(config)}


@register_quantization_config(_METHOD_HERE)
class _StoredConfig(QuantizationConfigMixin):
    def __init__(self, stored: dict[str, Any], **_: Any) -> None:
        self.quant_method = _METHOD_HERE
        self.stored = stored


@register_quantizer(_METHOD_HERE)
class _StoredQuantizer(HfQuantizer):
    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        swap_linears(model, self.quantization_config.stored)
        fuse_activations(model)

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


def _pattern(target: str) -> re.Pattern[str]:
    """A name as compressed-tensors means it: "re:" and a regular expression, or the name itself."""
    try:
        return re.compile(target[3:]) if target.startswith("re:") else re.compile(re.escape(target) + r"\Z")
    except re.error as error:
        raise ConfigError(f"quantization_config: the target {target!r} is no regular expression ({error})") from error


def _scheme(name: str, group: Mapping[str, Any]) -> LayerScheme:
    weights, inputs = group.get("weights") or {}, group.get("input_activations")
    kind = (weights.get("num_bits"), weights.get("type"), weights.get("strategy"), weights.get("symmetric"))
    if kind == (8, "int", "channel", True) and inputs is not None:
        way = (inputs.get("num_bits"), inputs.get("strategy"), inputs.get("dynamic"), inputs.get("symmetric"))
        if way == (8, "token", True, True):
            return LayerScheme(kind="int8")
        if way == (8, "tensor", False, True):
            return LayerScheme(kind="int8", static_input=True)
    if kind == (4, "int", "group", False) and inputs is None and weights.get("group_size"):
        return LayerScheme(kind="int4", group_size=int(weights["group_size"]))
    raise ConfigError(
        f"quantization_config: group {name!r} has weights {kind} with {'' if inputs else 'un'}quantised inputs; read "
        "are 8-bit channels with 8-bit inputs, and 4-bit asymmetric groups"
    )
