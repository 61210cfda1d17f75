"""The learning rate over a stage: warm-up, then half a cosine, or a plateau and a linear fall over the last part.

A stage may end by steps or by seconds, whichever comes first; the fall follows the clock that will end it. With steps
alone the schedule is exactly repeatable. The seconds of a stage are counted over its interruptions.
"""

from __future__ import annotations

import math
import time
from typing import Any

from transformers import TrainerCallback

from nvila.train.recipe import Stage


class StageClock:
    """How far a stage is. `seconds_before` is what earlier, interrupted parts of it took."""

    def __init__(self, stage: Stage, seconds_before: float = 0.0) -> None:
        self.stage = stage
        self._seconds_before = seconds_before
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds spent in this stage, including its interrupted parts."""
        return self._seconds_before + time.monotonic() - self._started

    def progress(self, step: int) -> float:
        """0 at the start, 1 at the end."""
        by_steps = step / self.stage.steps
        by_seconds = 0.0 if self.stage.seconds is None else self.seconds / self.stage.seconds
        return min(1.0, max(by_steps, by_seconds))

    def rate(self, step: int) -> float:
        """The learning rate at `step` as a part of its peak."""
        stage = self.stage
        progress = self.progress(step)
        num_warm = round(stage.warmup_ratio * stage.steps) if stage.warmup_ratio else stage.warmup_steps
        warm = min(1.0, (step + 1) / max(1, num_warm))
        if stage.schedule == "cosine":
            share = min(1.0, num_warm / stage.steps)
            left = (1.0 + math.cos(math.pi * max(0.0, progress - share) / max(1e-9, 1.0 - share))) / 2
        else:
            left = min(1.0, (1.0 - progress) / stage.decay_fraction) if stage.decay_fraction else 1.0
        return warm * (stage.final_ratio + (1.0 - stage.final_ratio) * left)


class StageEnd(TrainerCallback):
    """Ends the training when the clock has run out; saves every `checkpoint_seconds`, or every `checkpoint_steps` where
    that is not 0, and at the end."""

    def __init__(self, clock: StageClock, checkpoint_seconds: float, checkpoint_steps: int = 0) -> None:
        self.clock = clock
        self.checkpoint_seconds = checkpoint_seconds
        self.checkpoint_steps = checkpoint_steps
        self._saved_at = clock.seconds

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.clock.progress(state.global_step) >= 1.0:
            control.should_training_stop = True
            control.should_save = True
        elif self._is_due(state.global_step):
            control.should_save = True
        if control.should_save:
            self._saved_at = self.clock.seconds

    def _is_due(self, step: int) -> bool:
        if self.checkpoint_steps:
            return step % self.checkpoint_steps == 0
        return self.clock.seconds - self._saved_at >= self.checkpoint_seconds
