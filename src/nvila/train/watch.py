"""Stops a training that has gone wrong, and names the samples it went wrong on.

Two alarms. A loss or a gradient norm that is no finite number stops at once. A spike stops when the loss has stayed,
for `patience` steps in a row, above `ratio` times the running median and above it by `zscore` times the spread: one
bad batch is noise, and clipping deals with it; a loss that stays up has lost its weights. The spread is the larger of
the median absolute deviation and the distance from the median to the 95th percentile, both in units of a normal
standard deviation: the first alone would call each visit of a rarer, harder source a spike.

The trade: a loss that climbs more slowly than the window moves raises no alarm. Nothing is remembered over a restart;
the window fills anew first. Leaves out what to do about it: the caller lets the error end the run.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nvila.errors import ConfigError, DataError
from nvila.train.notes import SampleNote
from nvila.utils.atomic import atomic_write_text

BAD_BATCH_FILE = "bad_batch.json"
_MAD_TO_SIGMA = 1.4826
_P95_IN_SIGMA = 1.645
_NAMED_SAMPLES = 8


@dataclass(frozen=True, kw_only=True)
class WatchedStep:
    """One optimiser step as the watch saw it. `samples` are those of all its micro batches on this rank."""

    step: int
    loss: float
    grad_norm: float | None
    samples: tuple[SampleNote, ...]


class LossWatch:
    """Fed with every optimiser step; raises DataError when the training should not go on.

    `folder` is the run's, where `bad_batch.json` is written before the error is raised (`bad_batch.rank1.json` and so
    on by other ranks). `window` is the number of losses that the median is taken over; no spike is called before
    `warmup` losses were seen. Give the loss averaged over ranks, so that all of them stop at the same step.
    """

    def __init__(
        self,
        folder: Path,
        *,
        window: int = 128,
        ratio: float = 2.0,
        zscore: float = 6.0,
        patience: int = 5,
        warmup: int = 100,
        rank: int = 0,
    ) -> None:
        """Raises ConfigError for values that could not work."""
        if not 1 <= warmup <= window:
            raise ConfigError(f"the loss watch's warmup {warmup} must lie in 1..{window}, its window")
        if ratio <= 1.0 or zscore <= 0.0 or patience < 1:
            raise ConfigError(
                f"the loss watch has ratio {ratio}, zscore {zscore} and patience {patience}; "
                "give a ratio above 1, a zscore above 0 and a patience of at least 1"
            )
        self.path = folder / (BAD_BATCH_FILE if rank == 0 else f"bad_batch.rank{rank}.json")
        self.ratio = ratio
        self.zscore = zscore
        self.patience = patience
        self.warmup = warmup
        self._usual: deque[float] = deque(maxlen=window)
        self._high: list[float] = []
        self._recent: deque[WatchedStep] = deque(maxlen=patience + 1)

    def observe(self, step: int, loss: float, grad_norm: float | None, samples: Sequence[SampleNote]) -> None:
        """Look at one step. `grad_norm` is the one before clipping; None where the engine does not tell it.

        Raises DataError for a NaN, an infinity, or the last step of a spike.
        """
        self._recent.append(WatchedStep(step=step, loss=loss, grad_norm=grad_norm, samples=tuple(samples)))
        if not math.isfinite(loss):
            self._stop(f"the loss is {loss}")
        if grad_norm is not None and not math.isfinite(grad_norm):
            self._stop(f"the gradient norm is {grad_norm} (the loss is {loss:.4g})")
        if self._is_high(loss):
            self._high.append(loss)
        else:
            self._usual.extend([*self._high, loss])
            self._high.clear()
        if len(self._high) >= self.patience:
            self._stop(self._spike())

    @property
    def median(self) -> float | None:
        """The running median that losses are compared with; None before the first loss."""
        return float(np.median(self._usual)) if self._usual else None

    def _is_high(self, loss: float) -> bool:
        if len(self._usual) < self.warmup:
            return False
        losses = np.array(self._usual)
        median, p95 = np.quantile(losses, (0.5, 0.95))
        deviation = _MAD_TO_SIGMA * np.median(np.abs(losses - median))
        spread = max(deviation, (p95 - median) / _P95_IN_SIGMA)
        return bool(loss > self.ratio * median and loss - median > self.zscore * spread)

    def _spike(self) -> str:
        median, loss = self.median, self._high[-1]
        assert median is not None
        times = f", {loss / median:.1f} times" if median > 0 else ", above"
        steps = "" if self.patience == 1 else f" for {self.patience} steps in a row"
        return f"the loss is {loss:.4g}{times} its running median {median:.4g}{steps}"

    def _stop(self, reason: str) -> None:
        """Write the last batches, newest last, and raise; a full disk does not hide the reason."""
        now = self._recent[-1]
        report = {"reason": reason, "step": now.step, "median": self.median, "batches": list(map(_plain, self._recent))}
        listed = f"{self.path} lists them all, with those of the steps before"
        try:
            atomic_write_text(self.path, json.dumps(report, indent=1, allow_nan=False) + "\n")
        except OSError as error:
            listed = f"{self.path}, which would list them all, cannot be written ({error.strerror})"
        median = "" if self.median is None or self._high else f", its running median {self.median:.4g}"
        raise DataError(
            f"training stopped at step {now.step}: {reason}{median}. "
            f"{_named(now.samples)}; {listed}. "
            "Check these samples and take the faulty ones out, or lower the learning rate; "
            "then run the same command again to go on from the last checkpoint"
        )


def _named(samples: Sequence[SampleNote]) -> str:
    """The first samples by name, and how many more there are."""
    if not samples:
        return "The step's samples are not known"
    names = ", ".join(f"{sample.id!r} ({sample.source})" for sample in samples[:_NAMED_SAMPLES])
    more = f" and {len(samples) - _NAMED_SAMPLES} more" if len(samples) > _NAMED_SAMPLES else ""
    return f"The step's samples are {names}{more}"


def _plain(step: WatchedStep) -> dict[str, object]:
    """JSON has no NaN and no infinity: such numbers become strings."""
    plain = asdict(step)
    for name in ("loss", "grad_norm"):
        value = plain[name]
        plain[name] = str(value) if value is not None and not math.isfinite(value) else value
    return plain
