"""Samples to model inputs, fast: the ids, labels and tiles that the processor would give, without its generality.

A training on one machine renders and encodes thousands of samples a minute beside the training itself, so questions
are tokenised once and remembered, and pixels stay bytes until the model normalises them. A test holds this equal to
`NVILAProcessor`. Only one picture or one clip a conversation is encoded, in its first turn, which is what the corpus
makes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from nvila.errors import DataError
from nvila.layouts import VisualSettings
from nvila.processing.chat import DEFAULT_SYSTEM_PROMPT, IGNORED, IMAGE_TOKEN, VIDEO_TOKEN
from nvila.tiling import choose_grid
from nvila.train.dense import Box, DenseRaster
from nvila.train.extras import windows
from nvila.train.grounding import NUM_CELLS, shown_cells
from nvila.train.tokenizer import spell
from nvila.types import ImagePart, Sample, TextPart, VideoPart

Pixels = npt.NDArray[np.uint8]
PAD_MULTIPLE = 16


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One conversation: ids and labels of equal length, tiles (n, S, S, 3), and dense classes (n, P, cells)."""

    id: str
    input_ids: list[int]
    labels: list[int]
    tiles: Pixels
    block_size: tuple[int, int] | None
    """(rows, cols) of a picture; None for a clip, whose frames are the tiles."""
    dense: npt.NDArray[np.int16]
    named: list[int]
    """The token that ends each thing a question names."""
    cells: npt.NDArray[np.bool_]
    """(K, G): where in the picture these things are."""


class SampleEncoder:
    """Encodes samples for one tokenizer and one set of visual settings (modes `resize` and `dynamic`)."""

    def __init__(self, tokenizer: Any, visual: VisualSettings, raster: DenseRaster) -> None:
        self.visual = visual
        self.raster = raster
        backend = tokenizer.backend_tokenizer
        self._tokenize = lru_cache(maxsize=20_000)(
            lambda text: tuple(backend.encode(text, add_special_tokens=False).ids)
        )
        self.image_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self.video_id = tokenizer.convert_tokens_to_ids(VIDEO_TOKEN)
        self.end_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.pad_id = tokenizer.convert_tokens_to_ids("[PAD]")
        self._newline = list(self._tokenize("\n"))

    def __call__(self, sample: Sample, *, spell_answer: bool = False, max_frames: int = 0) -> Encoded:
        """The sample as ids, labels, tiles and dense classes; a clip thinned to `max_frames` unless that is 0.

        Raises DataError for other than one picture or clip and then questions and answers in turn.
        """
        medium, turns = _parts(sample)
        if isinstance(medium, ImagePart):
            assert medium.image is not None
            tiles, grid, shown = self._cut(medium.image)
            block = [self.image_id] * self.visual.tokens_per_tile + self._newline
            tiled_newline = self._newline if self.visual.image_mode == "dynamic" else []
            media_ids = (block + tiled_newline) * len(tiles)
            dense = np.stack([self.raster(sample.objects, window) for window in shown])
        else:
            assert medium.video is not None
            size = self.visual.tile_size
            frames = thinned(medium.video, max_frames)
            tiles = [np.asarray(_resized(frame, (size, size))) for frame in frames]
            grid = None
            num_groups = -(-len(tiles) // self.visual.temporal_pool)
            media_ids = ([self.video_id] * self.visual.tokens_per_tile + self._newline) * num_groups
            side = self.raster.side**2
            dense = np.zeros((len(tiles), side, self.raster.num_cells), dtype=np.int16)
        opening = "<|im_start|>user\n"
        head = self._tokenize(f"<|im_start|>system\n{DEFAULT_SYSTEM_PROMPT}<|im_end|>\n{opening}")
        input_ids = [*head, *media_ids]
        labels = [IGNORED] * len(input_ids)
        named: list[int] = []
        cells = [np.zeros((0, NUM_CELLS), dtype=np.bool_)]
        things = sample.meta.get("named", ())
        medium_px = medium_size(medium)
        for number, (question, answer) in enumerate(turns):
            prompt = self._tokenize(f"{question}<|im_end|>\n<|im_start|>assistant\n")
            before = self._tokenize(f"\n{opening}") if number else ()
            prompt = (*before, *prompt)
            for words, points in things[number] if number < len(things) else ():
                named.append(len(input_ids) + len(before) + self._last_token(question, words))
                cells.append(shown_cells(points, medium_px)[None])
            answer_ids = spell(answer) if spell_answer else self._tokenize(answer)
            target = [*answer_ids, self.end_id]
            input_ids += [*prompt, *target]
            labels += [IGNORED] * len(prompt) + target
        return Encoded(
            id=sample.id,
            input_ids=input_ids,
            labels=labels,
            tiles=np.stack(tiles),
            block_size=grid,
            dense=dense,
            named=named,
            cells=np.concatenate(cells),
        )

    def _last_token(self, question: str, words: str) -> int:
        """The place of the token that ends the first occurrence of `words` in the question."""
        end = re.search(rf"\b{re.escape(words)}\b", question)
        assert end is not None, (question, words)
        return len(self._tokenize(question[: end.end()])) - 1

    def _cut(self, image: Image.Image) -> tuple[list[Pixels], tuple[int, int], list[Box]]:
        """The tiles of a picture, (rows, cols), and the window of the picture that each tile shows."""
        width, height = image.size
        size = self.visual.tile_size
        cols, rows = (1, 1)
        if self.visual.image_mode == "dynamic":
            cols, rows = _grid(width, height, size, self.visual.min_tiles, self.visual.max_tiles)
        pixels = np.asarray(_resized(image, (cols * size, rows * size)))
        tiles = [
            pixels[row * size : (row + 1) * size, col * size : (col + 1) * size]
            for row in range(rows)
            for col in range(cols)
        ]
        if len(tiles) > 1:
            tiles.append(np.asarray(_resized(image, (size, size))))
        return tiles, (rows, cols), windows(width, height, (rows, cols))


def medium_size(medium: ImagePart | VideoPart) -> tuple[int, int]:
    """Width and height in pixels of a picture, or of a clip's first frame."""
    picture = medium.image if isinstance(medium, ImagePart) else (medium.video or (None,))[0]
    assert isinstance(picture, Image.Image)
    return picture.size


def thinned(frames: Sequence[Image.Image], max_frames: int) -> list[Image.Image]:
    """`max_frames` of the frames, evenly spaced from the first to the last; all of them when 0 or not more."""
    if not 0 < max_frames < len(frames):
        return list(frames)
    return [frames[round(place)] for place in np.linspace(0, len(frames) - 1, max_frames).tolist()]


@lru_cache(maxsize=4096)
def _grid(width: int, height: int, tile_size: int, min_tiles: int, max_tiles: int) -> tuple[int, int]:
    return choose_grid(width, height, tile_size, min_tiles, max_tiles)


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    image = image.convert("RGB")
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def _parts(sample: Sample) -> tuple[ImagePart | VideoPart, list[tuple[str, str]]]:
    """The picture or clip, and the questions with their answers."""
    roles = [message.role for message in sample.messages]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise DataError(f"sample {sample.id}: turns are {roles}; user and assistant must take turns, the user first")
    match sample.messages[0].content:
        case (ImagePart() | VideoPart() as medium, TextPart() as question):
            contents = [(question,), *(message.content for message in sample.messages[1:])]
        case _:
            raise DataError(f"sample {sample.id}: expected one image or clip, then a question")
    texts = [part.text for content in contents for part in content if isinstance(part, TextPart)]
    if len(texts) != len(contents) or any(len(content) != 1 for content in contents):
        raise DataError(f"sample {sample.id}: expected one text in every turn behind the first image or clip")
    return medium, [(question.strip(), answer) for question, answer in zip(texts[::2], texts[1::2], strict=True)]


def collate(encoded: Sequence[Encoded], pad_id: int) -> dict[str, Any]:
    """A batch: input_ids and labels (B, L) padded on the right, pixel_values (N, S, S, 3) uint8 and dense
    (N, P, cells) of pictures with their block_sizes, pixel_values_videos (F, S, S, 3) uint8 of clips with their
    video_lengths; of what is named the conversation and token (K, 2), and the cells (K, G) of the picture where it is.
    """
    length = max(len(item.input_ids) for item in encoded)
    length += -length % PAD_MULTIPLE
    input_ids = torch.full((len(encoded), length), pad_id, dtype=torch.long)
    labels = torch.full((len(encoded), length), IGNORED, dtype=torch.long)
    for row, item in enumerate(encoded):
        input_ids[row, : len(item.input_ids)] = torch.tensor(item.input_ids)
        labels[row, : len(item.labels)] = torch.tensor(item.labels)
    named = [(row, token) for row, item in enumerate(encoded) for token in item.named]
    pictures = [item for item in encoded if item.block_size is not None]
    clips = [item for item in encoded if item.block_size is None]
    return {
        "input_ids": input_ids,
        "labels": labels,
        "pixel_values": _concatenate([item.tiles for item in pictures]),
        "dense": _concatenate([item.dense for item in pictures]),
        "block_sizes": [item.block_size for item in pictures],
        "pixel_values_videos": _concatenate([item.tiles for item in clips]),
        "video_lengths": [len(item.tiles) for item in clips],
        "named": torch.tensor(named, dtype=torch.long).reshape(-1, 2),
        "cells": torch.from_numpy(np.concatenate([item.cells for item in encoded])),
    }


def _concatenate(arrays: Sequence[npt.NDArray[Any]]) -> torch.Tensor | None:
    return torch.from_numpy(np.concatenate(arrays)) if arrays else None
