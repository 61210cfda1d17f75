"""What both ways to run a model share: planned samples, batches that are ready for the model, and what came of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch

from nvila.types import Sample


class Planned(NamedTuple):
    """A sample's size before its pixels are read. Samples of different groups share no batch."""

    key: int
    num_tokens: int
    num_tiles: int = 0
    group: str = ""


class LogP(NamedTuple):
    """The log probability of a sample's answers, natural logarithm, summed over `num_tokens` tokens."""

    log_p: float
    num_tokens: int


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A batch as the model takes it; `keys` are its samples in order. `answers`: what the scorer needs to find them."""

    keys: tuple[int, ...]
    inputs: dict[str, Any]
    answers: Any


@dataclass(kw_only=True)
class Prepared:
    """What became of a row of samples: batches, and (status, reason) of samples that could not be read."""

    ready: list[Ready] = field(default_factory=list)
    failed: dict[int, tuple[str, str]] = field(default_factory=dict)


class Encoder(Protocol):
    """Samples to batches. Can be pickled: it travels to the processes that read."""

    max_tokens: int
    """Longer samples cannot be scored."""
    spelling: str
    """The same for two models that split any text into the same tokens, turns included."""

    def plan(self, key: int, sample: Sample) -> Planned:
        """The sample's size. Raises NVILAError for what is wrong with it."""
        ...

    def rows(self, planned: Iterable[Planned], batch_tokens: int) -> Iterator[Sequence[Planned]]:
        """Which samples share a batch."""
        ...

    def prepare(self, samples: Sequence[tuple[int, Sample]]) -> Prepared:
        """The samples of a row, pixels included."""
        ...


class Scorer(Protocol):
    """A model with its encoder."""

    device: torch.device

    @property
    def encoder(self) -> Encoder:
        """How samples become batches for it."""
        ...

    def log_p(self, batch: Ready) -> list[LogP]:
        """What the model makes of each sample of the batch, in order."""
        ...


def moved(inputs: dict[str, Any], device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The inputs with their tensors on `device`, floating ones in `dtype`."""
    return {name: _moved(value, device, dtype) for name, value in inputs.items()}


def _moved(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(device, dtype if value.is_floating_point() else None, non_blocking=True)
