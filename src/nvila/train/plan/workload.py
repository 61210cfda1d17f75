"""One stage of training in plain numbers, as `nvila.train.plan` takes it, and the GPUs it can name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from nvila.errors import ConfigError, nearest
from nvila.train.recipe import Part

Optimizer = Literal["adamw", "fp8"]
Weights = Literal["bf16", "fp32"]
Sharding = Literal["none", "fsdp"]

PARTS: tuple[Part, ...] = ("vision", "projector", "llm")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """Peak rates of dense matrix products in FLOP/s, and memory in GiB, by NVIDIA's data sheets (SXM forms)."""

    bf16: float
    fp8: float
    memory: int


GPUS = {
    "a100": Gpu(bf16=312e12, fp8=312e12, memory=80),
    "h100": Gpu(bf16=989e12, fp8=1979e12, memory=80),
    "h200": Gpu(bf16=989e12, fp8=1979e12, memory=141),
    "b200": Gpu(bf16=2250e12, fp8=4500e12, memory=180),
    "l40s": Gpu(bf16=362e12, fp8=733e12, memory=48),
    "l4": Gpu(bf16=121e12, fp8=242e12, memory=24),
    "rtx4090": Gpu(bf16=165e12, fp8=330e12, memory=24),
    "rtx3090": Gpu(bf16=71e12, fp8=71e12, memory=24),
}
"""By the name a workload gives. Where there is no FP8 unit (a100, rtx3090), FP8 products run at the bf16 rate."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One stage of training in plain numbers. Raises ConfigError for unknown names and values out of range."""

    tokens_per_step: int
    """Tokens that the decoder reads in one optimiser step, over all GPUs and accumulation, visual ones included."""
    tiles_per_step: int
    """Tiles and frames that the vision tower reads in one optimiser step; likewise."""
    sample_length: float
    """Mean over tokens of the length of the sample that they lie in, which attention is over; rows may be packed."""
    projected_tiles_per_step: int | None = None
    """Tiles that reach the projector. None: all; with Dynamic-S2 the last scale's share of a square image's tiles."""
    steps: int = 1
    num_gpus: int = 1
    grad_accumulation: int = 1
    micro_tokens: int | None = None
    """Tokens of the largest micro batch of one GPU, for the memory; None: an even share of the step's."""
    micro_tiles: int | None = None
    trainable: tuple[str, ...] = PARTS
    checkpointing: tuple[str, ...] = ()
    """Parts whose layers keep their input alone and run again: vision, llm."""
    optimizer: Optimizer = "adamw"
    weights: Weights = "fp32"
    """fp32 runs under bf16 autocast."""
    master_weights: bool = False
    """A float32 copy of trained bf16 weights for the optimiser."""
    sharding: Sharding = "none"
    """fsdp: weights, gradients and optimiser states are spread over all GPUs."""
    fp8_linears: tuple[str, ...] = ()
    """Parts whose layers multiply in FP8: vision, llm."""
    fp8_activations: tuple[str, ...] = ()
    """Parts whose layers keep activations in FP8: vision, llm."""
    chunked_loss: bool = True
    """The loss by `nvila.ops`, piece by piece; else all logits are there at once."""
    learned_share: float = 1.0
    """Part of the tokens that are learned; a chunked loss computes no logits of the others."""
    gpu: str = "h100"
    mfu: float = 0.4
    """Assumed: the part of the peak rate that is reached, counting repeated work as work."""

    def __post_init__(self) -> None:
        for name in ("tokens_per_step", "sample_length", "steps", "num_gpus", "grad_accumulation"):
            if vars(self)[name] < 1:
                raise ConfigError(f"{name} is {vars(self)[name]}; give at least 1")
        if self.tiles_per_step < 0:
            raise ConfigError(f"tiles_per_step is {self.tiles_per_step}; it cannot be below 0")
        for name in ("mfu", "learned_share"):
            if not 0 < vars(self)[name] <= 1:
                raise ConfigError(f"{name} is {vars(self)[name]}, not above 0 and up to 1")
        if not self.trainable:
            raise ConfigError(f"trainable names no part; give at least one of {', '.join(PARTS)}")
        _known("trainable", self.trainable, PARTS)
        for name in ("checkpointing", "fp8_linears", "fp8_activations"):
            _known(name, vars(self)[name], ("vision", "llm"))
        _known("optimizer", (self.optimizer,), get_args(Optimizer))
        _known("weights", (self.weights,), get_args(Weights))
        _known("sharding", (self.sharding,), get_args(Sharding))
        _known("gpu", (self.gpu,), tuple(GPUS))
        if self.master_weights and self.weights == "fp32":
            raise ConfigError(
                "master_weights are a float32 copy, but weights are 'fp32' already; set weights to 'bf16'"
            )

    @property
    def shares(self) -> int:
        """Micro batches of a step, over all GPUs."""
        return self.num_gpus * self.grad_accumulation

    @property
    def largest_tokens(self) -> int:
        """Tokens of the largest micro batch."""
        return -(-self.tokens_per_step // self.shares) if self.micro_tokens is None else self.micro_tokens

    @property
    def largest_tiles(self) -> int:
        """Tiles of the largest micro batch."""
        return -(-self.tiles_per_step // self.shares) if self.micro_tiles is None else self.micro_tiles

    @property
    def logit_share(self) -> float:
        """Part of the tokens that logits are computed for."""
        return self.learned_share if self.chunked_loss else 1.0


def _known(name: str, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    for value in given:
        if value not in known:
            raise ConfigError(f"{name} names {value!r}{nearest(value, known)}; known: {', '.join(known)}")
