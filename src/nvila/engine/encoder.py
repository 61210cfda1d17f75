"""Encoding in portions: so many tiles a step, each medium once, however many requests wait for it."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import torch

from nvila.engine import runner
from nvila.engine.features import FeatureCache
from nvila.engine.prompt import Medium
from nvila.engine.request import PhaseSeconds


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
        return len(medium.pixels) - sum(len(part) for part in self._begun.get(medium.digest, ()))

    def advance(self, medium: Medium, num_tiles: int, seconds: PhaseSeconds) -> torch.Tensor | None:
        """The features (n, H) of `medium`, where at most `num_tiles` more tiles complete them.

        What it takes is added to `seconds`.
        """
        features = self.kept.get(medium.digest)
        if features is not None:
            return features
        parts = self._begun.setdefault(medium.digest, [])
        done = sum(len(part) for part in parts)
        began = time.perf_counter()
        parts.append(runner.encode_tiles(self._model, medium.pixels[done : done + num_tiles]))
        encoded = time.perf_counter()
        seconds.vision += encoded - began
        if done + num_tiles < len(medium.pixels):
            return None
        del self._begun[medium.digest]
        features = runner.encode_images(self._model, medium, torch.cat(parts))
        seconds.projector += time.perf_counter() - encoded
        self.kept.put(medium.digest, features)
        return features

    def keep_only(self, digests: Collection[bytes]) -> None:
        """Forget what is half done of media that nobody waits for any more."""
        for digest in [digest for digest in self._begun if digest not in digests]:
            del self._begun[digest]
