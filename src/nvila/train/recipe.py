"""What a training recipe says: the model's sizes, then stages, each with its data, schedule and trainable parts.

A recipe is a TOML file (`nvila.config`); every default is here. Stages follow each other, each starting from the
weights of the one before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from nvila.adapters.options import AdapterOptions
from nvila.errors import ConfigError
from nvila.layouts import ImageMode, ProjectorType
from nvila.train.precision.options import PrecisionOptions

Part = Literal["vision", "projector", "llm"]


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """Sizes of the model that is trained; pixels and tokens as in `nvila.layouts.VisualSettings`."""

    init: str = ""
    """A checkpoint of these sizes (nvila-mini, a folder, a hub id) to start from; fresh weights when empty."""
    as_is: bool = False
    """Take sizes, visual settings and tokenizer from `init` too, and none of those below but `attention`."""

    architecture: str = ""
    """A name in `train.plan.published`, for `--plan` alone: the sizes that the backbones below have."""
    vision: str = ""
    """A SigLIP (folder or hub id) whose weights and sizes the tower takes, in place of those below."""
    language: str = ""
    """A Qwen2 or Llama (folder or hub id) whose weights, sizes and tokenizer the decoder takes."""

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
    image_mode: ImageMode = "dynamic"
    s2_scales: tuple[int, ...] = ()
    projector_type: ProjectorType = "mlp_downsample"
    max_tiles: int = 12
    temporal_pool: int = 2
    num_video_frames: int = 8
    num_time_tokens: int = 0
    """Tokens <t0>, <t1> ... that answers about clips point with; a neighbour of the right one is nearly right."""
    soft_ce_std: float = 1.0
    """Width, in tokens, of what counts as nearly right."""
    max_position_embeddings: int = 4096
    attention: str = "segments"
    """transformers' attention: ours for CPUs (`nvila.model.attention`); GPUs want flash_attention_2 or sdpa."""

    def __post_init__(self) -> None:
        if self.tile_size % self.patch_size:
            raise ConfigError(f"tile_size {self.tile_size} is not a multiple of patch_size {self.patch_size}")
        if self.as_is and not self.init:
            raise ConfigError("as_is takes the sizes of a checkpoint; name it as init")


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
class Batches:
    """How the samples of a mixture become batches. Raises ConfigError for values out of range."""

    global_batch: int = 2048
    """Samples of an optimiser step over all ranks; reached by accumulation from what the hardware gives."""
    micro_batch: int = 1
    """Rows of one forward pass on one device; without packing a row is a sample."""
    pack: bool = True
    max_tokens: int = 4096
    """Tokens of a row, and so of a sample."""
    max_num_tiles: int | None = None
    """Tiles and frames of a row."""
    too_long: Literal["error", "truncate"] = "truncate"
    rows_per_step: int = 0
    """Packed rows of an optimiser step; 0: so many as hold `global_batch` samples on average."""
    window: int = 1024
    """Samples that a row is chosen from."""
    pool: int = 16
    """Steps' worth of rows that a step is chosen from, for even tiles; 1 keeps the mixture's order."""

    def __post_init__(self) -> None:
        for name in ("global_batch", "micro_batch", "max_tokens", "window", "pool"):
            if vars(self)[name] < 1:
                raise ConfigError(f"batches: {name} is {vars(self)[name]}; give a whole number from 1")


@dataclass(frozen=True, kw_only=True)
class Visual:
    """Visual settings that a stage changes; None keeps the model's. The last stage's are those of the checkpoint."""

    max_tiles: int | None = None
    temporal_pool: int | None = None
    num_video_frames: int | None = None
    fps: float | None = None
    """Frames a second taken of clips, at most `num_video_frames`; 0 takes that many evenly."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a sample is expected to hold; for `--plan` alone, which does not look at data."""

    tokens: int = 0
    tiles: float = 0.0
    samples: int = 0
    """Of an epoch; 0: as many as the mixture's file counts."""
    learned_share: float = 0.25
    """Part of the tokens that are learned."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One phase of training, fed by generators (`source`) or by data sets (`mixture`).

    Its length is `steps`, or `epochs` of the mixture, or `seconds` of wall clock, whichever is reached first.
    """

    name: str
    source: tuple[Source, ...] = ()
    mixture: str = ""
    """A mixture file (`nvila.data.mixture`), relative to the working folder."""
    batches: Batches = field(default_factory=Batches)
    """Of a mixture's samples."""
    visual: Visual = field(default_factory=Visual)
    expected: Expected = field(default_factory=Expected)
    steps: int = 1_000_000
    epochs: float = 0.0
    seconds: float | None = None
    batch_size: int = 64
    """Of the generators' samples."""
    learning_rate: float = 1e-3
    part_learning_rates: dict[str, float] = field(default_factory=dict)
    """Peaks of parts that learn at a rate of their own, such as {vision = 4e-4}; others keep `learning_rate`."""
    weight_decay: float = 0.05
    schedule: Literal["linear", "cosine"] = "linear"
    """What follows the warm-up: a plateau and a linear fall, or half a cosine."""
    warmup_steps: int = 100
    warmup_ratio: float = 0.0
    """Part of the stage that is warm-up, in place of `warmup_steps`, unless 0."""
    decay_fraction: float = 0.3
    """The last part of the stage, over which a linear schedule falls."""
    final_ratio: float = 0.05
    """Where the learning rate ends, as a part of its peak."""
    max_grad_norm: float = 1.0
    gradient_checkpointing: tuple[Part, ...] = ()
    """Parts whose layers keep their inputs alone for the backward pass, and run twice."""
    loss: Literal["answer", "token"] = "answer"
    """Whether an answer weighs as the root of its length, or each learned token of a step the same."""
    train: tuple[Part, ...] = ("vision", "projector", "llm")
    dense_weight: float = 0.3
    grounding_weight: float = 0.0
    """Weight of the loss on where the things lie that a question names (`train.grounding`)."""
    contrast_weight: float = 0.0
    """Weight of SigLIP's sigmoid loss between pictures of a mixture and their captions (`train.contrast`)."""
    answer_weight: float = 1.0
    """0 trains the vision tower alone, on the dense labels, and never runs the decoder."""
    calibrate: bool = False
    """Start the projector anew at this stage, fitted to the features that the tower gives (`start.calibrate`)."""
    difficulty_start: float = 1.0
    difficulty_steps: int = 0
    """Steps over which the difficulty of the pictures rises from `difficulty_start` to 1."""

    def __post_init__(self) -> None:
        if bool(self.source) == bool(self.mixture):
            raise ConfigError(
                f"stage {self.name!r} has {'both sources and a mixture' if self.source else 'no source and no mixture'}"
                "; give either [[stage.source]] sections or the path of a mixture"
            )
        if self.steps == 1_000_000 and self.seconds is None and not self.epochs:
            raise ConfigError(f"stage {self.name!r} has no end; give steps, epochs or seconds")
        if self.epochs and self.source:
            raise ConfigError(f"stage {self.name!r}: generators have no epochs; give steps or seconds")
        if not (self.dense_weight or self.answer_weight or self.contrast_weight):
            raise ConfigError(f"stage {self.name!r}: the weights of all losses are 0, nothing would be learned")
        if self.calibrate and self.mixture:
            raise ConfigError(f"stage {self.name!r}: calibrate is for stages fed by generators; leave it out")
        if self.contrast_weight and self.source:
            raise ConfigError(f"stage {self.name!r}: contrast_weight is for the pictures of a mixture; set it to 0")
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
        strange = sorted(set(self.gradient_checkpointing) - {"vision", "llm"})
        if strange:
            raise ConfigError(f"stage {self.name!r}: gradient_checkpointing names {strange}; it is for vision and llm")
        if not 0 <= self.warmup_ratio < 1:
            raise ConfigError(f"stage {self.name!r}: warmup_ratio is {self.warmup_ratio}, not within 0..1")
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
    checkpoint_steps: int = 0
    """Save after so many steps in place of `checkpoint_seconds`, unless 0; several ranks need it, whose clocks
    differ."""
    report_to: tuple[str, ...] = ()
    """Trackers by accelerate's names (wandb, mlflow ...); TensorBoard is always written."""
    probe_seconds: float = 300.0
    probe_samples: int = 64
    """Held-out samples of each source that are scored by teacher forcing every `probe_seconds`; 0 for none."""
    log_steps: int = 20
    optimizer: Literal["adamw", "fp8"] = "adamw"
    """fp8: AdamW with both moments in FP8 (`train.precision.optimizer`)."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole training."""

    name: str
    stage: tuple[Stage, ...]
    run: Run = field(default_factory=Run)
    model: ModelRecipe = field(default_factory=ModelRecipe)
    precision: PrecisionOptions = field(default_factory=PrecisionOptions)
    """What runs and is kept in FP8."""
    adapters: AdapterOptions = field(default_factory=AdapterOptions)
    """Which weights of the trained parts learn: layer norms, LoRA, or all."""

    def __post_init__(self) -> None:
        if self.adapters.frozen_dtype == "bfloat16" and not self.run.bf16:
            raise ConfigError(
                "adapters.frozen_dtype is 'bfloat16', which needs autocast; set run.bf16 = true, or 'float32' here"
            )
        if not self.adapters.is_plain and self.precision != PrecisionOptions():
            raise ConfigError("precision and adapters change the same layers; set one of them")
        names = [stage.name for stage in self.stage]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"stages must have names of their own, at least one; found {names}")
