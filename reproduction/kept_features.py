"""Features of tiles that a frozen tower has already seen, kept in memory and looked up by the pixels.

A clip of 256 frames goes through the tower once for all rows, seeds and epochs, and frames that are alike go through
it once. The trainer and the evaluation run as they are: for as long as `kept_features` lasts, `encode_tiles` of every
model asks here first; a tower that is learning is run each time. Times taken meanwhile are not what the work costs
without it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager

import torch

from nvila.model.base import NVILAPreTrainedModel

Kept = MutableMapping[bytes, torch.Tensor]
"""Features (P, C) by a hash of the tile, of the tower, and of the circumstances they were computed in."""


@contextmanager
def kept_features(kept: Kept) -> Iterator[None]:
    """Looks up in `kept`, and adds to it, whatever a frozen tower is asked for."""
    encode_all = NVILAPreTrainedModel.encode_tiles

    def encode_tiles(model: NVILAPreTrainedModel, pixel_values: torch.Tensor) -> torch.Tensor:
        inferring = torch.is_inference_mode_enabled()
        if not inferring and any(weight.requires_grad for weight in model.vision_tower.parameters()):
            return encode_all(model, pixel_values)
        autocast = torch.is_autocast_enabled(pixel_values.device.type)
        keys = tile_keys(pixel_values, f"{fingerprint(model.vision_tower)} {model.dtype} {autocast} {inferring}")
        places = {key: place for place, key in enumerate(keys) if key not in kept}
        if places:
            with torch.no_grad():
                new = encode_all(model, pixel_values[list(places.values())])
            kept.update(zip(places, new, strict=True))
        return torch.stack([kept[key] for key in keys])

    NVILAPreTrainedModel.encode_tiles = encode_tiles  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        NVILAPreTrainedModel.encode_tiles = encode_all  # type: ignore[method-assign]


def fingerprint(tower: torch.nn.Module) -> list[float]:
    """Numbers that change with the tower's weights: their sum in each tensor."""
    with torch.no_grad():
        return torch.stack([weight.float().sum() for weight in tower.parameters()]).tolist()


def tile_keys(pixel_values: torch.Tensor, salt: str) -> list[bytes]:
    """A hash of each tile (N, 3, S, S) in -1..1, as bytes of its 256 levels, and of `salt`."""
    rows = pixel_values.float().add(1.0).mul(127.5).round().to(torch.uint8).flatten(1).cpu().numpy()
    return [hashlib.blake2b(row.tobytes(), salt=hashlib.md5(salt.encode()).digest()).digest() for row in rows]
