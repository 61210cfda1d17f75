"""What pictures look like: SigLIP features, averaged over the patches, and over all pictures and frames of a sample.

The tower is that of an NVILA (at the layer that the projector reads) or a SigLIP of its own (its last layer). Pictures
are stretched to one tile each. Samples without any picture have no features: status `no_media`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from nvila.errors import CheckpointError, MediaError
from nvila.layouts import resolve
from nvila.layouts.find import read_json
from nvila.processing import NVILAImageProcessor, NVILAProcessor
from nvila.processing.image import normalise
from nvila.processing.media import load_image, load_video
from nvila.pruning.features.store import Feature
from nvila.pruning.score.data import Corpus, has_media
from nvila.pruning.score.models import device_of, is_ours
from nvila.pruning.score.options import RunOptions
from nvila.pruning.score.padded import USUAL_FRAMES
from nvila.pruning.score.passes import read_ahead
from nvila.types import ImagePart, Sample, VideoPart
from nvila.utils.device import choose_dtype

_SIGLIP_TYPES = ("siglip", "siglip_vision_model")


class LooksExtractor:
    """Features of what samples show. (C,) float32 each, C the tower's width."""

    def __init__(self, name: str, run: RunOptions, *, batch_images: int) -> None:
        """`name`: an NVILA or SigLIP checkpoint. Raises CheckpointError for any other."""
        root = resolve(name)
        self._device = device_of(run)
        dtype = choose_dtype(run.dtype, self._device)
        self._tower, self._layer, self._processor = _load(name, root, dtype)
        self._tower.to(self._device).eval()
        self._run = run
        self._batch_images = batch_images

    def features(self, corpus: Corpus, chunks: Sequence[int]) -> Iterator[list[Feature]]:
        """The features of the samples of each chunk, in order."""
        numbers = (number for chunk in chunks for number in corpus.chunk(chunk))
        tiles = _Tiles(corpus, self._processor, self._run.num_frames or USUAL_FRAMES)
        read = iter(read_ahead(tiles, numbers, self._device, self._run, prefetch=64))
        for chunk in chunks:
            found, cut = zip(*islice(read, len(corpus.chunk(chunk))), strict=True)
            pooled = self._pooled([tile for one in cut for tile in one])
            borders = np.cumsum([0, *map(len, cut)])
            yield [
                feature.with_values(pooled[begin:end].mean(0)) if end > begin else feature
                for feature, begin, end in zip(found, borders[:-1], borders[1:], strict=True)
            ]

    @torch.inference_mode()
    def _pooled(self, tiles: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """(num_tiles, C): the mean over the patches of each tile."""
        rows = []
        for start in range(0, len(tiles), self._batch_images):
            batch = np.concatenate(tiles[start : start + self._batch_images])
            processor = self._processor
            pixels = normalise(batch, processor.rescale_factor, processor.image_mean, processor.image_std)
            features = self._tower.features(
                torch.from_numpy(pixels).to(self._device, next(self._tower.parameters()).dtype), self._layer
            )
            rows.append(features.float().mean(1).cpu().numpy())
        return np.concatenate(rows) if rows else np.empty((0, 0), np.float32)


class _Tiles(Dataset[Any]):
    """What the reading processes do: a sample's number to its features-to-be and a tile for each picture and frame."""

    def __init__(self, corpus: Corpus, processor: NVILAImageProcessor, num_frames: int) -> None:
        self._corpus = corpus
        self._processor = processor
        self._num_frames = num_frames

    def __getitem__(self, number: int) -> tuple[Feature, list[NDArray[np.uint8]]]:
        read = self._corpus.read(number)
        feature = Feature(id=read.id, source=read.source, status=read.status, reason=read.reason)
        if read.sample is None:
            return feature, []
        if not has_media(read.sample):
            return feature.failed("no_media", ""), []
        try:
            return feature, [self._processor.cut(picture, (1, 1)) for picture in self._pictures(read.sample)]
        except (MediaError, OSError) as error:
            return feature.failed("broken_media", str(error)), []

    def _pictures(self, sample: Sample) -> list[Image.Image]:
        pictures: list[Image.Image] = []
        for part in (part for message in sample.messages for part in message.content):
            if isinstance(part, ImagePart):
                given: Any = part.image if part.image is not None else part.path or part.url
                pictures.append(load_image(given))
            elif isinstance(part, VideoPart):
                clip: Any = part.video if part.video is not None else part.path or part.url
                pictures += load_video(clip, num_frames=self._num_frames)
        return pictures


def _load(name: str, root: Path, dtype: torch.dtype) -> tuple[Any, int, NVILAImageProcessor]:
    """The vision model, the layer to read, and the processor of its pictures."""
    from nvila.model import NVILAForConditionalGeneration
    from nvila.model.vision import NVILAVisionModel

    if is_ours(root):
        model = NVILAForConditionalGeneration.from_pretrained(root, dtype=dtype)
        processor = NVILAProcessor.from_pretrained(root)
        return model.vision_tower.vision_model, model.config.vision_select_layer, processor.image_processor
    kind = read_json(root / "config.json").get("model_type")
    if kind not in _SIGLIP_TYPES:
        raise CheckpointError(f"{name}: is a {kind!r}; features of pictures need an NVILA or one of {_SIGLIP_TYPES}")
    try:
        tower = NVILAVisionModel.from_pretrained(root, dtype=dtype, use_safetensors=True)
    except (ValueError, OSError, KeyError) as error:
        raise CheckpointError(f"{name}: cannot be loaded as a SigLIP vision tower: {error!s:.200}") from error
    return tower, -1, NVILAImageProcessor(size=tower.config.image_size)
