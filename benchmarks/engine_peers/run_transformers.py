"""Qwen2-VL in transformers, bfloat16, as a contender of bench_engine.py. Settings: folder, device, threads.

Pictures go through transformers' own image processor. Its video processor needs torchvision; without it, frames are
brought into the tower's order here.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from inputs import QWEN_FRAMES, QWEN_UNIT, Job
from PIL import Image
from protocol import decode_rate, serve
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor, StoppingCriteria

PATCH, MERGE = 14, 2


class Clock(StoppingCriteria):  # type: ignore[misc]
    """Notes when each token is there; stops nothing."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class Transformers:
    """`generate`, one request at a time or in a padded batch."""

    def __init__(self, settings: dict[str, Any]) -> None:
        torch.set_num_threads(settings["threads"])
        self._device = torch.device(settings["device"])
        self._tokenizer = AutoTokenizer.from_pretrained(settings["folder"], padding_side="left")
        self._images = Qwen2VLImageProcessor.from_pretrained(settings["folder"])
        self._model = Qwen2VLForConditionalGeneration.from_pretrained(settings["folder"], dtype=torch.bfloat16)
        self._model.to(self._device).eval()
        self._model.generation_config.eos_token_id = None  # every answer has the length that is asked for
        self._seconds = {"tower": 0.0, "merger": 0.0}
        visual = self._model.model.visual
        self._time("tower", visual)
        self._time("merger", visual.merger)

    def answer(self, job: Job) -> dict[str, Any]:
        """See `protocol.Contender`."""
        pictures = job.pictures()
        self._seconds = dict.fromkeys(self._seconds, 0.0)
        began = time.perf_counter()
        inputs = self._inputs([job], [pictures])
        prepared = time.perf_counter()
        tokens, times = self._generate(inputs, job.max_new_tokens)
        num_prompt = inputs["input_ids"].shape[1]
        vision = self._seconds["tower"] - self._seconds["merger"]
        return {
            "ttft_s": times[0] - began,
            "preprocessing_s": prepared - began,
            "vision_s": vision,
            "projector_s": self._seconds["merger"],
            "prefill_s": times[0] - prepared - self._seconds["tower"],
            "decode_tokens_per_s": decode_rate(len(times), times[-1] - times[0]),
            "num_prompt_tokens": num_prompt,
            "num_media_tokens": int((inputs["mm_token_type_ids"] > 0).sum()),
            "num_new_tokens": tokens.shape[1] - num_prompt,
        }

    def answer_all(self, jobs: list[Job]) -> dict[str, Any]:
        """See `protocol.Contender`."""
        pictures = [job.pictures() for job in jobs]
        began = time.perf_counter()
        self._generate(self._inputs(jobs, pictures), jobs[0].max_new_tokens)
        return {"seconds": time.perf_counter() - began, "how": "one padded batch"}

    def _generate(self, inputs: dict[str, Any], num_new: int) -> tuple[torch.Tensor, list[float]]:
        clock = Clock()
        on_device = {name: tensor.to(self._device) for name, tensor in inputs.items()}
        with torch.inference_mode():
            tokens = self._model.generate(
                **on_device, max_new_tokens=num_new, do_sample=False, stopping_criteria=[clock]
            )
        return tokens, clock.times

    def _inputs(self, jobs: list[Job], pictures: list[list[Image.Image]]) -> dict[str, Any]:
        """All that `generate` takes; jobs of one kind."""
        kind = jobs[0].kind
        rows, grids, texts = [], [], []
        for job, shown in zip(jobs, pictures, strict=True):
            text = job.qwen_text()
            if shown:
                pixels, grid = self._pixels(job, job.aligned_pictures(shown))
                rows.append(pixels)
                grids.append(grid)
                count = int(grid.prod()) // MERGE**2
                text = text.replace(f"<|{kind}_pad|>", f"<|{kind}_pad|>" * count)
            texts.append(text)
        inputs = dict(self._tokenizer(texts, return_tensors="pt", padding=True))
        inputs.pop("token_type_ids", None)
        ids, config = inputs["input_ids"], self._model.config
        kinds = (ids == config.image_token_id).int() + 2 * (ids == config.video_token_id).int()
        inputs["mm_token_type_ids"] = kinds
        if rows:
            names = ("pixel_values", "image_grid_thw") if kind == "image" else ("pixel_values_videos", "video_grid_thw")
            inputs |= dict(zip(names, (torch.cat(rows).to(torch.bfloat16), torch.stack(grids)), strict=True))
        return inputs

    def _pixels(self, job: Job, pictures: list[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches (N, values), and the grid (time, rows, columns)."""
        if job.kind == "image":
            found = self._images(pictures, return_tensors="pt")
            return found["pixel_values"], found["image_grid_thw"][0]
        width, height = (QWEN_UNIT * max(1, round(side / QWEN_UNIT)) for side in pictures[0].size)
        resized = [picture.resize((width, height), Image.Resampling.BICUBIC) for picture in pictures]
        frames = np.stack([np.asarray(picture, dtype=np.float32) for picture in resized])
        mean, std = (np.array(getattr(self._images, name), np.float32) for name in ("image_mean", "image_std"))
        return video_patches(torch.from_numpy((frames / 255 - mean) / std))

    def _time(self, name: str, module: torch.nn.Module) -> None:
        began = [0.0]

        def before(*_: Any) -> None:
            began[0] = self._now()

        def after(*_: Any) -> None:
            self._seconds[name] += self._now() - began[0]

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def video_patches(frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames (F, H, W, 3) to patches (N, 3 * 2 * 14 * 14) in groups of 2 x 2, and the grid; a last odd one doubles."""
    if len(frames) % QWEN_FRAMES:
        frames = torch.cat([frames, frames[-1:]])
    pairs, rows, cols = len(frames) // QWEN_FRAMES, frames.shape[1] // PATCH, frames.shape[2] // PATCH
    x = frames.view(pairs, QWEN_FRAMES, rows // MERGE, MERGE, PATCH, cols // MERGE, MERGE, PATCH, 3)
    x = x.permute(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return x.reshape(pairs * rows * cols, -1), torch.tensor([pairs, rows, cols])


if __name__ == "__main__":
    serve(Transformers)
