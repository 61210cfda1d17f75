"""Dense labels: which cells a box counts on, windows of tiles, and the loss."""

from __future__ import annotations

import numpy as np
import torch

from nvila.train.dense import UNLABELLED, DenseHead, DenseRaster, dense_kinds
from nvila.types import LabelledBox

LABELS = ["char:a", "char:b", "char:c", "char:d", "char:e", "name:cat", "color:red"]


def raster() -> DenseRaster:
    return DenseRaster(dense_kinds(LABELS), 56, 14)


def box(label: str, *sides: float) -> LabelledBox:
    return LabelledBox(label=label, box=(sides[0], sides[1], sides[2], sides[3]))


def test_kinds_keep_their_order_and_cells() -> None:
    kinds = dense_kinds(LABELS)
    assert [(kind.name, kind.num_classes, kind.cells) for kind in kinds] == [
        ("char", 6, (2, 3)),
        ("name", 2, (1, 1)),
        ("color", 2, (1, 1)),
    ]


def test_a_cell_shows_the_character_that_covers_most_of_it() -> None:
    # The first patch's cells are 14/3 wide and 7 high: `a` fills the upper left one, `b` a strip behind it.
    objects = [box("char:a", 0, 0, 5, 7), box("char:b", 5, 0, 9, 14)]
    classes = raster()(objects, (0, 0, 56, 56)).reshape(4, 4, 8)
    assert classes[0, 0, :6].tolist() == [1, 2, 0, 0, 2, 0]
    assert classes.sum() == 1 + 2 + 2


def test_a_box_counts_where_it_covers_enough_of_a_cell_or_of_itself() -> None:
    # A cell is 14/3 by 7. Two tenths of it are too little; a dot far smaller than a cell still shows.
    little = raster()([box("char:a", 0, 0, 14 / 15, 7)], (0, 0, 56, 56))
    enough = raster()([box("char:a", 0, 0, 14 / 9, 7)], (0, 0, 56, 56))
    beyond = raster()([box("char:a", 0, 0, 14 / 3 + 14 / 15, 7)], (0, 0, 56, 56))
    assert little[0, :2].tolist() == [1, 0], "all of the thing lies here"
    assert enough[0, :2].tolist() == [1, 0]
    assert beyond[0, :2].tolist() == [1, 0]


def test_large_things_cover_their_patches_and_unknown_labels_are_left_out() -> None:
    objects = [box("name:cat", 0, 0, 56, 56), box("color:red", 14, 14, 42, 42), box("name:dog", 0, 0, 56, 56)]
    classes = raster()(objects, (0, 0, 56, 56)).reshape(4, 4, 8)
    assert (classes[..., 6] == 1).all()
    assert classes[..., 7].tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


def test_a_tile_sees_only_its_window_at_its_scale() -> None:
    objects = [box("color:red", 100, 0, 200, 100)]
    left = raster()(objects, (0, 0, 100, 100))
    right = raster()(objects, (100, 0, 200, 100))
    whole = raster()(objects, (0, 0, 200, 200)).reshape(4, 4, 8)
    assert not left.any()
    assert (right[:, 7] == 1).all()
    assert np.flatnonzero(whole[..., 7].sum(axis=1)).tolist() == [0, 1]
    assert np.flatnonzero(whole[..., 7].sum(axis=0)).tolist() == [2, 3]


def test_the_loss_is_that_of_a_uniform_guess_at_zero_weights_and_zero_when_right() -> None:
    kinds = dense_kinds(LABELS)
    head = DenseHead(kinds, 8)
    torch.nn.init.zeros_(head.classify.weight)
    torch.nn.init.zeros_(head.classify.bias)
    classes = torch.zeros(1, 16, 8, dtype=torch.int16)
    classes[..., 0] = 2
    outputs = head(torch.randn(1, 16, 8), classes)
    torch.testing.assert_close(outputs["loss_char"], torch.tensor(6.0).log())
    assert outputs["accuracy_char"] == 0
    with torch.no_grad():
        head.classify.bias[2] = 50.0
        head.classify.bias[[6, 12, 18, 24, 30, 36, 38]] = 50.0
    outputs = head(torch.randn(1, 16, 8), classes)
    assert outputs["loss"].item() < 1e-6
    assert outputs["accuracy_char"] == 1


def test_unlabelled_cells_have_no_loss() -> None:
    torch.manual_seed(0)
    head = DenseHead(dense_kinds(LABELS), 8)
    features = torch.randn(2, 16, 8)
    classes = torch.zeros(2, 16, 8, dtype=torch.int16)
    classes[:, :12, 0] = 2
    alone = head(features[:1], classes[:1])
    classes[1] = UNLABELLED
    both = head(features, classes)
    torch.testing.assert_close(both["loss"], alone["loss"])
    torch.testing.assert_close(both["accuracy_char"], alone["accuracy_char"])
