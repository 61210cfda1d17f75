"""What is known of a batch besides its tensors: which samples it holds, and how much of it is padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nvila.data.mixture import Draw


@dataclass(frozen=True)
class SampleNote:
    """Which sample a batch holds."""

    id: str
    source: str


@dataclass(frozen=True)
class BatchNotes:
    """The samples of a batch, in order, and its size."""

    samples: tuple[SampleNote, ...]
    num_tokens: int
    """Without padding."""
    num_learned: int
    num_padding: int
    num_tiles: int
    draws: tuple[Draw[Any], ...] = ()
    """How the samples of a mixture were found."""
