"""Temporal averaging: consecutive frames' features become one (paper, section 2.1.2).

The trade: k times fewer tokens for one mean over k neighbouring frames, which differ little. The published encoder
demands that k divides the number of frames; here a last group that is not full averages the frames that it has, so
that a clip of any length works and full groups keep their published values.

Letters: F frames, T tokens of a frame, H the decoder's width.
"""

from __future__ import annotations

import torch


def num_groups(num_frames: int, group: int) -> int:
    """How many pooled frames a clip of `num_frames` gives."""
    return -(-num_frames // group)


def average_groups(x_FTH: torch.Tensor, group: int) -> torch.Tensor:
    """Means over consecutive groups of `group` frames: (F, T, H) to (ceil(F / group), T, H)."""
    if group == 1:
        return x_FTH
    num_frames = x_FTH.shape[0]
    full = num_frames - num_frames % group
    parts = []
    if full:
        parts.append(x_FTH[:full].unflatten(0, (-1, group)).mean(dim=1))
    if full < num_frames:
        parts.append(x_FTH[full:].mean(dim=0, keepdim=True))
    return torch.cat(parts)
