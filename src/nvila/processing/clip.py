"""Which frames of a clip are taken, and what comes back: `Sampling`, `Reading`, `Timeline`, `Clip`.

The default is the rule of the released models: evenly by frame index, first and last included. Times count from the
first frame shown. Leaves out reading (`decode`, `packets`, `pictures`) and where clips come from (`media`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image

from nvila.errors import MediaError

Broken: TypeAlias = Literal["error", "readable"]
"""What damage and cuts get: an error, or the frames that can be decoded."""

_SLACK_S = 1e-6
"""Rounding allowed between a time asked for and the time at which a frame starts."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which frames to take. Raises MediaError for values out of range or that contradict each other."""

    num_frames: int | None = None
    """How many, evenly by index; with `fps` or `keyframes` the most there may be. None takes all that the rest says."""
    fps: float | None = None
    """Above 0: the frame shown at 0, 1/fps, 2/fps ... seconds. None and 0 go by index."""
    keyframes: bool = False
    """Only frames that need no other one to be decoded, which are the quickest to get."""

    def __post_init__(self) -> None:
        if self.num_frames is not None and self.num_frames < 1:
            raise MediaError(f"num_frames is {self.num_frames}; ask for at least 1")
        if self.fps is not None and not 0 <= self.fps < float("inf"):
            raise MediaError(f"fps is {self.fps}; give a positive rate, or 0 to spread num_frames evenly")
        if self.fps and self.keyframes:
            raise MediaError(
                f"fps is {self.fps:g} and keyframes is true, and key frames have no rate; give one of them"
            )


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a clip is read. Raises MediaError for values out of range."""

    exif_transpose: bool = False
    """Turn frames upright, as a video's rotation or a picture's EXIF orientation says."""
    broken: Broken = "error"
    """With "readable", `Clip.is_partial` says whether anything was left out."""
    threads: int = 2
    """Threads that decode one clip, at most; the calling one reads and converts."""

    def __post_init__(self) -> None:
        if self.broken not in ("error", "readable"):
            raise MediaError(f"broken is {self.broken!r}; give 'error' or 'readable'")
        if self.threads < 1:
            raise MediaError(f"threads is {self.threads}; give at least 1")


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """When the frames of a clip are shown, in seconds from the first, ascending, and which of them are key frames."""

    starts_s: list[float]
    duration_s: float
    key_indices: list[int]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Sampled frames (RGB, in order), and for each its index in the source and when it is shown."""

    frames: list[Image.Image]
    indices: list[int]
    times_s: list[float] | None
    """Seconds after the first frame of the source; None where frames have no times (folders, lists)."""
    duration_s: float | None
    """Seconds from the first frame to the end of the last, which is held as long as the others on average."""
    is_partial: bool = field(default=False)
    """Whether damage was left out, or the end is missing (only with `Reading.broken` "readable")."""


def sample_indices(
    num_available: int,
    *,
    num_frames: int | None,
    fps: float | None = None,
    name: str,
    max_frames: int,
    starts_s: Sequence[float] | None = None,
    duration_s: float | None = None,
) -> list[int]:
    """Indices of the frames to take out of `num_available`, in order.

    Without `fps`: `round(linspace(0, num_available - 1, num_frames))`, so frames repeat where there are fewer, or all
    of them where `num_frames` is None. With `fps` above 0 and known times: the frame shown at 0, 1/fps, 2/fps ... s
    until `duration_s`; where these are more than `num_frames`, that many of them, evenly. Frames without times
    (`starts_s` None: folders, lists) go by `num_frames` alone.
    Raises MediaError for no frames, for `fps` alone without times, and for more than `max_frames` of them.
    """
    if num_available < 1:
        raise MediaError(f"{name}: holds 0 frames; give a clip of at least 1")
    if not fps or (starts_s is None and num_frames is not None):
        count = num_available if num_frames is None else num_frames
        _check_count(count, max_frames, name)
        return [int(i) for i in np.round(np.linspace(0, num_available - 1, count))]
    if starts_s is None or duration_s is None:
        raise MediaError(f"{name}: frames in a folder or a list have no times, so fps {fps:g} says nothing; "
                         "give num_frames (--num-frames)")  # fmt: skip
    count = max(1, int(np.ceil(duration_s * fps - _SLACK_S)))
    taken = count if num_frames is None else min(count, num_frames)
    _check_count(taken, max_frames, name)
    times = np.round(np.linspace(0, count - 1, taken)) / fps
    shown = np.searchsorted(np.asarray(starts_s), times + _SLACK_S, side="right") - 1
    return [int(i) for i in np.clip(shown, 0, num_available - 1)]


def choose_frames(timeline: Timeline, sampling: Sampling, *, name: str, max_frames: int) -> list[int]:
    """Indices into `timeline` of the frames to take. Key frames never repeat. Raises MediaError as `sample_indices`."""
    if sampling.keyframes:
        keys = timeline.key_indices
        wanted = None if sampling.num_frames is None else min(sampling.num_frames, len(keys))
        return [keys[i] for i in sample_indices(len(keys), num_frames=wanted, name=name, max_frames=max_frames)]
    return sample_indices(
        len(timeline.starts_s),
        num_frames=sampling.num_frames,
        fps=sampling.fps,
        name=name,
        max_frames=max_frames,
        starts_s=timeline.starts_s,
        duration_s=timeline.duration_s,
    )


def held_duration(starts_s: Sequence[float], *, rate: float) -> float:
    """Seconds until the last frame ends: it is held as long as those before it on average, or 1/`rate` if alone."""
    if len(starts_s) > 1:
        return starts_s[-1] * len(starts_s) / (len(starts_s) - 1)
    return 1.0 / rate if starts_s else 0.0


def _check_count(count: int, max_frames: int, name: str) -> None:
    if count > max_frames:
        raise MediaError(
            f"{name}: would be sampled into {count} frames, over the limit of {max_frames}; "
            "give a smaller num_frames (--num-frames)"
        )
