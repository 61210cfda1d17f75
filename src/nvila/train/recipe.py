"""What a training recipe says: the model's sizes, then stages, each with its data, schedule and trainable parts.

A recipe is a TOML file (`nvila.config`); every default is here. Stages follow each other, each starting from the
weights of the one before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from nvila.errors import ConfigError

Part = Literal["vision", "projector", "llm"]


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """Sizes of the model that is trained; pixels and tokens as in `nvila.layouts.VisualSettings`."""

    init: str = ""
    """A checkpoint of these sizes (nvila-mini, a folder, a hub id) to start from; fresh weights when empty."""

    tile_size: int = 112
    patch_size: int = 14
    vision_width: int = 256
    vision_layers: int = 6
    """Layers that are used; one more is stored, because the output of the last layer but one is taken."""
    vision_heads: int = 4
    text_width: int = 256
    text_layers: int = 4
    text_heads: int = 4
    text_intermediate: int = 768
    image_mode: Literal["resize", "pad", "dynamic"] = "dynamic"
    projector_type: Literal["mlp_downsample", "mlp_downsample_3x3_fix"] = "mlp_downsample"
    max_tiles: int = 12
    temporal_pool: int = 2
    num_video_frames: int = 8
    max_position_embeddings: int = 4096

    def __post_init__(self) -> None:
        if self.tile_size % self.patch_size:
            raise ConfigError(f"tile_size {self.tile_size} is not a multiple of patch_size {self.patch_size}")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One generator of the corpus in a stage's mixture."""

    task: str
    weight: float = 1.0
    sizes: tuple[tuple[int, int], ...] = ((112, 112),)
    """(width, height) in pixels, chosen with equal chance."""
    spell: bool = False
    """Whether answers are trained letter by letter, also where the vocabulary has the whole word (text to read)."""
    bucket: int = 0
    """Batches hold sources of one bucket alone, so that long answers do not pad short ones."""
    frames: int = 0
    """Clips are thinned evenly to this many frames, which costs less; 0 keeps all."""

    @property
    def label(self) -> str:
        """What the log calls this source: its task, and its bucket where that is not 0."""
        return f"{self.task}.{self.bucket}" if self.bucket else self.task

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ConfigError(f"source {self.task!r}: weight is {self.weight}; it must be above 0")
        if not self.sizes:
            raise ConfigError(f"source {self.task!r} has no sizes; give at least one, such as [[112, 112]]")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One phase of training. Its length is `steps`, or `seconds` of wall clock, whichever is reached first."""

    name: str
    source: tuple[Source, ...]
    steps: int = 1_000_000
    seconds: float | None = None
    batch_size: int = 64
    learning_rate: float = 1e-3
    part_learning_rates: dict[str, float] = field(default_factory=dict)
    """Peaks of parts that learn at a rate of their own, such as {vision = 4e-4}; others keep `learning_rate`."""
    weight_decay: float = 0.05
    warmup_steps: int = 100
    decay_fraction: float = 0.3
    """The last part of the stage, over which the learning rate falls linearly to `final_ratio` of its peak."""
    final_ratio: float = 0.05
    train: tuple[Part, ...] = ("vision", "projector", "llm")
    dense_weight: float = 0.3
    grounding_weight: float = 0.0
    """Weight of the loss on where the things lie that a question names (`train.grounding`)."""
    answer_weight: float = 1.0
    """0 trains the vision tower alone, on the dense labels, and never runs the decoder."""
    calibrate: bool = False
    """Start the projector anew at this stage, fitted to the features that the tower gives (`start.calibrate`)."""
    difficulty_start: float = 1.0
    difficulty_steps: int = 0
    """Steps over which the difficulty of the pictures rises from `difficulty_start` to 1."""

    def __post_init__(self) -> None:
        if not self.source:
            raise ConfigError(f"stage {self.name!r} has no source; give at least one [[stage.source]]")
        if self.steps == 1_000_000 and self.seconds is None:
            raise ConfigError(f"stage {self.name!r} has no end; give steps or seconds")
        if self.dense_weight == 0 and self.answer_weight == 0:
            raise ConfigError(
                f"stage {self.name!r}: dense_weight and answer_weight are both 0, nothing would be learned"
            )
        if self.answer_weight == 0 and tuple(self.train) != ("vision",):
            raise ConfigError(
                f"stage {self.name!r}: with answer_weight 0 only 'vision' can be trained, not {self.train}"
            )
        strange = sorted(set(self.part_learning_rates) - set(self.train))
        if strange:
            raise ConfigError(
                f"stage {self.name!r}: part_learning_rates names {strange}, but train says {list(self.train)}; "
                "give rates to parts that are trained"
            )
        if not 0 <= self.difficulty_start <= 1:
            raise ConfigError(f"stage {self.name!r}: difficulty_start is {self.difficulty_start}, not within 0..1")


@dataclass(frozen=True, kw_only=True)
class Run:
    """What holds for all stages."""

    seed: int = 0
    threads: int = 0
    """Threads of torch; 0 leaves torch's own choice."""
    workers: int = 1
    """Processes that render and encode batches; 0 does it in the training process."""
    bf16: bool = True
    """Autocast to bfloat16 around fp32 weights."""
    compile: bool = True
    """Compile each layer with torch.compile (about a minute at the start of a stage, a quarter more speed after)."""
    checkpoint_seconds: float = 300.0
    probe_seconds: float = 300.0
    probe_samples: int = 64
    """Held-out samples of each source that are scored by teacher forcing every `probe_seconds`; 0 for none."""
    log_steps: int = 20


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole training."""

    name: str
    stage: tuple[Stage, ...]
    run: Run = field(default_factory=Run)
    model: ModelRecipe = field(default_factory=ModelRecipe)

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stage]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"stages must have names of their own, at least one; found {names}")
