"""Features of media that came before, by content: the same picture is encoded once, within a bound on memory."""

from __future__ import annotations

from collections import OrderedDict

import torch


class FeatureCache:
    """Keeps features until newer ones need the room, the longest unused first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._features: OrderedDict[bytes, torch.Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._features)

    def get(self, digest: bytes) -> torch.Tensor | None:
        """The features (n, H) of the medium with this digest, if they are kept."""
        features = self._features.get(digest)
        if features is not None:
            self._features.move_to_end(digest)
        return features

    def put(self, digest: bytes, features: torch.Tensor) -> None:
        """Keep `features`, unless they alone are over the bound."""
        if features.nbytes > self.max_bytes or digest in self._features:
            return
        self._features[digest] = features
        self.num_bytes += features.nbytes
        while self.num_bytes > self.max_bytes:
            _, oldest = self._features.popitem(last=False)
            self.num_bytes -= oldest.nbytes

    def clear(self) -> None:
        """Forget everything."""
        self._features.clear()
        self.num_bytes = 0
