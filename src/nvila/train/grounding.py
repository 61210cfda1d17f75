"""Grounding: where in the picture lies what a question names, read from the decoder's hidden states.

Whoever is asked where the star is from the circle must find both, and then compare. From the answer alone a small
decoder learns which words go with which question and stays there: the finding is not rewarded before the comparing
works. So the last token of each named thing must tell where that thing is. A head reads it from the hidden states that
go into the decoder's last layer, which leaves this one to compare or count; the head is thrown away after training.

Letters: B conversations, L tokens, H the decoder's width, K named things of a batch, G cells of a picture (row-major).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

SIDE = 8
"""Cells along each side of the picture."""
NUM_CELLS = SIDE * SIDE
RARE = -4.0
"""The bias at the start: nearly every cell is empty."""


def shown_cells(points: Sequence[tuple[float, float]], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """(G,): whether a cell of a picture of `size` (width, height) holds one of the points (x, y), all in pixels."""
    cells_G = np.zeros(NUM_CELLS, dtype=np.bool_)
    for x, y in points:
        col, row = (min(SIDE - 1, max(0, int(at * SIDE / length))) for at, length in zip((x, y), size, strict=True))
        cells_G[row * SIDE + col] = True
    return cells_G


class GroundingHead(nn.Module):
    """Tells for each cell of the picture whether the thing that a token names has its middle there."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.classify = nn.Linear(channels, NUM_CELLS)
        nn.init.constant_(self.classify.bias, RARE)

    def forward(
        self, hidden_BLH: torch.Tensor, named_K2: torch.Tensor, cells_KG: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """`grounding_loss` () and `accuracy_grounding` (), the share of things whose likeliest cell is one of theirs.

        `named_K2` holds the conversation and the token of each thing, `cells_KG` (bool) where it is.
        """
        logits_KG = self.classify(self.norm(hidden_BLH[named_K2[:, 0], named_K2[:, 1]])).float()
        losses_KG: Any = F.binary_cross_entropy_with_logits(logits_KG, cells_KG.float(), reduction="none")
        likeliest_K = logits_KG.detach().argmax(dim=1, keepdim=True)
        return {
            "grounding_loss": losses_KG.sum() / cells_KG.sum().clamp(min=1),
            "accuracy_grounding": cells_KG.gather(1, likeliest_K).float().mean(),
        }
