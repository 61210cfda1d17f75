"""What one part of the model costs in a training step: multiply-adds, and bytes that wait for the backward pass.

Weights are counted on a model without memory (the `meta` device); activations follow from which tensors autograd keeps
for the modules as transformers writes them: fused attention (no scores are kept), RMSNorm in steps with a float32 copy,
dropout off. Only matrix products count as work. Leaves out batches, devices and time (`nvila.train.plan`). With a
mask, attention repeats keys and values to as many heads as queries have; that is left out too (5 % more on the 8B).

Letters: P patches of a tile, C the tower's width, T tokens of a tile, H the decoder's width, I an MLP's inner width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from nvila.model import NVILAConfig, NVILAForConditionalGeneration
from nvila.model.projector import Projector
from nvila.train.precision.optimizer_state import planned_state_bytes
from nvila.train.recipe import Part

Mode = Literal["trained", "passed", "idle"]
"""Gradients of weights and activations; of activations alone, for what lies before; none."""

FP8_BYTES = 1 + 2 / 128
"""A value in FP8 with its part of a bf16 scale for 128 values."""


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Floating-point operations (a multiply-add is two) of one kind in one step."""

    name: str
    forward: float
    backward: float
    recomputed: float = 0.0
    """Forward work that the backward pass does again."""
    fp8: bool = False
    """Whether the matrix products run in FP8."""

    @property
    def total(self) -> float:
        return self.forward + self.backward + self.recomputed


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers of values in a model's weights."""

    total: dict[Part, int]
    used: dict[Part, int]
    """Without the tower's layers behind the one whose output is taken, which never train."""
    linear: dict[Part, int]
    """Of them in matrices that multiply activations; the head's apart."""
    fp8_states: dict[Part, int]
    """Bytes of the FP8 optimiser's states for the used weights."""
    last_linear: dict[Part, int]
    """In the matrices that end the layers: running a layer again stops before them."""
    head: int
    largest_layer: int
    outside_layers: int


def sizes(config: NVILAConfig) -> Sizes:
    """The sizes of a model with this configuration, counted without memory for it."""
    with torch.device("meta"):
        model = NVILAForConditionalGeneration(config)
    tower: Any = model.vision_tower.vision_model
    encoder = list(tower.encoder.layers)
    decoder = list(model.language_model.layers)
    parts: dict[Part, nn.Module] = {"vision": model.vision_tower, "projector": model.mm_projector, "llm": model.llm}
    total = {name: _count(part.parameters()) for name, part in parts.items()}
    running = encoder[: num_vision_layers(config)]
    for unused in (*encoder[num_vision_layers(config) :], tower.post_layernorm):
        unused.requires_grad_(False)
    used = {name: [weight for weight in part.parameters() if weight.requires_grad] for name, part in parts.items()}
    layers = max(_count(layer.parameters()) for layer in [*encoder, *decoder])
    inside = sum(_count(layer.parameters()) for layer in [*encoder, *decoder])
    return Sizes(
        total=total,
        used={name: _count(weights) for name, weights in used.items()},
        fp8_states={name: planned_state_bytes(weights) for name, weights in used.items()},
        linear={"vision": _linear(running), "projector": _linear([model.mm_projector]), "llm": _linear(decoder)},
        last_linear={
            "vision": sum(layer.mlp.fc2.weight.numel() for layer in running),
            "projector": 0,
            "llm": sum(layer.mlp.down_proj.weight.numel() for layer in decoder),
        },
        head=model.llm.lm_head.weight.numel(),
        largest_layer=layers,
        outside_layers=sum(total.values()) - inside,
    )


def num_vision_layers(config: NVILAConfig) -> int:
    """Layers of the tower that run: up to the one whose output is taken."""
    layer, stored = config.vision_select_layer, config.vision_config.num_hidden_layers
    return int(layer if layer >= 0 else stored + 1 + layer)


def num_patches(config: NVILAConfig) -> int:
    """Patches of a tile."""
    return int(config.visual.tile_size // config.visual.patch_size) ** 2


def head_width(text: Any) -> int:
    """Channels of one attention head of the decoder."""
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)


def vision_flops(
    config: NVILAConfig, counted: Sizes, tiles: int, mode: Mode, *, again: bool, fp8: bool
) -> tuple[Flops, Flops]:
    """Work of the tower on `tiles` tiles: its matrices, and its attention (every patch of a tile sees every other)."""
    rows = tiles * num_patches(config)
    width, layers = config.vision_config.hidden_size, num_vision_layers(config)
    embedding = 2.0 * rows * width * 3 * config.visual.patch_size**2
    linear = 2.0 * rows * counted.linear["vision"]
    attention = 4.0 * rows * num_patches(config) * width * layers
    trained = mode == "trained"
    return (
        Flops(
            name="vision, matrices",
            forward=linear + embedding,
            # Pixels need no gradient: the patch embedding pays for its weights alone.
            backward=2 * linear + embedding if trained else 0.0,
            recomputed=linear - 2.0 * rows * counted.last_linear["vision"] if again and trained else 0.0,
            fp8=fp8,
        ),
        Flops(
            name="vision, attention",
            forward=attention,
            backward=2 * attention if trained else 0.0,
            recomputed=attention if again and trained else 0.0,
        ),
    )


def projector_flops(config: NVILAConfig, tiles: int, mode: Mode) -> Flops:
    """Work of the projector on `tiles` tiles (after the merge of scales)."""
    linear = sum(2.0 * rows * module.weight.numel() for module, rows, _ in _matrices(config))
    mixing = _mixing(config)[0]
    times = {"trained": 2, "passed": 1, "idle": 0}[mode]
    backward = times * linear + (0 if mode == "idle" else 2 * mixing)
    return Flops(name="projector", forward=tiles * (linear + mixing), backward=tiles * backward)


def llm_flops(
    config: NVILAConfig, counted: Sizes, tokens: int, mode: Mode, *, sample_length: float, again: bool, fp8: bool
) -> tuple[Flops, Flops]:
    """Work of the decoder's layers on `tokens` tokens: matrices, and causal attention within samples.

    `sample_length` is the mean over tokens of the length of the sample a token lies in; a token sees half of it.
    """
    text = config.text_config
    linear = 2.0 * tokens * counted.linear["llm"]
    attended = text.num_attention_heads * head_width(text) * text.num_hidden_layers
    attention = 4.0 * tokens * attended * (sample_length + 1) / 2
    times = {"trained": 2, "passed": 1, "idle": 0}[mode]
    return (
        Flops(
            name="llm, matrices",
            forward=linear,
            backward=times * linear,
            recomputed=linear - 2.0 * tokens * counted.last_linear["llm"] if again and times else 0.0,
            fp8=fp8,
        ),
        Flops(
            name="llm, attention",
            forward=attention,
            backward=2 * attention if times else 0.0,
            recomputed=attention if again and times else 0.0,
        ),
    )


def head_flops(counted: Sizes, tokens: int, mode: Mode, *, chunked: bool) -> Flops:
    """Work of the language head on `tokens` tokens; one that learns computes the logits again where they are cut."""
    forward = 2.0 * tokens * counted.head
    times = {"trained": 2, "passed": 1, "idle": 0}[mode]
    again = forward if chunked and mode == "trained" else 0.0
    return Flops(name="language head", forward=forward, backward=times * forward, recomputed=again)


def vision_layer_bytes(config: NVILAConfig, *, autocast: bool, fp8: bool) -> float:
    """Bytes a patch that one trained layer of the tower keeps."""
    vision = config.vision_config
    width, inner = vision.hidden_size, vision.intermediate_size
    # Queries, keys, values and the result in bf16; sums of the softmax and statistics of two norms in float32.
    attention = 8 * width + 4 * vision.num_attention_heads + 16
    if fp8:
        # Attention's output, which the last matrix of it reads, stays as attention keeps it.
        return attention + FP8_BYTES * (4 * width + 2 * inner)
    # Two norms keep their inputs (float32 under autocast), and matrices theirs; autocast casts for q, k and v anew.
    norms = 2 * width * 4 + 4 * width * 2 if autocast else 4 * width * 2
    return attention + norms + 4 * inner


def llm_layer_bytes(config: NVILAConfig, mode: Mode, *, autocast: bool, fp8: bool) -> float:
    """Bytes a token that one layer of the decoder keeps; 0 where it is idle."""
    if mode == "idle":
        return 0.0
    text = config.text_config
    width, inner, head = text.hidden_size, text.intermediate_size, head_width(text)
    queries, keys = text.num_attention_heads * head, text.num_key_value_heads * head
    attention = 2 * (2 * queries + 2 * keys) + 4 * text.num_attention_heads + 8
    trained = mode == "trained"
    if fp8:
        matrices = 2 * width + inner if trained else 0
        return attention + FP8_BYTES * (2 * width + 2 * inner + matrices)
    if not trained:
        return attention + 2 * 4 * width + 3 * 2 * inner
    # A norm keeps a float32 copy, the normalised values, and its output, which autocast casts for every matrix.
    norms = 2 * (4 + 4) * width + 5 * 2 * width if autocast else 2 * (4 + 2 + 2) * width
    return attention + norms + 4 * 2 * inner


def projector_bytes(config: NVILAConfig, mode: Mode, *, autocast: bool) -> float:
    """Bytes a tile (after the merge of scales) that the projector keeps; 0 where it is idle."""
    if mode == "idle":
        return 0.0
    kept = 0.0
    for module, rows, width in _projector_modules(config):
        if isinstance(module, nn.Linear):
            kept += 2 * rows * width if mode == "trained" else 0
        else:
            kept += (4 if autocast and isinstance(module, nn.LayerNorm) else 2) * rows * width
    return kept + 2 * _mixing(config)[1]


def _count(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _linear(modules: Iterable[nn.Module]) -> int:
    return sum(
        module.weight.numel() for parent in modules for module in parent.modules() if isinstance(module, nn.Linear)
    )


def _projector_modules(config: NVILAConfig) -> list[tuple[Any, int, int]]:
    """(module, rows a tile, width of its input) of all matrices, norms and activations of the projector."""
    visual = config.visual
    tokens, patches = visual.tokens_per_tile, num_patches(config)
    with torch.device("meta"):
        projector = Projector(visual.projector_type, config.mm_hidden_size, config.text_config.hidden_size, tokens)
    found: list[tuple[Any, int, int]] = []
    width = 0
    for name, module in projector.named_modules():
        if not isinstance(module, nn.Linear | nn.LayerNorm | nn.GELU):
            continue
        rows = tokens
        if "to_kv" in name:
            rows = tokens + patches
        elif "weigh" in name or "norm_patches" in name or name == "layers.0.norm":
            rows = patches
        if isinstance(module, nn.GELU):
            found.append((module, rows, width))
        else:
            found.append((module, rows, module.weight.shape[-1]))
            width = module.weight.shape[0]
    return found


def _matrices(config: NVILAConfig) -> list[tuple[Any, int, int]]:
    return [found for found in _projector_modules(config) if isinstance(found[0], nn.Linear)]


def _mixing(config: NVILAConfig) -> tuple[float, int]:
    """Work of products of activations with activations in the learned projectors, and values they keep; a tile's."""
    tokens, patches, width = config.visual.tokens_per_tile, num_patches(config), config.mm_hidden_size
    match config.visual.projector_type:
        case "token_learner":
            return 2.0 * tokens * patches * width, tokens * patches
        case "perceiver_resampler":
            rounds = sum(rows > tokens for _, rows, _ in _matrices(config))
            seen = tokens + patches
            return rounds * 4.0 * tokens * seen * width, rounds * 2 * (tokens + seen) * width
        case _:
            return 0.0, 0
