"""Dense labels: what each patch of a tile shows, made from labelled boxes, and the loss on them.

A vision tower that is trained from nothing learns to read only when something tells every patch which characters lie
on it; the answer alone is too weak a signal. A label is `kind:value`. Every kind divides each patch into cells, one for
a picture's name, a shape and a colour, several for characters, which are small; a cell's class is the label that covers
most of it. Where a cell lies is fixed, so that the head never has to count what stands before a character.

Letters: N tiles, P patches of a tile (row-major), S cells of a patch over all kinds, C the tower's width, M objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from nvila.types import LabelledBox

Box = tuple[float, float, float, float]
CHARACTER_CELLS = (2, 3)
"""Rows and columns of cells in a patch of 14 px; a narrow letter of a 14 px font is about a cell wide."""
MIN_COVER = 0.25
"""Least part of a cell, or of the thing where that is smaller, that is covered for the cell to show the thing."""
NOTHING_WEIGHT = 0.5
"""Weight of the mean over cells that show nothing, beside the mean over those that show something."""
OTHER_WEIGHT = 0.3
"""Weight of the kinds that are not characters: reading is the hardest to learn, and their gradients would drown it."""
UNLABELLED = -1
"""The class of cells of which nothing is known; they have no loss."""
MIN_SHOWN = 16
"""The mean over cells that show something divides by at least this many, so that a few do not shake a step."""


@dataclass(frozen=True, kw_only=True)
class DenseKind:
    """The labels of one kind and its cells in a patch; class 0 is nothing, class i the label i - 1."""

    name: str
    values: tuple[str, ...]
    cells: tuple[int, int] = (1, 1)
    """Rows and columns."""
    weight: float = 1.0
    """Weight in the loss."""

    @property
    def num_classes(self) -> int:
        return len(self.values) + 1

    @property
    def num_cells(self) -> int:
        return self.cells[0] * self.cells[1]


def dense_kinds(labels: Iterable[str]) -> tuple[DenseKind, ...]:
    """The kinds among `labels` (such as "char:a", "name:cat"), in order of first appearance."""
    values: dict[str, list[str]] = {}
    for label in labels:
        kind, _, value = label.partition(":")
        values.setdefault(kind, []).append(value)
    return tuple(
        DenseKind(name=kind, values=tuple(known), cells=CHARACTER_CELLS)
        if kind == "char"
        else DenseKind(name=kind, values=tuple(known), weight=OTHER_WEIGHT)
        for kind, known in values.items()
    )


class DenseRaster:
    """Turns labelled boxes into the classes of a tile's cells."""

    def __init__(self, kinds: Sequence[DenseKind], tile_size: int, patch_size: int) -> None:
        self.kinds = tuple(kinds)
        self.side = tile_size // patch_size
        self.num_cells = sum(kind.num_cells for kind in kinds)
        self._places = {
            f"{kind.name}:{value}": (number, index + 1)
            for number, kind in enumerate(kinds)
            for index, value in enumerate(kind.values)
        }

    def knows(self, objects: Sequence[LabelledBox]) -> bool:
        """Whether any of the labels is known; a picture without one may still show text that nobody labelled."""
        return any(item.label in self._places for item in objects)

    def __call__(self, objects: Sequence[LabelledBox], window: Box) -> npt.NDArray[np.int16]:
        """Classes (P, S) of the tile that shows `window` (left, top, right, bottom in pixels of the picture).

        Labels that are not known are left out.
        """
        found: list[tuple[list[int], list[Box]]] = [([], []) for _ in self.kinds]
        for item in objects:
            place = self._places.get(item.label)
            if place is not None:
                found[place[0]][0].append(place[1])
                found[place[0]][1].append(item.box)
        parts = [
            self._rasterised(kind, np.array(classes, dtype=np.int16), np.array(boxes, dtype=np.float64), window)
            for kind, (classes, boxes) in zip(self.kinds, found, strict=True)
        ]
        return np.concatenate(parts, axis=1)

    def _rasterised(
        self, kind: DenseKind, classes_M: npt.NDArray[np.int16], boxes_M4: npt.NDArray[np.float64], window: Box
    ) -> npt.NDArray[np.int16]:
        """Classes (P, rows * cols) of one kind's cells, the cells of a patch row by row."""
        rows, cols = kind.cells
        if not len(classes_M):
            return np.zeros((self.side**2, rows * cols), dtype=np.int16)
        scale_x = self.side * cols / (window[2] - window[0])
        scale_y = self.side * rows / (window[3] - window[1])
        lefts, tops, rights, bottoms = boxes_M4.T
        cover_x = _covered((lefts - window[0]) * scale_x, (rights - window[0]) * scale_x, self.side * cols)
        cover_y = _covered((tops - window[1]) * scale_y, (bottoms - window[1]) * scale_y, self.side * rows)
        areas_M = (rights - lefts) * scale_x * (bottoms - tops) * scale_y
        cover_MYX = cover_y[:, :, None] * cover_x[:, None, :] / np.minimum(1.0, areas_M)[:, None, None]
        best_YX = cover_MYX.argmax(axis=0)
        shown_YX = np.where(cover_MYX.max(axis=0) >= MIN_COVER, classes_M[best_YX], np.int16(0))
        cells = shown_YX.reshape(self.side, rows, self.side, cols).transpose(0, 2, 1, 3)
        return cells.reshape(self.side**2, rows * cols)


def _covered(lows_M: npt.NDArray[np.float64], highs_M: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float64]:
    """How much of each of `count` cells of length 1 every extent (in cells) covers: (M, count), 0..1."""
    starts = np.arange(count)
    shared = np.minimum(highs_M[:, None], starts + 1) - np.maximum(lows_M[:, None], starts)
    return np.maximum(shared, 0.0)


class DenseHead(nn.Module):
    """Classifies every cell of every patch from the tower's features; thrown away after training."""

    def __init__(self, kinds: Sequence[DenseKind], channels: int) -> None:
        super().__init__()
        self.kinds = tuple(kinds)
        self.norm = nn.LayerNorm(channels)
        self.classify = nn.Linear(channels, sum(kind.num_cells * kind.num_classes for kind in kinds))

    def forward(self, x_NPC: torch.Tensor, classes_NPS: torch.Tensor) -> dict[str, torch.Tensor]:
        """`loss` (), the sum over the kinds; `loss_KIND` and `accuracy_KIND` () on the cells that show something."""
        logits = self.classify(self.norm(x_NPC)).float()
        results: dict[str, torch.Tensor] = {}
        total = logits.new_zeros(())
        column, cell = 0, 0
        for kind in self.kinds:
            width = kind.num_cells * kind.num_classes
            kind_logits = logits[..., column : column + width].reshape(-1, kind.num_classes)
            targets = classes_NPS[..., cell : cell + kind.num_cells].reshape(-1).long()
            losses = F.cross_entropy(kind_logits, targets, reduction="none", ignore_index=UNLABELLED)
            shown, empty = targets > 0, targets == 0
            num_shown = shown.sum()
            shown_loss = losses.masked_fill(~shown, 0.0).sum() / num_shown.clamp(min=MIN_SHOWN)
            nothing_loss = losses.masked_fill(shown, 0.0).sum() / empty.sum().clamp(min=1)
            total = total + kind.weight * (shown_loss + NOTHING_WEIGHT * nothing_loss)
            results[f"loss_{kind.name}"] = shown_loss.detach()
            right = (kind_logits.detach().argmax(-1) == targets) & shown
            results[f"accuracy_{kind.name}"] = right.sum() / num_shown.clamp(min=1)
            column, cell = column + width, cell + kind.num_cells
        return {"loss": total, **results}
