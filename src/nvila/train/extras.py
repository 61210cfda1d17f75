"""What stage 0 learns from besides answers: captions for the sigmoid loss, and dense labels of patches.

Both come from a sample as it is: a caption from its questions and answers, labels from its `objects`, which belong to
its first picture. What a batch lacks is left out, so that a mixture may hold anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nvila.data.encode import Encoded
from nvila.data.sizes import picture_size
from nvila.data.text_pairs import caption_of, encode_captions
from nvila.errors import ConfigError
from nvila.processing import NVILAProcessor
from nvila.processing.policy import MediaPolicy
from nvila.train.dense import UNLABELLED, Box, DenseRaster
from nvila.types import ImagePart, Sample

MAX_CAPTION_TOKENS = 64


@dataclass(frozen=True)
class Extra:
    """Of one sample: its caption, and the dense classes (tiles of its pictures, P, cells)."""

    caption: str | None
    dense: npt.NDArray[np.int16] | None


class Extras:
    """Makes them for one processor; `captions` and `raster` say which are wanted."""

    def __init__(self, processor: NVILAProcessor, *, captions: bool, raster: DenseRaster | None, seed: int) -> None:
        """Raises ConfigError for dense labels of tiles that no plain grid has."""
        mode = processor.image_processor.image_mode
        if raster is not None and mode not in ("resize", "dynamic"):
            raise ConfigError(
                f"dense labels are for image modes 'resize' and 'dynamic', not {mode!r}; set dense_weight 0"
            )
        self.processor = processor
        self.captions = captions
        self.raster = raster
        self.seed = seed

    def of(self, sample: Sample, encoded: Encoded, position: int) -> Extra:
        """The extras of the sample at `position` of the stream."""
        caption = caption_of(sample, np.random.default_rng([self.seed, position])) if self.captions else None
        return Extra(caption=caption, dense=self._dense(sample, encoded) if self.raster is not None else None)

    def collate(self, samples: Sequence[Encoded], extras: Sequence[Extra]) -> dict[str, Any]:
        """caption_ids (B, L), caption_mask (B, L) and tile_owner (tiles of pictures,), -1 without a caption; dense
        (tiles of pictures, P, cells)."""
        result: dict[str, Any] = {}
        dense = [extra.dense for extra in extras if extra.dense is not None]
        if dense:
            result["dense"] = torch.from_numpy(np.concatenate(dense))
        captions = [extra.caption for extra in extras if extra.caption is not None]
        if captions:
            ids, mask = encode_captions(captions, self.processor.tokenizer, max_tokens=MAX_CAPTION_TOKENS)
            owners, number = [], 0
            for sample, extra in zip(samples, extras, strict=True):
                tiles = 0 if sample.pixel_values is None else len(sample.pixel_values)
                owners += [-1 if extra.caption is None else number] * tiles
                number += extra.caption is not None
            result |= {"caption_ids": ids, "caption_mask": mask, "tile_owner": torch.tensor(owners)}
        return result

    def _dense(self, sample: Sample, encoded: Encoded) -> npt.NDArray[np.int16] | None:
        """Labels of the first picture's tiles; those of others, and of a sample without known ones, are unlabelled."""
        if encoded.pixel_values is None:
            return None
        assert self.raster is not None
        if not self.raster.knows(sample.objects):
            shape = (len(encoded.pixel_values), self.raster.side**2, self.raster.num_cells)
            return np.full(shape, UNLABELLED, dtype=np.int16)
        picture = next(part for message in sample.messages for part in message.content if isinstance(part, ImagePart))
        source = picture.image or picture.path or picture.url
        width, height = picture_size(source, exif_transpose=False, policy=MediaPolicy())
        shown = [self.raster(sample.objects, window) for window in windows(width, height, encoded.block_sizes[0])]
        others = np.full((len(encoded.pixel_values) - len(shown), *shown[0].shape), UNLABELLED, dtype=np.int16)
        return np.concatenate([np.stack(shown), others])


def windows(width: int, height: int, grid: tuple[int, int]) -> list[Box]:
    """The part of a picture, in its pixels, that each tile of a (rows, cols) grid shows, and the whole behind more
    than one."""
    rows, cols = grid
    found = [
        (col * width / cols, row * height / rows, (col + 1) * width / cols, (row + 1) * height / rows)
        for row in range(rows)
        for col in range(cols)
    ]
    return [*found, (0.0, 0.0, float(width), float(height))] if len(found) > 1 else found
