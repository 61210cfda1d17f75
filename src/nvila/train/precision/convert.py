"""Swaps the parts of an NVILA model that train in FP8, in place.

Names of modules and parameters stay, and the parameters are the same objects: checkpoints, optimizers made before and
sharding by class of layer do not notice. The language head, the embeddings, the projector and the norms around the
stacks are never touched. Swap before compiling and before adapters are added.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP, Qwen2RMSNorm

from nvila.errors import ConfigError
from nvila.model import NVILAForConditionalGeneration
from nvila.train.precision.activations import Fp8GatedMLP, Fp8GeluTanh, Fp8LayerNorm, Fp8RMSNorm
from nvila.train.precision.linear import Fp8Linear, InputPacker
from nvila.train.precision.matmul import CONTRACTION_MULTIPLE, has_fp8_matmul
from nvila.train.precision.options import PrecisionOptions, Recipe

OWN_MODULES = (Fp8Linear, Fp8RMSNorm, Fp8LayerNorm, Fp8GatedMLP, Fp8GeluTanh)
RMS_NORMS = (Qwen2RMSNorm, LlamaRMSNorm)
GATED_MLPS = (Qwen2MLP, LlamaMLP)
DECODERS = ("qwen2", "llama")
# Attentions that form the scores keep them and not their output; every other kind keeps its output too.
KEEPS_NO_OUTPUT = ("eager", "segments")


@dataclass(frozen=True)
class PrecisionReport:
    """Full names of modules: what became of each that was swapped, and why each other one of their kinds was not."""

    swapped: dict[str, str]
    left: dict[str, str]

    def summary(self) -> str:
        """One line a kind of change or reason, with the number of modules."""
        changes = [f"{count} modules: {what}" for what, count in Counter(self.swapped.values()).items()]
        reasons = [f"{count} modules left: {why}" for why, count in Counter(self.left.values()).items()]
        return "\n".join([*changes, *reasons])


def apply_precision(model: NVILAForConditionalGeneration, options: PrecisionOptions) -> PrecisionReport:
    """Swaps the decoder's layers, and the vision tower's if asked for, as `options` say.

    Raises ConfigError when the model has FP8 parts already, when its decoder is of another family than Qwen2 and Llama,
    or when torchao is asked for and not installed. Nothing is changed then.
    """
    _check(model, options)
    swaps = _Swaps(options)
    decoder: Any = model.llm.model
    for index, layer in enumerate(decoder.layers):
        _swap_decoder_layer(swaps, layer, f"llm.model.layers.{index}")
    if options.vision:
        encoder: Any = model.vision_tower.vision_model.encoder
        for index, layer in enumerate(encoder.layers):
            _swap_vision_layer(swaps, layer, f"vision_tower.vision_model.encoder.layers.{index}")
    if swaps.for_torchao:
        _swap_by_torchao(model, swaps.for_torchao, options.linears)
    _note_untouched(model, swaps, options)
    return PrecisionReport(swaps.swapped, swaps.left)


@dataclass
class _Swaps:
    """Carries out single swaps and notes what was done."""

    options: PrecisionOptions
    swapped: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    for_torchao: set[str] = field(default_factory=set)

    def linears(self, parent: Any, prefix: str, names: tuple[str, ...], *, kept_anyway: bool = False) -> None:
        """The linear layers `names` of `parent`, which read one tensor; `kept_anyway` if others keep it unpacked."""
        reasons = {name: self._reason_for_16_bit(parent.get_submodule(name)) for name in names}
        recipes: dict[str, Recipe] = {name: "none" if reasons[name] else self.options.linears for name in names}
        packer = InputPacker("none" if all(reasons.values()) else self.options.linears)
        for name in names:
            linear, path = parent.get_submodule(name), f"{prefix}.{name}"
            keep = self.options.inputs and not kept_anyway and type(linear) is nn.Linear
            if recipes[name] != "none" and self.options.backend == "torchao":
                self.for_torchao.add(path)
                self.swapped[path] = f"linear layer, {recipes[name]} products by torchao"
            elif recipes[name] == "none" and not keep:
                kept = "; its input is kept by the attention anyway" if kept_anyway and self.options.inputs else ""
                self.left[path] = reasons[name] + kept
            else:
                layer = Fp8Linear.from_linear(linear, recipe=recipes[name], keep_packed=keep, packer=packer)
                setattr(parent, name, layer)
                products = "16-bit" if recipes[name] == "none" else recipes[name]
                self.swapped[path] = f"linear layer, {products} products, input kept in {'FP8' if keep else '16 bits'}"

    def module(self, parent: Any, prefix: str, name: str, new: nn.Module, what: str) -> None:
        setattr(parent, name, new)
        self.swapped[f"{prefix}.{name}"] = what

    def _reason_for_16_bit(self, linear: nn.Module) -> str:
        if type(linear) is not nn.Linear:
            return f"a {type(linear).__name__}, not a plain linear layer"
        features = linear.in_features, linear.out_features
        shape = f"{features[0]} to {features[1]} features"
        if self.options.linears == "none":
            return "FP8 products are off"
        if any(number % CONTRACTION_MULTIPLE for number in features):
            return f"{shape}: not multiples of {CONTRACTION_MULTIPLE}"
        if min(features) < self.options.min_features:
            return f"{shape}: under min_features = {self.options.min_features}"
        return ""


def _swap_decoder_layer(swaps: _Swaps, layer: Any, prefix: str) -> None:
    attention, kept_anyway = layer.self_attn, layer.self_attn.config._attn_implementation not in KEEPS_NO_OUTPUT
    swaps.linears(attention, f"{prefix}.self_attn", ("q_proj", "k_proj", "v_proj"))
    swaps.linears(attention, f"{prefix}.self_attn", ("o_proj",), kept_anyway=kept_anyway)
    swaps.linears(layer.mlp, f"{prefix}.mlp", ("gate_proj", "up_proj"))
    swaps.linears(layer.mlp, f"{prefix}.mlp", ("down_proj",))
    for name in ("input_layernorm", "post_attention_layernorm"):
        norm = getattr(layer, name)
        if not swaps.options.norms or not isinstance(norm, RMS_NORMS):
            swaps.left[f"{prefix}.{name}"] = _off_or_other(swaps.options.norms, "norms", norm)
        else:
            swaps.module(layer, prefix, name, Fp8RMSNorm(norm), "norm, input kept in FP8")
    mlp, silu = layer.mlp, attention.config.hidden_act == "silu"
    if not swaps.options.activations or not silu or not isinstance(mlp, GATED_MLPS):
        swaps.left[f"{prefix}.mlp"] = _off_or_other(swaps.options.activations, "activations", mlp.act_fn)
    else:
        gated = Fp8GatedMLP(mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        swaps.module(layer, prefix, "mlp", gated, "gated activation, gate and up kept in FP8")


def _swap_vision_layer(swaps: _Swaps, layer: Any, prefix: str) -> None:
    attention, kept_anyway = layer.self_attn, layer.self_attn.config._attn_implementation not in KEEPS_NO_OUTPUT
    swaps.linears(attention, f"{prefix}.self_attn", ("q_proj", "k_proj", "v_proj"))
    swaps.linears(attention, f"{prefix}.self_attn", ("out_proj",), kept_anyway=kept_anyway)
    swaps.linears(layer.mlp, f"{prefix}.mlp", ("fc1",))
    swaps.linears(layer.mlp, f"{prefix}.mlp", ("fc2",))
    for name in ("layer_norm1", "layer_norm2"):
        norm = getattr(layer, name)
        if not swaps.options.norms or type(norm) is not nn.LayerNorm:
            swaps.left[f"{prefix}.{name}"] = _off_or_other(swaps.options.norms, "norms", norm)
        else:
            swaps.module(layer, prefix, name, Fp8LayerNorm.from_norm(norm), "norm, input kept in FP8")
    if not swaps.options.activations or attention.config.hidden_act != "gelu_pytorch_tanh":
        reason = _off_or_other(swaps.options.activations, "activations", layer.mlp.activation_fn)
        swaps.left[f"{prefix}.mlp.activation_fn"] = reason
    else:
        swaps.module(layer.mlp, f"{prefix}.mlp", "activation_fn", Fp8GeluTanh(), "activation, input kept in FP8")


def _off_or_other(on: bool, part: str, module: nn.Module) -> str:
    return f"a {type(module).__name__}, for which there is no FP8 version" if on else f"FP8 {part} are off"


def _note_untouched(model: nn.Module, swaps: _Swaps, options: PrecisionOptions) -> None:
    """Gives a reason for every linear layer, norm and embedding outside of the layers that are looked at."""
    reasons = {
        "mm_projector.": "part of the projector",
        "vision_tower.": "outside of the encoder's layers" if options.vision else "the vision tower is off",
        "llm.": "language head, embedding or last norm",
    }
    for path, module in model.named_modules():
        known = path in swaps.swapped or path in swaps.left
        if not known and isinstance(module, (nn.Linear, nn.Embedding, nn.LayerNorm, *RMS_NORMS)):
            swaps.left[path] = next(reason for start, reason in reasons.items() if path.startswith(start))


def _check(model: NVILAForConditionalGeneration, options: PrecisionOptions) -> None:
    for path, module in model.named_modules():
        if isinstance(module, OWN_MODULES) or type(module).__module__.startswith("torchao."):
            raise ConfigError(f"the model has FP8 parts already ({path}); apply_precision works once, on a fresh model")
    family = model.config.text_config.model_type
    if family not in DECODERS:
        raise ConfigError(f"FP8 training knows decoders of the families {', '.join(DECODERS)}; this one is {family!r}")
    if options.backend == "torchao":
        _torchao_config(options.linears, torch.device("cpu"))


def _swap_by_torchao(model: nn.Module, names: set[str], recipe: Recipe) -> None:
    from torchao.float8 import convert_to_float8_training

    config = _torchao_config(recipe, next(model.parameters()).device)
    convert_to_float8_training(model, module_filter_fn=lambda _, name: name in names, config=config)


def _torchao_config(recipe: Recipe, device: torch.device) -> Any:
    """torchao's recipe of that name, in its own emulation where the device multiplies no FP8."""
    try:
        from torchao.float8 import Float8LinearConfig
    except ImportError as error:
        raise ConfigError("backend is 'torchao', which is not installed; pip install torchao, or use 'own'") from error
    config = Float8LinearConfig.from_recipe_name(recipe)
    return dataclasses.replace(config, emulate=not has_fp8_matmul(device), pad_inner_dim=True)
