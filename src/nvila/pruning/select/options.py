"""What a selection is asked for: by which number samples are ranked, how many are kept, and what of unscored ones.

The paper's equation 1 ranks each sub-data-set by itself, so that a source of hard questions does not push out a source
of easy ones; that is the default here. Ranking all sources together is the other choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from nvila.errors import ConfigError, nearest

Unscored = Literal["keep", "drop"]
UNSCORED: tuple[Unscored, ...] = ("keep", "drop")

VARIANTS: Mapping[str, tuple[str, str]] = {
    "deltaloss": ("deltaloss", "delta"),
    "deltaloss_mean": ("deltaloss", "delta_mean"),
    "image_gain": ("image_gain", "gain"),
    "image_gain_mean": ("image_gain", "gain_mean"),
}
"""Methods that rank by a column of their own: (criterion, column). Any other method is a criterion's `score`."""

_LEAST_MEMORY_GB = 0.8


@dataclass(frozen=True, kw_only=True)
class SelectOptions:
    """How to choose.

    Raises ConfigError for a ratio outside of 0 to 1, ratios per source together with `per_source` off, an unknown rule
    for unscored samples, and memory too small to work in.
    """

    method: str = "deltaloss"
    """A criterion, or one of `VARIANTS`."""
    keep: float = 0.5
    """Share of the scored samples to keep, above 0 and up to 1."""
    ratios: Mapping[str, float] = field(default_factory=dict)
    """Other shares for sources by name; 0 leaves a source out."""
    per_source: bool = True
    """Rank each source by itself (equation 1); off: all sources in one ranking."""
    unscored: Unscored = "keep"
    """What becomes of samples without a score. Kept by default: pruning takes away only what it has judged, so a
    text-only sample that image gain cannot score is not lost without a word; what cannot be read at all is counted and
    replaced by the mixture anyway."""
    memory_gb: float = 2.0
    """Memory that the process may take; what does not fit goes to files beside the result for a while."""
    threads: int | None = None
    """Threads to sort with; None takes one per processor."""

    def __post_init__(self) -> None:
        if not 0.0 < self.keep <= 1.0:
            raise ConfigError(f"--keep is {self.keep}; give a share above 0 and up to 1, such as 0.5")
        for name, ratio in self.ratios.items():
            if not 0.0 <= ratio <= 1.0:
                raise ConfigError(f"--source {name}={ratio}: give a share from 0 to 1")
        if self.ratios and not self.per_source:
            raise ConfigError("--source gives ratios per source, but --global ranks all sources together; drop one")
        if self.unscored not in UNSCORED:
            raise ConfigError(f"--unscored is {self.unscored!r}; give keep or drop")
        if self.memory_gb < _LEAST_MEMORY_GB:
            raise ConfigError(f"--memory is {self.memory_gb} GB; give at least {_LEAST_MEMORY_GB}")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"--threads is {self.threads}; give 1 or more")

    @property
    def criterion(self) -> str:
        """The folder of scores that the method reads."""
        return VARIANTS[self.method][0] if self.method in VARIANTS else self.method

    @property
    def column(self) -> str:
        """The column that the method ranks by."""
        return VARIANTS[self.method][1] if self.method in VARIANTS else "score"

    def ratio(self, source: str) -> float:
        """The share that is kept of `source`."""
        return self.ratios.get(source, self.keep)


def parse_ratios(given: Iterable[str]) -> dict[str, float]:
    """`NAME=RATIO` texts as a mapping. Raises ConfigError for another form, and for a name given twice."""
    ratios: dict[str, float] = {}
    for text in given:
        name, equals, number = text.rpartition("=")
        if not equals or not name:
            raise ConfigError(f"--source {text!r} is not of the form NAME=RATIO, such as DocVQA=0.7")
        if name in ratios:
            raise ConfigError(f"--source gives {name!r} twice; keep one")
        try:
            ratios[name] = float(number)
        except ValueError as error:
            raise ConfigError(f"--source {text!r}: {number!r} is no number; give a share such as 0.7") from error
    return ratios


def check_names(options: SelectOptions, sources: Iterable[str]) -> None:
    """Raises ConfigError where `options` names a source that is not among `sources`."""
    known = list(sources)
    for name in options.ratios:
        if name not in known:
            shown = ", ".join(known[:20])
            raise ConfigError(f"--source names {name!r}{nearest(name, known)}, which was not scored; scored: {shown}")
