"""What a fine-tuning would take on this machine, and what to change where it does not fit.

Weights, gradients, optimiser states and kept activations are counted (measure.py). Estimated are the pieces of logits
and what one layer needs for a moment. The time is the counted operations at an assumed part of the peak rate. Left out:
the allocator's fragments, the CUDA context or Python's own memory (about 1 GB), and worker processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from nvila.adapters.nf4 import NF4Linear
from nvila.ops.chunked import BYTES_PER_LOGIT, CPU_BYTES, GPU_BYTES
from nvila.train.finetune.measure import PartCount, count_parts, count_step, skeleton
from nvila.train.finetune.survey import Survey
from nvila.train.learner import Learner
from nvila.train.meter import peak_flops
from nvila.train.plan import aligned, shown_bytes, shown_count, shown_time
from nvila.train.precision.optimizer_state import planned_state_bytes
from nvila.train.recipe import Part, Recipe

ADAM_BYTES = 8
"""Of a learned weight: two moments in float32."""
GPU_MFU = 0.4
CPU_MFU = 0.3
_LEARNED_SHARE = 0.25
_NF4_BYTES = 8
"""Of a weight that is written out for a product: places of levels, levels in float32, the result."""
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class Room:
    """A device to train on: its name, free bytes, and FLOP/s that are likely to be reached."""

    name: str
    memory: int
    rate: float
    is_gpu: bool = False


@dataclass(frozen=True, kw_only=True)
class FinetunePlan:
    """What one fine-tuning takes. `memory` is in bytes by component, in the order of the table."""

    parts: dict[Part, PartCount]
    memory: dict[str, int]
    steps: int
    micro_batches: int
    """Of a step."""
    micro_tokens: int
    micro_tiles: int
    flops: float
    """Of an optimiser step of mean samples."""
    room: Room

    @property
    def total(self) -> int:
        """Bytes at the fullest moment; logits and the largest temporary are not there at once."""
        return sum(self.memory.values()) - min(self.memory["logits"], self.memory["temporary"])

    @property
    def fits(self) -> bool:
        """Whether that is less than what is free."""
        return self.total <= self.room.memory

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return self.steps * self.flops / self.room.rate

    @property
    def checkpoint_bytes(self) -> int:
        """Of one checkpoint on disk: what learns, with its optimiser states."""
        learned = sum(part.trained for part in self.parts.values())
        return (4 + ADAM_BYTES) * learned

    def text(self) -> str:
        """The plan as aligned tables."""
        rows = [("parameters", "total", "trained", "kept in")]
        for name, part in self.parts.items():
            rows.append((name, shown_count(part.total), shown_count(part.trained), shown_bytes(part.weight_bytes)))
        memory = [("memory", "")]
        memory += [(name.replace("_", " "), shown_bytes(size)) for name, size in self.memory.items()]
        memory.append(("all (of logits and temporary the larger)", shown_bytes(self.total)))
        memory.append((f"free on {self.room.name}", shown_bytes(self.room.memory)))
        step = (
            f"{self.steps:,} steps of {self.micro_batches:,} micro-batches of up to {self.micro_tokens:,} tokens and "
            f"{self.micro_tiles:,} tiles; about {shown_time(self.seconds)} if {self.room.rate / 1e12:.3g} TFLOP/s are "
            "reached, which is an assumption"
        )
        return "\n\n".join([aligned(rows), aligned(memory), step])


def make_plan(recipe: Recipe, survey: Survey, room: Room, *, num_ranks: int = 1) -> FinetunePlan:
    """What `recipe` takes on data like these. Raises ConfigError for adapters that do not fit the model."""
    stage = recipe.stage[0]
    tokens, tiles = largest_batch(recipe, survey)
    learner = skeleton(recipe)
    parts = count_parts(learner)
    trained = sum(part.trained for part in parts.values())
    moments = ADAM_BYTES * trained
    if recipe.run.optimizer == "fp8":
        moments = planned_state_bytes([weight for weight in learner.parameters() if weight.requires_grad])
    logits = _logits_bytes(learner, tokens, room)
    temporary = max(_decoder_bytes(learner, tokens), _tower_bytes(learner, tiles))
    counted = count_step(learner, tokens=tokens, tiles=tiles, bf16=recipe.run.bf16)
    learned = sum(part.trained_bytes for part in parts.values())
    memory = {
        "frozen_weights": sum(part.weight_bytes for part in parts.values()) - learned,
        "trained_weights": learned,
        "gradients": learned,
        "optimizer": moments,
        "vision_activations": counted.vision,
        "projector_activations": counted.projector,
        "llm_activations": counted.llm,
        "logits": logits,
        "temporary": temporary,
    }
    pack, batches = stage.batches.pack, stage.batches
    step_tokens = batches.rows_per_step * batches.max_tokens if pack else batches.global_batch * survey.mean_tokens
    step_tiles = step_tokens * survey.num_tiles / survey.num_tokens
    flops = step_tiles * counted.flops_media / tiles + step_tokens * (
        counted.flops_text / tokens + _head_flops(learner)
    )
    rows = batches.rows_per_step if pack else batches.global_batch
    return FinetunePlan(
        parts=parts,
        memory=memory,
        steps=stage.steps,
        micro_batches=max(1, rows // (batches.micro_batch * num_ranks)),
        micro_tokens=tokens,
        micro_tiles=tiles,
        flops=flops / num_ranks,
        room=room,
    )


def work_of(recipe: Recipe, survey: Survey) -> tuple[float, float]:
    """Operations of a token and of a tile, both ways, without those that recomputation repeats (for MFU)."""
    plain = replace(recipe, stage=(replace(recipe.stage[0], gradient_checkpointing=()),))
    tokens, tiles = largest_batch(plain, survey)
    learner = skeleton(plain)
    head = _head_flops(learner)
    counted = count_step(learner, tokens=tokens, tiles=tiles, bf16=recipe.run.bf16)
    return counted.flops_text / tokens + head, counted.flops_media / tiles


def _head_flops(learner: Learner) -> float:
    """Of the language head for a token, of which a part is learned from; a head that learns makes its logits twice."""
    head: Any = learner.model.get_output_embeddings().weight
    return (8.0 if head.requires_grad else 4.0) * _LEARNED_SHARE * head.numel()


def this_room(device: torch.device, *, bf16: bool, memory: int | None = None) -> Room:
    """The device as it is now; `memory` (bytes) takes the place of what is free."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    peak = peak_flops(device, dtype=dtype, measure=True)
    assert peak is not None
    if device.type == "cuda":
        free = int(torch.cuda.mem_get_info(device)[0])
        name, rate = torch.cuda.get_device_name(device), GPU_MFU * peak
    else:
        free, name, rate = free_memory(), "this machine", CPU_MFU * peak
    return Room(name=name, memory=free if memory is None else memory, rate=rate, is_gpu=device.type == "cuda")


def free_memory(cgroup: Path = _CGROUP) -> int:
    """Bytes that this process can still have: the machine's, and those of its control group, if that has a limit."""
    free = int(psutil.virtual_memory().available)
    limit, used = cgroup / "memory.max", cgroup / "memory.current"
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        free = min(free, max(0, int(limit.read_text()) - int(used.read_text())))
    return free


def largest_batch(recipe: Recipe, survey: Survey) -> tuple[int, int]:
    """Tokens and tiles of the largest micro-batch that such data can make; one tile at least, which is always run."""
    batches = recipe.stage[0].batches
    if batches.pack:
        tokens, tiles = batches.max_tokens, int(batches.max_tokens * survey.densest)
    else:
        tokens, tiles = survey.longest, survey.most_tiles
    if batches.max_num_tiles is not None:
        tiles = min(tiles, batches.max_num_tiles)
    return batches.micro_batch * tokens, max(1, batches.micro_batch * tiles)


def _logits_bytes(learner: Learner, tokens: int, room: Room) -> int:
    """One piece of the loss with the gradients of its hidden states, and of the head where that learns."""
    text = learner.model.config.text_config
    head: Any = learner.model.get_output_embeddings().weight
    most = GPU_BYTES if room.is_gpu else CPU_BYTES
    piece = min(most, BYTES_PER_LOGIT * tokens * text.vocab_size)
    return int(piece + 2 * tokens * text.hidden_size + (4 * head.numel() if head.requires_grad else 0))


def _decoder_bytes(learner: Learner, tokens: int) -> int:
    """What is there at once in a layer of the decoder, besides what is kept."""
    text = learner.model.config.text_config
    packed = [layer for layer in learner.model.llm.modules() if isinstance(layer, NF4Linear)]
    written = max((layer.in_features * layer.out_features for layer in packed), default=0)
    return int(tokens * (6 * text.intermediate_size + 8 * text.hidden_size) + _NF4_BYTES * written)


def _tower_bytes(learner: Learner, tiles: int) -> int:
    """The same of the tower."""
    config: Any = learner.model.config
    vision = config.vision_config
    patches = (config.tile_size // config.visual.patch_size) ** 2
    return int(tiles * patches * (4 * vision.intermediate_size + 8 * vision.hidden_size))


def remedies(recipe: Recipe, survey: Survey, room: Room, *, num_ranks: int = 1) -> list[str]:
    """Changes under which the run fits, each with what it then takes; the smallest where none does."""
    found: list[tuple[int, str]] = []
    for words, changed in _variants(recipe):
        plan = make_plan(changed, survey, room, num_ranks=num_ranks)
        found.append((plan.total, f"{words} ({shown_bytes(plan.total)})"))
    fitting = [words for total, words in found if total <= room.memory]
    return fitting or [f"the least of what can be changed here is {min(found)[1]}, which does not fit either"]


def _variants(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Recipes that take less, each with the options that make it."""
    (stage,) = recipe.stage
    again = replace(stage, gradient_checkpointing=("vision", "llm"))
    again_words = '--set \'stage.0.gradient_checkpointing=["vision","llm"]\''
    yield again_words, replace(recipe, stage=(again,))
    if recipe.adapters.language == "lora" or (recipe.adapters.language == "full" and "llm" in stage.train):
        packed = replace(recipe.adapters, language="qlora")
        yield "--language qlora", replace(recipe, adapters=packed)
        yield f"--language qlora {again_words}", replace(recipe, adapters=packed, stage=(again,))
    if recipe.adapters.vision != "ln" and "vision" in stage.train:
        yield "--vision ln", replace(recipe, adapters=replace(recipe.adapters, vision="ln"))
    if stage.batches.max_tokens >= 512 and stage.batches.pack:
        half = replace(stage.batches, max_tokens=stage.batches.max_tokens // 2)
        yield f"--max-tokens {half.max_tokens}", replace(recipe, stage=(replace(stage, batches=half),))
