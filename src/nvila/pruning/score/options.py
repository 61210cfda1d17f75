"""What is asked for when data are scored. Defaults of the command line are read from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from nvila.errors import ConfigError

if TYPE_CHECKING:
    import torch

Criterion = Literal["deltaloss", "image_gain", "random"]

NEEDED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"deltaloss": ("large", "small"), "image_gain": ("model",), "random": ()}
)
"""The models that each criterion needs, by the names of the options; it takes no others."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which samples: a data set in any format, or a mixture (`*.toml`), whose keep-lists and drop-lists hold here too.

    A mixture's amounts (weight, repeat, cap) say how often to train on samples, not which there are: they do not count.
    Raises ConfigError for values out of range.
    """

    data: str
    format: str | None = None
    media_root: str | None = None
    chunk_samples: int | None = None
    """Samples of a part, what a kill may cost; None: a 64th of the data, at least 16 and at most 1024."""

    def __post_init__(self) -> None:
        if self.chunk_samples is not None and self.chunk_samples < 1:
            raise ConfigError(f"chunk_samples is {self.chunk_samples}; give a whole number from 1, or leave it out")
        if self.is_mixture and (self.format or self.media_root):
            raise ConfigError(f"{self.data} is a mixture, whose sources say their own format and media_root; drop them")

    @property
    def is_mixture(self) -> bool:
        """Whether `data` is a mixture file."""
        return self.data.endswith(".toml")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How models are run. Only what changes scores is written beside them: not the batch, the device, the workers.

    Raises ConfigError for values out of range.
    """

    batch_tokens: int | None = None
    """Tokens of a batch: of a packed row, or of a padded batch with its padding. A longer sample runs alone. None:
    2,048 on a CPU, where that was measured to be faster, 8,192 on a GPU."""
    max_tokens: int | None = None
    """Longer samples get no score; None: as many as the model has positions."""
    max_tiles: int | None = None
    """Tiles of each picture, for our own models."""
    num_frames: int | None = None
    """Frames of each clip; None: as the model's own processor takes them."""
    dtype: str = "auto"
    device: str = "auto"
    workers: int | None = None
    """Processes that read and decode; None: none on the CPU, up to 8 beside a GPU."""
    max_broken: float = 0.05
    """Share of samples with missing, damaged or malformed content above which the run stops."""

    def __post_init__(self) -> None:
        for name in ("batch_tokens", "max_tokens", "max_tiles", "num_frames"):
            value: Any = vars(self)[name]
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; give a whole number from 1")
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"workers is {self.workers}; give 0 or more")
        if not 0.0 <= self.max_broken <= 1.0:
            raise ConfigError(f"max_broken is {self.max_broken}; give a share from 0 to 1")

    def tokens_of_batch(self, device: torch.device) -> int:
        """`batch_tokens`, or the default of `device`."""
        if self.batch_tokens is not None:
            return self.batch_tokens
        return 2048 if device.type == "cpu" else 8192


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Which chunks are this process's: those whose number leaves `index` when divided by `count`."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ConfigError(f"shard {self.index}/{self.count} is none; give I/N with I from 0 to N - 1")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`I/N` as a shard. Raises ConfigError for anything else."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal()):
            raise ConfigError(f"shard {text!r} is not of the form I/N, such as 0/4")
        return cls(index=int(index), count=int(count))


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """All of one scoring. Raises ConfigError where the criterion and the models given do not go together."""

    data: DataOptions
    criterion: Criterion = "deltaloss"
    large: str | None = None
    small: str | None = None
    model: str | None = None
    seed: int = 0
    """Of the criterion `random`."""
    run: RunOptions = RunOptions()
    shard: Shard = Shard()
    ray: int = 0
    """Workers of a Ray cluster that score; 0 scores in this process."""

    def __post_init__(self) -> None:
        if self.criterion not in NEEDED:
            raise ConfigError(f"criterion is {self.criterion!r}; known are {', '.join(NEEDED)}, cluster, coverage")
        for name in ("large", "small", "model"):
            needed, given = name in NEEDED[self.criterion], vars(self)[name] is not None
            if needed and not given:
                raise ConfigError(f"the criterion {self.criterion} needs --{name}, a checkpoint folder or a hub id")
            if given and not needed:
                raise ConfigError(f"the criterion {self.criterion} takes no --{name}; leave it out")
        if self.ray < 0:
            raise ConfigError(f"ray is {self.ray}; give a number of workers, or 0 for none")
        if self.ray and (self.shard.count > 1 or not NEEDED[self.criterion]):
            raise ConfigError("--ray shares out the work of models by itself; leave out --shard, torchrun, and random")
