"""Qwen2-VL in OpenVINO GenAI with INT4 weights, as a contender of bench_engine.py. Settings: folder, threads, kv_gib.

The folder is what `optimum-cli export openvino` writes. Driven step by step, so that the first token is seen when it is
there: taking a request in prepares and encodes its pixels, steps prefill and decode. The pipeline does not tell how
many tokens a picture takes; they are counted by Qwen2-VL's rule, sides rounded to multiples of 28.
"""

from __future__ import annotations

import time
from itertools import count
from typing import Any

import numpy as np
import openvino
import openvino_genai
from inputs import QWEN_FRAMES, QWEN_UNIT, Job
from protocol import decode_rate, serve

# The pipeline's own tags; it puts the model's placeholders in their place.
TAGS = {"image": "<ov_genai_image_0>", "video": "<ov_genai_video_0>"}


class OpenVino:
    """`ContinuousBatchingPipeline`; no reuse between requests."""

    def __init__(self, settings: dict[str, Any]) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = settings["kv_gib"]
        scheduler.enable_prefix_caching = False
        scheduler.max_num_seqs = 16
        properties = {"INFERENCE_NUM_THREADS": settings["threads"]}
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(settings["folder"], scheduler, "CPU", properties)
        self._names = count()

    def answer(self, job: Job) -> dict[str, Any]:
        """See `protocol.Contender`."""
        pictures = job.pictures()
        began = time.perf_counter()
        handle = self._add(job, pictures)
        times: list[float] = []
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            while handle.can_read():
                for output in handle.read().values():
                    times += [time.perf_counter()] * len(output.generated_ids)
        text, media = self._num_tokens(job)
        return {
            "ttft_s": times[0] - began,
            "decode_tokens_per_s": decode_rate(len(times), times[-1] - times[0]),
            "num_prompt_tokens": text + media,
            "num_media_tokens": media,
            "num_new_tokens": len(times),
        }

    def answer_all(self, jobs: list[Job]) -> dict[str, Any]:
        """See `protocol.Contender`."""
        pictures = [job.pictures() for job in jobs]
        began = time.perf_counter()
        handles = [self._add(job, shown) for job, shown in zip(jobs, pictures, strict=True)]
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        seconds = time.perf_counter() - began
        del handles  # a request whose handle is gone is dropped, so they are kept until here
        return {"seconds": seconds, "how": "continuous batching"}

    def _add(self, job: Job, pictures: list[Any]) -> Any:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = job.max_new_tokens
        config.ignore_eos = True
        config.do_sample = False
        config.apply_chat_template = False
        shown = [np.asarray(picture) for picture in job.aligned_pictures(pictures)]
        images = [openvino.Tensor(shown[0][None].copy())] if job.kind == "image" else []
        videos = [openvino.Tensor(np.stack(shown))] if job.kind == "video" else []
        name, text = next(self._names), self._text(job)
        if job.kind == "text":
            return self._pipeline.add_request(name, text, config)
        if job.kind == "image":
            return self._pipeline.add_request(name, text, images, config)
        return self._pipeline.add_request(name, text, images, videos, config)

    def _text(self, job: Job) -> str:
        native = f"<|vision_start|><|{job.kind}_pad|><|vision_end|>"
        return job.qwen_text().replace(native, TAGS.get(job.kind, ""))

    def _num_tokens(self, job: Job) -> tuple[int, int]:
        """Of text, with the marks around the picture and without its tokens; of pixels."""
        text = job.qwen_text().replace(f"<|{job.kind}_pad|>", "")
        encoded = self._pipeline.get_tokenizer().encode(text).input_ids
        if job.kind == "text":
            return int(encoded.shape[1]), 0
        cols, rows = (max(1, round(side / QWEN_UNIT)) for side in job.aligned_size())
        pairs = -(-job.num_frames // QWEN_FRAMES) if job.kind == "video" else 1
        return int(encoded.shape[1]), cols * rows * pairs


if __name__ == "__main__":
    serve(OpenVino)
