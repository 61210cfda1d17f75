"""What a training step takes, counted on the model itself without memory for it.

The model is built on torch's `meta` device, with its adapters and with what learns; weights, gradients and optimiser
states are counted from its tensors. Then the heaviest micro-batch runs forward and backward on fake tensors: what
autograd keeps is counted as it is kept, the operations as they are called. So a new method is counted right without a
formula of its own. Left out: what is there for a moment in a layer (estimated in plan.py), the allocator's fragments,
and attention's masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from nvila.adapters.nf4 import NF4Linear
from nvila.adapters.tune import attach, num_vision_layers
from nvila.layouts import read_settings, resolve
from nvila.model import NVILAConfig, NVILAForConditionalGeneration, s2
from nvila.model.checkpoint import read_config
from nvila.train.dense import DenseHead
from nvila.train.learner import Learner
from nvila.train.recipe import Part, Recipe
from nvila.train.stages import prepare
from nvila.train.start import set_visual

PARTS: tuple[Part, ...] = ("vision", "projector", "llm")


@dataclass(frozen=True, kw_only=True)
class PartCount:
    """One part of the model: numbers of weights, and bytes."""

    total: int
    trained: int
    weight_bytes: int
    """Of frozen and learned weights, in the form that they are kept in."""
    trained_bytes: int
    """Of those that learn, which a gradient has too."""


@dataclass(frozen=True, kw_only=True)
class StepCount:
    """One micro-batch: bytes of each part that wait for the backward pass, and operations."""

    vision: int
    projector: int
    llm: int
    flops_media: float
    """Floating point operations of tiles, both ways."""
    flops_text: float
    """Of tokens in the decoder's layers; the head's are not among them."""


def read_base_config(name: str) -> NVILAConfig:
    """The configuration of the checkpoint `name`. Raises CheckpointError or ConfigError."""
    return read_config(read_settings(resolve(name)))


def skeleton(recipe: Recipe) -> Learner:
    """What a fine-tuning's recipe trains, without memory: adapters on it, and `requires_grad` where it learns.

    Raises ConfigError for adapters that do not fit the model.
    """
    stage = recipe.stage[0]
    config = read_base_config(recipe.model.init)
    config._attn_implementation = recipe.model.attention
    with torch.device("meta"):
        model = NVILAForConditionalGeneration(config)
        set_visual(model, stage.visual)
        attach(model, recipe.adapters)
        learner = Learner(model, DenseHead((), config.vision_config.hidden_size))
    prepare(learner, stage, adapters=recipe.adapters)
    return learner


def count_parts(learner: Learner) -> dict[Part, PartCount]:
    """Weights of each part; of layers in 4 bits as many as they stand for, and the bytes that they take."""
    found: dict[Part, PartCount] = {}
    for name, part in learner.parts().items():
        weights = list(part.parameters())
        trained = [weight for weight in weights if weight.requires_grad]
        buffers = part.state_dict(keep_vars=True)
        kept = [tensor for tensor in buffers.values() if not isinstance(tensor, nn.Parameter)]
        packed = sum(
            module.in_features * module.out_features for module in part.modules() if isinstance(module, NF4Linear)
        )
        found[name] = PartCount(
            total=sum(weight.numel() for weight in weights) + packed,
            trained=sum(weight.numel() for weight in trained),
            weight_bytes=sum(tensor.nbytes for tensor in [*weights, *kept]),
            trained_bytes=sum(weight.nbytes for weight in trained),
        )
    return found


def count_step(learner: Learner, *, tokens: int, tiles: int, bf16: bool) -> StepCount:
    """A micro-batch of so many tokens and tiles, on fake tensors, into which the learner's are turned."""
    model = learner.model
    meter = _Kept()
    with FakeTensorMode(allow_non_fake_inputs=True):
        _make_fake(model)
        model.train()
        meter.ignored = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
        embeds = torch.zeros(1, tokens, model.config.text_config.hidden_size, dtype=_stream_dtype(model))
        embeds.requires_grad_(_learns(model.vision_tower) or _learns(model.mm_projector))

        def read() -> torch.Tensor:
            with meter.part("llm"):
                # No mask, as rows of one sample have none; transformers' Qwen2 would make one for fake tensors.
                no_mask = {"full_attention": None} if model.config.text_config.model_type == "qwen2" else None
                output = model.language_model(inputs_embeds=embeds, use_cache=False, attention_mask=no_mask)
            hidden: torch.Tensor = output.last_hidden_state
            return hidden

        flops_media = _both_ways(lambda: _see(model, tiles, meter), bf16=bf16) if tiles else 0.0
        flops_text = _both_ways(read, bf16=bf16)
    attention_media, attention_text = _attention_flops(model, tokens, tiles)
    return StepCount(
        **{part: meter.bytes[part] for part in PARTS},
        flops_media=flops_media + attention_media,
        flops_text=flops_text + attention_text,
    )


def _both_ways(forward: Callable[[], torch.Tensor], *, bf16: bool) -> float:
    """Operations of `forward`, and of its backward pass where it has one."""
    with FlopCounterMode(display=False) as counter, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = forward()
    flops = float(counter.get_total_flops())
    if output.requires_grad:
        with FlopCounterMode(display=False) as counter:
            output.float().sum().backward()
        flops += float(counter.get_total_flops())
    return flops


def _see(model: Any, tiles: int, meter: _Kept) -> torch.Tensor:
    """Tiles through tower and projector, as those of pictures of the usual grid."""
    grids = usual_grids(model, tiles)
    side = model.config.tile_size
    with meter.part("vision"):
        features = model.encode_tiles(torch.zeros(sum(map(model.num_image_tiles, grids)), 3, side, side))
    with meter.part("projector"):
        tokens = model.get_image_features(None, grids, features).pooler_output
    return torch.cat(tokens)


def usual_grids(model: Any, tiles: int) -> list[s2.Grid]:
    """Grids of pictures with at least so many tiles together: of Dynamic-S2 squares of its last scale, else single."""
    scales = model.visual.s2_scales
    if model.visual.image_mode != "dynamic_s2":
        return [(1, 1)] * tiles
    square = (scales[-1] // scales[0],) * 2
    whole, left = divmod(tiles, model.num_image_tiles(square))
    grids: list[s2.Grid] = [square] * whole + [(1, 1)] * (-(-left // model.num_image_tiles((1, 1))))
    return grids


def _attention_flops(model: Any, tokens: int, tiles: int) -> tuple[float, float]:
    """Of attention in the tower and in the decoder, which the counter does not know on CPUs, both ways."""
    text, vision = model.config.text_config, model.config.vision_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    patches = (model.config.tile_size // model.config.visual.patch_size) ** 2
    decoder = 4.0 * tokens * tokens / 2 * text.num_attention_heads * head * text.num_hidden_layers
    tower = 4.0 * tiles * patches**2 * vision.hidden_size * num_vision_layers(model.config)
    trains_tower = _learns(model.vision_tower)
    return (3 if trains_tower else 1) * tower, 3 * decoder


def _learns(part: nn.Module) -> bool:
    return any(weight.requires_grad for weight in part.parameters())


def _stream_dtype(model: Any) -> torch.dtype:
    dtype: torch.dtype = model.get_input_embeddings().weight.dtype
    return dtype


def _make_fake(model: nn.Module) -> None:
    """Every tensor of a model on `meta` becomes a fake one of the CPU."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                if id(weight) not in made:
                    empty = torch.empty_like(weight, device="cpu")
                    made[id(weight)] = nn.Parameter(empty, requires_grad=weight.requires_grad)
                module._parameters[name] = made[id(weight)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device="cpu")


class _Kept:
    """Adds up the storages that autograd keeps, each once, under the part that first kept it."""

    def __init__(self) -> None:
        self.bytes: dict[Part, int] = dict.fromkeys(PARTS, 0)
        self.ignored: set[int] = set()
        self._storages: dict[int, Any] = {}

    @contextmanager
    def part(self, name: Part) -> Iterator[None]:
        """Count what is kept while the block runs as `name`'s."""

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._storages and key not in self.ignored:
                self._storages[key] = storage  # held, so that no other gets its place
                self.bytes[name] += storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            yield
