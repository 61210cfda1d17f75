"""Which weights of a model learn: layer norms, matrices of low rank beside frozen ones (LoRA), or all.

LoRA is peft's, put into the model in place; the names are those under which plain peft finds them again. What learns is
float32, what does not is kept in the options' dtype (under autocast products are the same either way).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from nvila.adapters.nf4 import NF4Linear, quantise_linears
from nvila.adapters.options import AdapterOptions
from nvila.errors import ConfigError
from nvila.model import NVILAConfig

LANGUAGE_LINEARS = r"llm\.model\.layers\.\d+\.(?:self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)"
LORA = ".lora_"


def lora_pattern(config: NVILAConfig, options: AdapterOptions) -> str:
    """A regular expression for the full names of the linear layers that get LoRA; layers that never run get none."""
    found = []
    if options.vision == "lora":
        used = "|".join(str(number) for number in range(num_vision_layers(config)))
        found.append(
            rf"vision_tower\.vision_model\.encoder\.layers\.(?:{used})\.(?:self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12])"
        )
    if options.language != "full":
        found.append(LANGUAGE_LINEARS)
    return "|".join(f"(?:{pattern})" for pattern in found)


def num_vision_layers(config: NVILAConfig) -> int:
    """Layers of the tower that run: up to the one whose output is taken."""
    layer, stored = config.vision_select_layer, config.vision_config.num_hidden_layers
    return int(layer if layer >= 0 else stored + 1 + layer)


def matching(model: nn.Module, pattern: str) -> list[str]:
    """Names of the linear layers that `pattern` matches as a whole."""
    return [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and re.fullmatch(pattern, name)
    ]


def attach(model: Any, options: AdapterOptions) -> None:
    """Rounds the decoder's matrices to NF4 and adds LoRA where the options say so; changes `model` in place.

    Where every part is trained as a whole, it has float32 afterwards.

    Raises ConfigError when a rank is larger than a matrix, or peft is not installed.
    """
    if options.is_plain:
        for weight in model.parameters():
            weight.data = weight.data.float()
    if options.has_lora:
        check_rank(model, options)
    if options.language == "qlora":
        quantise_linears(model, matching(model, LANGUAGE_LINEARS))
    if options.has_lora:
        inject_lora(model, options)


def check_rank(model: Any, options: AdapterOptions) -> None:
    """Raises ConfigError, with both numbers, for a rank above the smaller side of a matrix."""
    for name in matching(model, lora_pattern(model.config, options)):
        linear: Any = model.get_submodule(name)
        least = min(linear.in_features, linear.out_features)
        if options.rank > least:
            raise ConfigError(
                f"the rank is {options.rank}, but {name} is a matrix of {linear.out_features} x {linear.in_features}; "
                f"give a rank of at most {least}"
            )


def inject_lora(model: Any, options: AdapterOptions) -> None:
    """Puts peft's layers around the linear layers, in place. Raises ConfigError when peft is not installed."""
    peft = import_peft()
    peft.inject_adapter_in_model(lora_config(model.config, options), model)
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            # Under autocast the products are bf16 anyway; a float32 copy of the input for each layer is memory lost.
            module.cast_input_dtype_enabled = False


def lora_config(config: NVILAConfig, options: AdapterOptions, base: str | None = None) -> Any:
    """peft's configuration of these options; `base` is the checkpoint that it names."""
    return import_peft().LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=lora_pattern(config, options),
        base_model_name_or_path=base,
        inference_mode=base is not None,
    )


def import_peft() -> Any:
    """peft. Raises ConfigError, with the command that installs it, where it is not."""
    try:
        import peft
    except ImportError as error:
        raise ConfigError('LoRA needs peft; install it with: pip install "nvila[finetune]"') from error
    return peft


def train_parts(parts: dict[Any, nn.Module], train: Collection[str], options: AdapterOptions) -> None:
    """Has the weights of `parts` (vision, projector, llm) learn that the options name in the parts of `train`.

    Weights change their dtype with it: float32 where they learn, else the options' (those behind LoRA included).
    """
    frozen = torch.bfloat16 if options.frozen_dtype == "bfloat16" else torch.float32
    for part, module in parts.items():
        for name, weight in module.named_parameters():
            learns = part in train and _learns(part, name, options)
            weight.requires_grad_(learns)
            if not options.is_plain:
                weight.data = weight.data.to(torch.float32 if learns else frozen)


def _learns(part: str, name: str, options: AdapterOptions) -> bool:
    """Whether the options have the weight `name` of a trained part learn."""
    if part == "vision" and options.vision == "ln":
        return ".layer_norm" in name
    if (part == "vision" and options.vision == "lora") or (part == "llm" and options.language != "full"):
        return LORA in name
    return True


def lora_layers(model: nn.Module) -> dict[str, Any]:
    """peft's layers in the model, by the names of the linear layers that they stand around."""
    layer = import_peft().tuners.lora.LoraLayer
    return {name: module for name, module in model.named_modules() if isinstance(module, layer)}


def weight_of(linear: Any) -> torch.Tensor:
    """The weight (O, I) of a linear layer in float32, as it is multiplied with."""
    if isinstance(linear, NF4Linear):
        return linear.dequantised(torch.float32)
    weight: torch.Tensor = linear.weight.detach().float()
    return weight
