"""What adapters add to the decoder's matrices: products of low rank, computed beside them for some rows of a step.

The rows of one step may belong to requests with different adapters, or with none. The base's matrices are read once for
all of them, and each adapter's small ones for its own rows (as in S-LoRA, Sheng et al., arXiv 2311.03285).

Letters: T rows of the step, R rows of one adapter, H inputs, O outputs, r the rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional as F

Place = Literal["qkv", "out", "gate_up", "down"]
PLACES: dict[Place, tuple[str, ...]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""The linear layers of a decoder layer, as they are fused: each list's outputs lie one behind the other."""


@dataclass(frozen=True)
class LowRankPart:
    """Adds `up @ down @ x` to the outputs from `begin` on. down: (r, H); up: (O, r), with LoRA's scale in it."""

    begin: int
    down: torch.Tensor
    up: torch.Tensor


LayerAdapter = Mapping[Place, Sequence[LowRankPart]]
"""What is added in one decoder layer; a place that is missing stays as it is."""


@dataclass(frozen=True, eq=False)
class DecoderAdapter:
    """What is added in every decoder layer."""

    layers: tuple[LayerAdapter, ...]


@dataclass(frozen=True)
class AdaptedRows:
    """The rows (R,) of a step that belong to requests with `adapter`."""

    rows: torch.Tensor
    adapter: DecoderAdapter


def rows_by_adapter(
    owners: Iterable[tuple[DecoderAdapter | None, range]], device: torch.device
) -> tuple[AdaptedRows, ...]:
    """Which rows are whose, for owners and their rows; rows without an adapter are left out."""
    found: dict[DecoderAdapter, list[int]] = {}
    for adapter, rows in owners:
        if adapter is not None:
            found.setdefault(adapter, []).extend(rows)
    return tuple(AdaptedRows(torch.tensor(rows, device=device), adapter) for adapter, rows in found.items())


def add_low_rank(
    y_TO: torch.Tensor, x_TH: torch.Tensor, adapted: Sequence[AdaptedRows], layer: int, place: Place
) -> torch.Tensor:
    """`y_TO`, changed in place: the outputs of a fused linear layer, with what adapters add for their rows' inputs."""
    for group in adapted:
        parts = group.adapter.layers[layer].get(place, ())
        x_RH = x_TH[group.rows] if parts else x_TH
        for part in parts:
            added_RO = F.linear(F.linear(x_RH, part.down), part.up)
            y_TO[:, part.begin : part.begin + added_RO.shape[1]].index_add_(0, group.rows, added_RO)
    return y_TO
