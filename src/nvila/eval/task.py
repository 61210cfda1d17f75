"""What a held-out task is: which samples, how many, how long an answer may be, and which metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nvila.errors import ConfigError
from nvila.eval.metrics import LESS_IS_BETTER, Metric


@dataclass(frozen=True, kw_only=True)
class Task:
    """One held-out task, of a generator's samples or of a family's of a built corpus.

    `keep` sees a question's meta and leaves out what the task does not ask (None keeps all). The first metric is the
    headline, which `floor` belongs to, the worst score that was promised; None where nothing was.
    """

    name: str
    generator: str = ""
    family: str = ""
    metrics: Mapping[str, Metric]
    num_samples: int = 200
    size: tuple[int, int] = (112, 112)
    max_new_tokens: int = 12
    keep: Callable[[Mapping[str, Any]], bool] | None = None
    floor: float | None = None

    def __post_init__(self) -> None:
        if bool(self.generator) == bool(self.family):
            raise ConfigError(f"task {self.name!r}: give either a generator or a family of the corpus")
        if self.num_samples < 1 or self.max_new_tokens < 1 or not self.metrics:
            raise ConfigError(
                f"task {self.name!r}: needs at least one sample, one token and one metric; has {self.num_samples}, "
                f"{self.max_new_tokens} and {len(self.metrics)}"
            )

    @property
    def less_is_better(self) -> bool:
        """Whether the headline is an error."""
        return next(iter(self.metrics)) in LESS_IS_BETTER
