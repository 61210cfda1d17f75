"""Qwen2-VL in vLLM on a CPU, bfloat16, as a contender of bench_engine.py. Settings: folder, threads, kv_gib.

Driven step by step in this process, so that the first token is seen when it is there. vLLM does not tell preprocessing,
tower and prefill apart.
"""

from __future__ import annotations

import os
import time
from itertools import count
from typing import Any

import numpy as np
from inputs import Job
from protocol import decode_rate, serve


class Vllm:
    """`LLMEngine` with its own batching; no reuse between requests."""

    def __init__(self, settings: dict[str, Any]) -> None:
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(settings["kv_gib"])
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        from vllm import LLM, SamplingParams  # reads the environment when it is imported

        self._params = SamplingParams
        self._engine = LLM(
            model=settings["folder"],
            dtype="bfloat16",
            enforce_eager=True,
            max_model_len=16384,
            max_num_seqs=16,
            limit_mm_per_prompt={"image": 1, "video": 1},
            enable_prefix_caching=False,
            mm_processor_cache_gb=0,
        ).llm_engine
        self._names = count()

    def answer(self, job: Job) -> dict[str, Any]:
        """See `protocol.Contender`."""
        pictures = job.pictures()
        began = time.perf_counter()
        self._add(job, pictures)
        times: list[float] = []
        output: Any = None
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                times += [time.perf_counter()] * (len(output.outputs[0].token_ids) - len(times))
        ids = list(output.prompt_token_ids)
        config = self._engine.model_config.hf_config
        return {
            "ttft_s": times[0] - began,
            "decode_tokens_per_s": decode_rate(len(times), times[-1] - times[0]),
            "num_prompt_tokens": len(ids),
            "num_media_tokens": ids.count(config.image_token_id) + ids.count(config.video_token_id),
            "num_new_tokens": len(times),
        }

    def answer_all(self, jobs: list[Job]) -> dict[str, Any]:
        """See `protocol.Contender`."""
        pictures = [job.pictures() for job in jobs]
        began = time.perf_counter()
        for job, shown in zip(jobs, pictures, strict=True):
            self._add(job, shown)
        while self._engine.has_unfinished_requests():
            self._engine.step()
        return {"seconds": time.perf_counter() - began, "how": "continuous batching"}

    def _add(self, job: Job, pictures: list[Any]) -> None:
        shown = job.aligned_pictures(pictures)
        prompt: dict[str, Any] = {"prompt": job.qwen_text()}
        if job.kind == "image":
            prompt["multi_modal_data"] = {"image": shown[0]}
        elif job.kind == "video":
            prompt["multi_modal_data"] = {"video": np.stack([np.asarray(picture) for picture in shown])}
        params = self._params(temperature=0, max_tokens=job.max_new_tokens, ignore_eos=True, detokenize=False)
        self._engine.add_request(str(next(self._names)), prompt, params)


if __name__ == "__main__":
    serve(Vllm)
