"""Dense labels: which patches a box counts on, slots in reading order, windows of tiles, and the loss."""

from __future__ import annotations

import numpy as np
import torch

from nvila.train.dense import DenseHead, DenseRaster, dense_kinds
from nvila.types import LabelledBox

LABELS = ["char:a", "char:b", "char:c", "char:d", "char:e", "name:cat", "color:red"]


def raster() -> DenseRaster:
    return DenseRaster(dense_kinds(LABELS), 56, 14)


def box(label: str, *sides: float) -> LabelledBox:
    return LabelledBox(label=label, box=(sides[0], sides[1], sides[2], sides[3]))


def test_kinds_keep_their_order_and_slots() -> None:
    kinds = dense_kinds(LABELS)
    assert [(kind.name, kind.num_classes, kind.num_slots) for kind in kinds] == [
        ("char", 6, 4),
        ("name", 2, 1),
        ("color", 2, 1),
    ]


def test_characters_fill_slots_in_order_and_the_fifth_is_left_out() -> None:
    objects = [box(f"char:{letter}", 1 + 2 * place, 2, 3 + 2 * place, 12) for place, letter in enumerate("abcde")]
    classes = raster()(objects, (0, 0, 56, 56)).reshape(4, 4, 6)
    assert classes[0, 0].tolist() == [1, 2, 3, 4, 0, 0]
    assert classes.sum() == 10


def test_a_box_counts_where_enough_of_it_lies() -> None:
    # 10 wide, 2 of them on the second patch: below three tenths; then 4 of them, which is enough.
    little = raster()([box("char:a", 6, 2, 16, 12)], (0, 0, 56, 56)).reshape(4, 4, 6)
    enough = raster()([box("char:a", 8, 2, 18, 12)], (0, 0, 56, 56)).reshape(4, 4, 6)
    assert little[0, :, 0].tolist() == [1, 0, 0, 0]
    assert enough[0, :, 0].tolist() == [1, 1, 0, 0]


def test_large_things_cover_their_patches_and_the_last_one_drawn_wins() -> None:
    objects = [box("name:cat", 0, 0, 56, 56), box("color:red", 14, 14, 42, 42), box("name:dog", 0, 0, 56, 56)]
    classes = raster()(objects, (0, 0, 56, 56)).reshape(4, 4, 6)
    assert (classes[..., 4] == 1).all()
    assert classes[..., 5].tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


def test_a_tile_sees_only_its_window_at_its_scale() -> None:
    objects = [box("color:red", 100, 0, 200, 100)]
    left = raster()(objects, (0, 0, 100, 100))
    right = raster()(objects, (100, 0, 200, 100))
    whole = raster()(objects, (0, 0, 200, 200)).reshape(4, 4, 6)
    assert not left.any()
    assert (right[:, 5] == 1).all()
    assert np.flatnonzero(whole[..., 5].sum(axis=1)).tolist() == [0, 1]
    assert np.flatnonzero(whole[..., 5].sum(axis=0)).tolist() == [2, 3]


def test_the_loss_is_that_of_a_uniform_guess_at_zero_weights_and_zero_when_right() -> None:
    kinds = dense_kinds(LABELS)
    head = DenseHead(kinds, 8)
    torch.nn.init.zeros_(head.classify.weight)
    torch.nn.init.zeros_(head.classify.bias)
    classes = torch.zeros(1, 16, 6, dtype=torch.int16)
    classes[..., 0] = 2
    outputs = head(torch.randn(1, 16, 8), classes)
    torch.testing.assert_close(outputs["loss_char"], torch.tensor(6.0).log())
    assert outputs["accuracy_char"] == 0
    with torch.no_grad():
        head.classify.bias[2] = 50.0
        head.classify.bias[[6, 12, 18, 24, 26]] = 50.0
    outputs = head(torch.randn(1, 16, 8), classes)
    assert float(outputs["loss"]) < 1e-6
    assert outputs["accuracy_char"] == 1
