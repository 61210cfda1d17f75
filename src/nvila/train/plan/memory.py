"""Bytes on the fullest GPU of a training, by component.

Weights, gradients and optimiser states are exact; saved activations follow `parts`; logits and temporaries are
of the largest things that are there at once. Left out: fragments of the allocator, the CUDA context (about 1 GiB), and
the extra heads of stages that learn dense labels.
"""

from __future__ import annotations

from dataclasses import dataclass

from nvila.model import NVILAConfig
from nvila.ops.chunked import BYTES_PER_LOGIT, GPU_BYTES
from nvila.train.plan import parts as parts
from nvila.train.plan.parts import Mode, Sizes
from nvila.train.plan.workload import PARTS, Workload
from nvila.train.recipe import Part

_LOGIT_BYTES = 12
"""Of one logit at the start of the backward pass: bf16, float32 probabilities, and both gradients."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on the fullest GPU. Logits and the largest temporary are not there at once: the larger counts."""

    weights: int
    master_weights: int
    gradients: int
    optimizer: int
    bf16_copies: int
    """What autocast makes of float32 weights: those of trained parts stay to the end of the forward pass at least."""
    communication: int
    """Gathered layers (fsdp), or the buckets that gradients are averaged in."""
    vision_activations: int
    projector_activations: int
    llm_activations: int
    logits: int
    temporary: int
    """One layer's activations run again and its gradients, or a frozen tower's forward pass."""

    @property
    def total(self) -> int:
        return sum(vars(self).values()) - min(self.logits, self.temporary)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is trained, and how each part takes part."""

    config: NVILAConfig
    sizes: Sizes
    workload: Workload
    modes: dict[Part, Mode]

    @property
    def autocast(self) -> bool:
        return self.workload.weights == "fp32"

    @property
    def stream(self) -> int:
        """Bytes of a value in the residual stream."""
        return 4 if self.autocast else 2

    def projected(self, tiles: int) -> int:
        """How many of `tiles` tiles are left after the merge of scales."""
        given = self.workload.projected_tiles_per_step
        if given is not None and self.workload.tiles_per_step:
            return -(-tiles * given // self.workload.tiles_per_step)
        visual = self.config.visual
        if visual.image_mode != "dynamic_s2":
            return tiles
        squares = [(scale // visual.s2_scales[0]) ** 2 for scale in visual.s2_scales]
        return -(-tiles * squares[visual.s2_resize_output_to_scale_idx] // sum(squares))


def memory(job: Job) -> Memory:
    """The memory of `job` on its fullest GPU."""
    workload, counted = job.workload, job.sizes
    learning = [part for part in PARTS if part in workload.trainable]
    trained = sum(counted.used[part] for part in learning)
    ranks = workload.num_gpus if workload.sharding == "fsdp" else 1
    width = 4 if job.autocast else 2
    states = 2 * (4 if job.autocast or workload.master_weights else 2) * trained
    if workload.optimizer == "fp8":
        states = sum(counted.fp8_states[part] for part in learning)
    return Memory(
        weights=_share(width * sum(counted.total.values()), ranks),
        master_weights=_share(4 * trained if workload.master_weights else 0, ranks),
        gradients=_share(width * trained, ranks),
        optimizer=_share(states, ranks),
        bf16_copies=_bf16_copies(job) if job.autocast and ranks == 1 else 0,
        communication=_communication(job, width * trained),
        vision_activations=_vision_activations(job),
        projector_activations=_projector_activations(job),
        llm_activations=_llm_activations(job),
        logits=_logits(job),
        temporary=round(max(_tower_temporary(job), _decoder_temporary(job))),
    )


def _bf16_copies(job: Job) -> int:
    """Autocast keeps copies of trained matrices, and of those that gradients pass through unless they run again.

    Matrices that learn from FP8 inputs make theirs anew.
    """
    workload = job.workload
    kept = [
        part
        for part, mode in job.modes.items()
        if (mode == "trained" and part not in workload.fp8_activations)
        or (mode == "passed" and part not in workload.checkpointing)
    ]
    head = job.sizes.head if job.modes["llm"] != "idle" else 0
    return 2 * (sum(job.sizes.linear[part] for part in kept) + head)


def _communication(job: Job, gradients: int) -> int:
    """Two gathered layers, one layer's gradients and all that is not in layers, in bf16; or buckets of gradients."""
    if job.workload.num_gpus == 1:
        return 0
    if job.workload.sharding == "none":
        return gradients
    return 2 * (3 * job.sizes.largest_layer + job.sizes.outside_layers)


def _vision_activations(job: Job) -> int:
    config, tiles = job.config, job.workload.largest_tiles
    if job.modes["vision"] == "idle":
        return 0
    width = config.vision_config.hidden_size
    per_layer = float(job.stream * width) if "vision" in job.workload.checkpointing else _vision_layer(job)
    pixels = 2 * 3 * config.visual.patch_size**2
    # The merge of scales averages float32 copies, and keeps them.
    merged = 4 * width if job.projected(tiles) < tiles else 0
    rows = tiles * parts.num_patches(config)
    return round(rows * (parts.num_vision_layers(config) * per_layer + pixels + merged))


def _projector_activations(job: Job) -> int:
    per_tile = parts.projector_bytes(job.config, job.modes["projector"], autocast=job.autocast)
    return round(job.projected(job.workload.largest_tiles) * per_tile)


def _llm_activations(job: Job) -> int:
    text, mode = job.config.text_config, job.modes["llm"]
    per_layer = float(job.stream * text.hidden_size) if "llm" in job.workload.checkpointing else _llm_layer(job)
    # The last norm, and the head's input where the head learns; the rotations.
    last = (4 + (job.stream + 2 if mode == "trained" else 0)) * text.hidden_size
    rotations = 2 * job.stream * parts.head_width(text)
    return round(job.workload.largest_tokens * (text.num_hidden_layers * per_layer + last + rotations))


def _vision_layer(job: Job) -> float:
    fp8 = "vision" in job.workload.fp8_activations
    return parts.vision_layer_bytes(job.config, autocast=job.autocast, fp8=fp8)


def _llm_layer(job: Job) -> float:
    fp8 = "llm" in job.workload.fp8_activations
    return parts.llm_layer_bytes(job.config, job.modes["llm"], autocast=job.autocast, fp8=fp8)


def _logits(job: Job) -> int:
    """All logits; or those of one piece, with the gradients of the hidden states and (float32) of the head."""
    tokens, text = job.workload.largest_tokens, job.config.text_config
    if not job.workload.chunked_loss:
        return tokens * text.vocab_size * _LOGIT_BYTES
    learned = round(tokens * job.workload.logit_share)
    piece = min(GPU_BYTES, BYTES_PER_LOGIT * learned * text.vocab_size)
    head_gradient = 4 * job.sizes.head if job.modes["llm"] == "trained" else 0
    return piece + 2 * tokens * text.hidden_size + head_gradient


def _tower_temporary(job: Job) -> float:
    """A layer that runs again and the gradients in it; or, in a frozen tower, what is there at once in one layer."""
    vision = job.config.vision_config
    width, inner = vision.hidden_size, vision.intermediate_size
    if job.modes["vision"] == "idle":
        per_patch = 2.0 * (job.stream * width + max(4 * width, 2 * inner))
    else:
        again = _vision_layer(job) if "vision" in job.workload.checkpointing else 0.0
        per_patch = again + 4 * inner + 2 * job.stream * width
    return job.workload.largest_tiles * parts.num_patches(job.config) * per_patch


def _decoder_temporary(job: Job) -> float:
    text = job.config.text_config
    again = _llm_layer(job) if "llm" in job.workload.checkpointing else 0.0
    return job.workload.largest_tokens * (again + 6 * text.intermediate_size + 8 * text.hidden_size)


def _share(size: int, ranks: int) -> int:
    return -(-size // ranks)
