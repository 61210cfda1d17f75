"""A request's prompt: its tokens, its media with their places among them, and what makes two prompts alike.

Two prompts are alike up to a token when their tokens are and the pictures behind the placeholders are: so a token's key
is its id, or the content of its medium and which feature of it.

Letters: L tokens, N tiles, n features of a medium, S pixels of a tile's side.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from nvila.errors import FusionError


@dataclass(frozen=True, kw_only=True)
class Medium:
    """One picture or clip of a prompt, cut into tiles."""

    kind: Literal["image", "video"]
    digest: bytes
    """Of the pixels and how they were cut: equal where the features are."""
    pixels: torch.Tensor
    """(N, 3, S, S) float on the CPU."""
    grid: tuple[int, int]
    """(rows, cols) of a picture's tiles; (1, 1) for a clip, whose frames are tiles."""
    positions: list[int]
    """(n,) where its features go in the prompt."""

    def within(self, begin: int, end: int) -> slice:
        """Which of its features have positions from `begin` to before `end`."""
        return slice(bisect_left(self.positions, begin), bisect_left(self.positions, end))


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Token ids and media, in the order of their first positions."""

    ids: list[int]
    media: tuple[Medium, ...]
    salt: bytes = b""
    """Prompts with different salts are never alike, whatever their tokens."""

    def salted(self, salt: bytes, *, also_media: bool) -> Prompt:
        """This prompt for weights of its own: for a decoder's, and with `also_media` for a tower's as well."""
        media = self.media
        if also_media:
            media = tuple(replace(medium, digest=_digest(medium.digest + salt)) for medium in media)
        return replace(self, media=media, salt=salt)

    @property
    def num_media_tokens(self) -> int:
        """Tokens that stand for pixels."""
        return sum(len(medium.positions) for medium in self.media)

    def keys(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """(L, 3): the id of a token and zeros, or which feature it is and its medium's digest."""
        keys_L3 = np.zeros((len(self.ids), 3), dtype=np.int64)
        keys_L3[:, 0] = self.ids
        for medium in self.media:
            keys_L3[medium.positions, 0] = np.arange(len(medium.positions))
            keys_L3[medium.positions, 1:] = np.frombuffer(medium.digest, dtype=np.int64)
        return keys_L3


def chain(before: bytes, keys: np.ndarray[Any, np.dtype[np.int64]]) -> bytes:
    """The digest of a block whose tokens have these keys, behind the block with the digest `before`."""
    return _digest(before + keys.tobytes())


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def read_prompt(inputs: Mapping[str, Any], processor: Any, model: Any) -> Prompt:
    """The prompt that the processor made of one conversation (`return_tensors="pt"`).

    Raises FusionError where placeholders and features disagree in number.
    """
    ids = [int(token) for token in inputs["input_ids"][0]]
    media = []
    if inputs.get("pixel_values") is not None:
        blocks = [(int(rows), int(cols)) for rows, cols in inputs["block_sizes"]]
        tiles = inputs["pixel_values"].split([model.num_image_tiles(block) for block in blocks])
        counts = [processor.num_image_tokens(block) for block in blocks]
        places = _places(ids, processor.image_token_id, counts, "image")
        for pixels, block, positions in zip(tiles, blocks, places, strict=True):
            media.append(_medium("image", pixels, block, positions))
    if inputs.get("pixel_values_videos") is not None:
        lengths = [int(length) for length in inputs["video_lengths"]]
        counts = [processor.num_pooled_frames(length) * processor.tokens_per_tile for length in lengths]
        places = _places(ids, processor.video_token_id, counts, "video")
        for pixels, positions in zip(inputs["pixel_values_videos"].split(lengths), places, strict=True):
            media.append(_medium("video", pixels, (1, 1), positions))
    return Prompt(ids=ids, media=tuple(sorted(media, key=lambda medium: medium.positions[0])))


def _medium(
    kind: Literal["image", "video"], pixels: torch.Tensor, grid: tuple[int, int], positions: list[int]
) -> Medium:
    pixels = pixels.detach().cpu().contiguous()
    # SHA-256, which processors compute in hardware: features must never be taken for another picture's.
    content = hashlib.sha256(f"{kind} {grid} {tuple(pixels.shape)} {pixels.dtype} ".encode())
    content.update(pixels.flatten().view(torch.uint8).numpy().data)
    return Medium(kind=kind, digest=content.digest()[:16], pixels=pixels, grid=grid, positions=positions)


def _places(ids: Sequence[int], placeholder: int, counts: Sequence[int], kind: str) -> list[list[int]]:
    """The positions of each medium's features: the placeholders in order."""
    places = [index for index, token in enumerate(ids) if token == placeholder]
    if len(places) != sum(counts):
        raise FusionError(
            f"the text holds {len(places)} {kind} placeholders, but {len(counts)} {kind}(s) give "
            f"{sum(counts)} features; build the text and the media with the same processor and settings"
        )
    ends = np.cumsum(counts).tolist()
    return [places[end - count : end] for end, count in zip(ends, counts, strict=True)]
