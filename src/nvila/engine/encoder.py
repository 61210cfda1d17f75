"""Encoding in portions: so many tiles a step, each medium once, however many requests wait for it."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nvila.engine import runner
from nvila.engine.features import FeatureCache
from nvila.engine.prompt import Medium


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What a portion gave, and what it took."""

    features: dict[bytes, torch.Tensor]
    """(n, H) of media that are complete, by digest."""
    touched: frozenset[bytes]
    """Media of which tiles were encoded."""
    vision_seconds: float
    projector_seconds: float


class Encoder:
    """The vision side of a model, with what is kept and what is half done."""

    def __init__(self, model: Any, max_kept_bytes: int) -> None:
        self.kept = FeatureCache(max_kept_bytes)
        self._model = model
        self._begun: dict[bytes, list[torch.Tensor]] = {}

    @property
    def num_begun(self) -> int:
        """Media of which some tiles are encoded."""
        return len(self._begun)

    def num_left(self, medium: Medium) -> int:
        """Tiles of `medium` that are still to be encoded."""
        if self.kept.get(medium.digest) is not None:
            return 0
        return len(medium.pixels) - self._num_done(medium.digest)

    def advance(self, media: Sequence[Medium], num_tiles: int) -> Encoded:
        """The features of those of `media` that are kept, or that at most `num_tiles` more tiles complete.

        Tiles of all of them go through the tower together, in their order.
        """
        missing = {medium.digest: medium for medium in media}
        kept = {digest: features for digest in missing if (features := self.kept.get(digest)) is not None}
        portion: dict[bytes, torch.Tensor] = {}
        for digest, medium in missing.items():
            if digest not in kept and num_tiles > 0:
                done = self._num_done(digest)
                portion[digest] = medium.pixels[done : done + num_tiles]
                num_tiles -= len(portion[digest])
        if not portion:
            return Encoded(features=kept, touched=frozenset(), vision_seconds=0.0, projector_seconds=0.0)
        began = time.perf_counter()
        encoded = runner.encode_tiles(self._model, torch.cat(list(portion.values())))
        seen = time.perf_counter()
        for digest, part in zip(portion, encoded.split([len(pixels) for pixels in portion.values()]), strict=True):
            self._begun.setdefault(digest, []).append(part)
        complete = {digest: self._finish(missing[digest]) for digest in portion if not self.num_left(missing[digest])}
        return Encoded(
            features=kept | complete,
            touched=frozenset(portion),
            vision_seconds=seen - began,
            projector_seconds=time.perf_counter() - seen,
        )

    def keep_only(self, digests: Collection[bytes]) -> None:
        """Forget what is half done of media that nobody waits for any more."""
        for digest in [digest for digest in self._begun if digest not in digests]:
            del self._begun[digest]

    def _num_done(self, digest: bytes) -> int:
        return sum(len(part) for part in self._begun.get(digest, ()))

    def _finish(self, medium: Medium) -> torch.Tensor:
        features = runner.encode_images(self._model, medium, torch.cat(self._begun.pop(medium.digest)))
        self.kept.put(medium.digest, features)
        return features
