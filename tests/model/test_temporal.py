"""Temporal averaging, full groups and the tail."""

from __future__ import annotations

import pytest
import torch

from nvila.model.temporal import average_groups, num_groups


@pytest.mark.parametrize(("frames", "group"), [(8, 4), (7, 3), (1, 8), (5, 1), (256, 8), (9, 8)])
def test_every_group_is_the_mean_of_the_frames_it_has(frames: int, group: int) -> None:
    clip = torch.randn(frames, 3, 5)
    pooled = average_groups(clip, group)
    assert pooled.shape[0] == num_groups(frames, group)
    for index in range(pooled.shape[0]):
        torch.testing.assert_close(pooled[index], clip[index * group : (index + 1) * group].mean(dim=0))
