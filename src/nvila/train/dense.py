"""Dense labels: what each patch of a tile shows, made from labelled boxes, and the loss on them.

A vision tower that is trained from nothing learns to read only when something tells every patch which characters lie
on it; the answer alone is too weak a signal. A label is `kind:value`. Characters, which are small, take up to
four slots a patch in reading order; a picture's name, a shape and a colour take one slot each.

Letters: N tiles, P patches of a tile (row-major), S slots, C the tower's width.
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
NUM_CHARACTER_SLOTS = 4
MIN_OVERLAP = 0.3
"""Least part of a character, or of the patch where that is smaller, that lies on a patch for it to count there."""
NOTHING_WEIGHT = 0.5
"""Weight of the mean over slots that show nothing, beside the mean over those that show something."""
OTHER_WEIGHT = 0.2
"""Weight of the kinds that are not characters: reading is the hardest to learn, and their gradients would drown it."""
MIN_SHOWN = 16
"""The mean over slots that show something divides by at least this many, so that a few do not shake a step."""


@dataclass(frozen=True, kw_only=True)
class DenseKind:
    """The labels of one kind and the slots that they take; class 0 is nothing, class i the label i - 1."""

    name: str
    values: tuple[str, ...]
    num_slots: int
    weight: float = 1.0
    """Weight in the loss."""

    @property
    def num_classes(self) -> int:
        return len(self.values) + 1


def dense_kinds(labels: Iterable[str]) -> tuple[DenseKind, ...]:
    """The kinds among `labels` (such as "char:a", "name:cat"), in order of first appearance."""
    values: dict[str, list[str]] = {}
    for label in labels:
        kind, _, value = label.partition(":")
        values.setdefault(kind, []).append(value)
    return tuple(
        DenseKind(name=kind, values=tuple(known), num_slots=NUM_CHARACTER_SLOTS)
        if kind == "char"
        else DenseKind(name=kind, values=tuple(known), num_slots=1, weight=OTHER_WEIGHT)
        for kind, known in values.items()
    )


class DenseRaster:
    """Turns labelled boxes into the classes of a tile's patches."""

    def __init__(self, kinds: Sequence[DenseKind], tile_size: int, patch_size: int) -> None:
        self.side = tile_size // patch_size
        self.tile_size = tile_size
        self.num_slots = sum(kind.num_slots for kind in kinds)
        self._places: dict[str, tuple[int, int, int]] = {}
        first = 0
        for kind in kinds:
            for index, value in enumerate(kind.values):
                self._places[f"{kind.name}:{value}"] = (first, kind.num_slots, index + 1)
            first += kind.num_slots

    def __call__(self, objects: Sequence[LabelledBox], window: Box) -> npt.NDArray[np.int16]:
        """Classes (P, S) of the tile that shows `window` (left, top, right, bottom in pixels of the picture).

        Labels that are not known are left out; so are characters beyond a patch's last slot.
        """
        classes = np.zeros((self.side, self.side, self.num_slots), dtype=np.int16)
        scale_x = self.side / (window[2] - window[0])
        scale_y = self.side / (window[3] - window[1])
        for item in objects:
            place = self._places.get(item.label)
            if place is None:
                continue
            columns = _covered((item.box[0] - window[0]) * scale_x, (item.box[2] - window[0]) * scale_x, self.side)
            rows = _covered((item.box[1] - window[1]) * scale_y, (item.box[3] - window[1]) * scale_y, self.side)
            for row in rows:
                for column in columns:
                    _put(classes[row, column], place)
        return classes.reshape(self.side * self.side, self.num_slots)


def _covered(low: float, high: float, count: int) -> range:
    """The patches along one axis that an extent (in patches) counts on."""
    needed = MIN_OVERLAP * min(1.0, high - low)
    first, last = int(low // 1), int(high // 1)
    if first + 1 - low < needed:
        first += 1
    if high - last < needed:
        last -= 1
    return range(max(0, first), min(count, last + 1))


def _put(slots: npt.NDArray[np.int16], place: tuple[int, int, int]) -> None:
    first, num_slots, value = place
    if num_slots == 1:
        slots[first] = value
        return
    for slot in range(first, first + num_slots):
        if slots[slot] == 0:
            slots[slot] = value
            return


class DenseHead(nn.Module):
    """Classifies every slot of every patch from the tower's features; thrown away after training."""

    def __init__(self, kinds: Sequence[DenseKind], channels: int) -> None:
        super().__init__()
        self.kinds = tuple(kinds)
        self.norm = nn.LayerNorm(channels)
        self.classify = nn.Linear(channels, sum(kind.num_slots * kind.num_classes for kind in kinds))

    def forward(self, x_NPC: torch.Tensor, classes_NPS: torch.Tensor) -> dict[str, torch.Tensor]:
        """`loss` (), the sum over the kinds; `loss_KIND` and `accuracy_KIND` () on the slots that show something."""
        logits = self.classify(self.norm(x_NPC)).float()
        results: dict[str, torch.Tensor] = {}
        total = logits.new_zeros(())
        column, slot = 0, 0
        for kind in self.kinds:
            width = kind.num_slots * kind.num_classes
            kind_logits = logits[..., column : column + width].reshape(-1, kind.num_classes)
            targets = classes_NPS[..., slot : slot + kind.num_slots].reshape(-1).long()
            losses = F.cross_entropy(kind_logits, targets, reduction="none")
            shown = targets != 0
            num_shown = shown.sum()
            shown_loss = losses.masked_fill(~shown, 0.0).sum() / num_shown.clamp(min=MIN_SHOWN)
            nothing_loss = losses.masked_fill(shown, 0.0).sum() / (len(losses) - num_shown).clamp(min=1)
            total = total + kind.weight * (shown_loss + NOTHING_WEIGHT * nothing_loss)
            results[f"loss_{kind.name}"] = shown_loss.detach()
            right = (kind_logits.detach().argmax(-1) == targets) & shown
            results[f"accuracy_{kind.name}"] = right.sum() / num_shown.clamp(min=1)
            column, slot = column + width, slot + kind.num_slots
        return {"loss": total, **results}
