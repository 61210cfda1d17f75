"""What every contender is asked: the same pixels and the same words, made from a seed. Needs numpy and Pillow alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

QUESTION = "Describe what you see in detail."
SYSTEM = "You are a helpful assistant"
QWEN_UNIT = 28
"""Pixels of a side that Qwen2-VL makes one token of."""
QWEN_FRAMES = 2
"""Frames that it reads together."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One request. The answer has `max_new_tokens` tokens, whatever the model says of its end.

    aligned_tokens: a peer resizes the picture, or the frames, to have about so many tokens; None leaves its own way.
    """

    kind: Literal["text", "image", "video"]
    width: int = 0
    height: int = 0
    num_frames: int = 1
    seed: int = 0
    max_new_tokens: int = 1
    aligned_tokens: int | None = None

    def pictures(self) -> list[Image.Image]:
        """The decoded picture, or all frames; none for text."""
        if self.kind == "text":
            return []
        return [_picture(self.seed, self.width, self.height, step) for step in range(self.num_frames)]

    def aligned_size(self) -> tuple[int, int]:
        """(width, height) that Qwen2-VL makes about `aligned_tokens` of, all frames together; its own without them."""
        if self.aligned_tokens is None:
            return self.width, self.height
        pairs = -(-self.num_frames // QWEN_FRAMES) if self.kind == "video" else 1
        wanted, shape = self.aligned_tokens / pairs, self.width / self.height
        grids = [(cols, max(1, round(wanted / cols))) for cols in range(1, 2 + round(wanted))]
        # A third off the picture's shape counts as much as a tenth off the number of tokens.
        cols, rows = min(grids, key=lambda g: abs(np.log(g[0] / g[1] / shape)) + 3 * abs(np.log(g[0] * g[1] / wanted)))
        return cols * QWEN_UNIT, rows * QWEN_UNIT

    def aligned_pictures(self, pictures: list[Image.Image]) -> list[Image.Image]:
        """`pictures` at `aligned_size`; as they are where nothing is aligned."""
        if self.aligned_tokens is None:
            return pictures
        return [picture.resize(self.aligned_size(), Image.Resampling.BICUBIC) for picture in pictures]

    def qwen_text(self) -> str:
        """The prompt in Qwen2-VL's own form, with one placeholder."""
        pad = {"text": "", "image": "<|image_pad|>", "video": "<|video_pad|>"}[self.kind]
        medium = f"<|vision_start|>{pad}<|vision_end|>" if pad else ""
        return (
            f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{medium}{QUESTION}<|im_end|>\n"
            "<|im_start|>assistant\n"
        )

    def messages(self, pictures: list[Image.Image]) -> list[dict[str, Any]]:
        """The conversation in nvila's form."""
        medium: dict[str, list[dict[str, Any]]] = {
            "text": [],
            "image": [{"type": "image", "image": pictures[0]}] if pictures else [],
            "video": [{"type": "video", "video": pictures}],
        }
        return [{"role": "user", "content": [*medium[self.kind], {"type": "text", "text": QUESTION}]}]


def _picture(seed: int, width: int, height: int, step: int) -> Image.Image:
    """Lines of marks as on a page, coloured blocks that move with `step`, and noise."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 245, dtype=np.int16)
    line = max(4, height // 40)
    for top in range(line, height - line, 2 * line):
        marks = np.repeat(rng.random(-(-width // line)) < 0.6, line)[:width]
        pixels[top : top + line // 2, marks] = 40
    for _ in range(5):
        x, y = int(rng.integers(width)) + 3 * step, int(rng.integers(height))
        pixels[y : y + height // 5, x % width : x % width + width // 5] = rng.integers(0, 255, 3)
    pixels += rng.integers(-6, 7, (height, width, 1), dtype=np.int16)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
