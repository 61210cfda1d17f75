"""The count of bytes that autograd keeps, against what is known by hand."""

from __future__ import annotations

import torch
from torch import nn

from nvila.train.precision.saved import saved_bytes


def test_a_product_keeps_its_operands_once_each() -> None:
    a, b = torch.ones(4, 8, requires_grad=True), torch.ones(8, 2, requires_grad=True)
    assert saved_bytes(lambda: a @ b) == (4 * 8 + 8 * 2) * 4
    assert saved_bytes(lambda: (a @ b, a @ b)) == (4 * 8 + 8 * 2) * 4
    assert saved_bytes(lambda: a @ b, [b]) == 4 * 8 * 4


def test_views_count_as_their_whole_storage_once() -> None:
    a = torch.ones(4, 8, requires_grad=True)
    assert saved_bytes(lambda: a[:2].sin() + a[2:].sin()) == 4 * 8 * 4


def test_tensors_freed_in_between_do_not_hide_later_ones() -> None:
    a = torch.ones(1000, requires_grad=True)

    def forward() -> torch.Tensor:
        for _ in range(5):
            a.exp().sum()
        return a.exp()

    assert saved_bytes(forward) == 6 * 1000 * 4


def test_checkpointing_keeps_the_input_alone() -> None:
    layers = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh())
    x = torch.ones(10, 16, requires_grad=True)

    def forward() -> torch.Tensor:
        output: torch.Tensor = torch.utils.checkpoint.checkpoint(layers, x, use_reentrant=False)
        return output

    assert saved_bytes(forward, layers.parameters()) == 10 * 16 * 4
    assert saved_bytes(lambda: layers(x), layers.parameters()) == 3 * 10 * 16 * 4
