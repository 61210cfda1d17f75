"""An adapter put onto its base: beside its weights, to go on or to compare, or into them, for any use without us.

Sums are made in float32 from the base's own numbers, one matrix at a time, and rounded once. What was trained beside
4-bit matrices is added to these, dequantised: they, not the originals, are what it was trained with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nvila.adapters import store, tune
from nvila.adapters.store import Card
from nvila.errors import CheckpointError

PROBE_TEXT = "What does the picture show? Answer in one sentence, then name its colours."


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far two sets of logits are apart, on one picture with a question."""

    largest: float
    mean: float
    same_top: float
    """Share of the positions whose likeliest token is the same."""
    scale: float
    """Standard deviation of the first set, to compare with."""

    def text(self) -> str:
        """As a line for people."""
        return (
            f"largest {self.largest:.2g}, mean {self.mean:.2g} of logits that spread by {self.scale:.2g}; "
            f"the same likeliest token at {self.same_top:.1%} of the positions"
        )


def attach_saved(model: Any, folder: Path) -> Card:
    """Puts the adapter in `folder` beside the weights of its base `model`, in place, and gives its card.

    Whose checkpoint it is has to be checked before (`store.check_base`). Raises CheckpointError for an adapter whose
    names or shapes do not fit.
    """
    card = store.read_card(folder)
    tune.attach(model, card.options)
    tuned = store.read_tuned(folder)
    given = {**tuned, **(store.read_lora(folder) if card.options.has_lora else {})}
    known = dict(model.named_parameters())
    wanted = {name for name in known if tune.LORA in name} | tuned.keys()
    odd = sorted(wanted ^ given.keys()) + sorted(given.keys() - known.keys())
    odd += [name for name in sorted(given.keys() & known.keys()) if given[name].shape != known[name].shape]
    if odd:
        raise CheckpointError(f"{folder}: does not fit {card.base}, the first fault is at {odd[0]}; copy it again")
    with torch.no_grad():
        for name, tensor in given.items():
            known[name].data = tensor.to(known[name].device, torch.float32)
    for name, value in card.visual.items():
        setattr(model.config, name, value)
    model.visual = model.config.visual
    return card


@torch.no_grad()
def merge_in_place(model: Any, dtype: torch.dtype) -> None:
    """Adds LoRA to the matrices that it stands beside, and leaves a plain model with all weights of `dtype`."""
    layers = tune.lora_layers(model) if any(tune.LORA in name for name, _ in model.named_parameters()) else {}
    for name, layer in layers.items():
        base = layer.get_base_layer()
        weight = tune.weight_of(base)
        for adapter in layer.active_adapters:
            low = layer.lora_B[adapter].weight.float() @ layer.lora_A[adapter].weight.float()
            weight = weight + low * layer.scaling[adapter]
        linear = nn.Linear(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        linear.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
        linear.bias = base.bias
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, linear)
    model.__dict__.pop("peft_config", None)
    for parameter in model.parameters():  # not `model.to`, which would round the rotations' frequencies as well
        parameter.data = parameter.data.to(dtype)
    model.tie_weights()


def probe_inputs(processor: Any, model: Any) -> Any:
    """A question about a drawn picture, for comparing what models make of it."""
    from PIL import Image

    picture = Image.linear_gradient("L").convert("RGB")
    picture.paste((200, 30, 60), (40, 60, 180, 120))
    parts = [{"type": "image", "image": picture}, {"type": "text", "text": PROBE_TEXT}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": parts}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        max_tiles=1,
    )
    return inputs.to(model.device)


@torch.no_grad()
def probe_logits(model: Any, inputs: Any, dtype: torch.dtype) -> torch.Tensor:
    """(positions, vocabulary) float32, computed as in training: under autocast where `dtype` is bfloat16."""
    model.eval()
    with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):
        logits: torch.Tensor = model(**inputs).logits[0]
    return logits.float()


def difference(first: torch.Tensor, second: torch.Tensor) -> Difference:
    """Of logits (positions, vocabulary)."""
    gap = (first - second).abs()
    return Difference(
        largest=float(gap.max()),
        mean=float(gap.mean()),
        same_top=float((first.argmax(-1) == second.argmax(-1)).float().mean()),
        scale=float(first.std()),
    )
