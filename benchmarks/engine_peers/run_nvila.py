"""NVILA in our engine, as a contender of bench_engine.py. Settings: folder, vision, language, device, threads, kv_gib.

The split of the time to the first token is the engine's own. Here calls are timed around two of its phases besides: to
see what a decoding step takes apart from the decoder itself, and on a GPU to wait for each phase before the next one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from inputs import Job
from protocol import serve

from nvila.engine import Completion, Engine, EngineConfig, SamplingParams, runner
from nvila.engine.linear import DenseLinear, PackedLinear
from nvila.engine.weights import DecoderWeights
from nvila.ops.int8_linear import Int8Linear
from nvila.train.plan import parts


@dataclass
class Watched:
    """Of one request: seconds of the calls of `decode_one_token`, and of the engine's steps that decoded and did
    nothing else; tiles that the tower read."""

    num_tiles: int = 0
    inside: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)

    @property
    def overhead(self) -> float | None:
        """The share of a step that is not the decoder's."""
        # The step that ends the prompt decodes once too.
        inside = self.inside[len(self.inside) - len(self.steps) :]
        shares = [(step - inside) / step for step, inside in zip(self.steps, inside, strict=True)]
        return statistics.median(shares) if shares else None


class Nvila:
    """An engine without reuse between requests, so that every request pays for its pixels."""

    def __init__(self, settings: dict[str, Any]) -> None:
        torch.set_num_threads(settings["threads"])
        self._device = torch.device(settings["device"])
        config = EngineConfig(
            kv_cache_bytes=settings["kv_gib"] << 30, prefix_reuse=False, feature_cache_bytes=0, max_running=16
        )
        self._engine = Engine.from_pretrained(
            settings["folder"],
            dtype="bfloat16",
            device=settings["device"],
            vision=settings["vision"],
            language=settings["language"],
            config=config,
        )
        self._watched = Watched()
        for name in ("encode_tiles", "encode_images", "prefill", "decode_one_token"):
            setattr(runner, name, self._timed(name, getattr(runner, name)))

    def answer(self, job: Job) -> dict[str, Any]:
        """See `protocol.Contender`; besides, work for the ceilings, and the overhead of a decoding step."""
        pictures = job.pictures()
        watched = self._watched = Watched()
        handle = self._engine.submit(job.messages(pictures), _sampling(job), template_options=_options(job))
        while not handle.is_done:
            has_first = handle.num_generated > 0
            began = time.perf_counter()
            self._engine.step()
            if has_first:
                watched.steps.append(time.perf_counter() - began)
        completion = handle.result()
        return {**_measured(completion), **self._work(completion), "overhead_share": watched.overhead}

    def answer_all(self, jobs: list[Job]) -> dict[str, Any]:
        """See `protocol.Contender`."""
        pictures = [job.pictures() for job in jobs]
        began = time.perf_counter()
        handles = [
            self._engine.submit(job.messages(shown), _sampling(job), template_options=_options(job))
            for job, shown in zip(jobs, pictures, strict=True)
        ]
        for handle in handles:
            handle.result()
        return {"seconds": time.perf_counter() - began, "how": "continuous batching"}

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            result = call(*arguments, **options)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            if name == "decode_one_token":
                self._watched.inside.append(time.perf_counter() - began)
            elif name == "encode_tiles":
                self._watched.num_tiles += len(arguments[1])
            return result

        return timed

    def _work(self, completion: Completion) -> dict[str, Any]:
        """Operations of the tower and of the prompt, and bytes that a decoded token reads."""
        model = self._engine.model
        config, tokens = model.config, completion.num_prompt_tokens
        counted = parts.sizes(config)
        prompt = parts.llm_flops(config, counted, tokens, "idle", sample_length=tokens, again=False, fp8=False)
        weights = self._engine.weights
        tower = parts.vision_flops(config, counted, self._watched.num_tiles, "idle", again=False, fp8=False)
        return {
            "num_tiles": self._watched.num_tiles,
            "vision_flop": sum(flops.forward for flops in tower),
            "prefill_flop": sum(flops.forward for flops in prompt),
            "decode_bytes": weight_bytes(weights) + weights.kv_bytes_per_token * tokens,
        }


def weight_bytes(weights: DecoderWeights) -> int:
    """Bytes of weights that decoding one token reads; of the embedding, one row is nothing."""
    linears = [linear for layer in weights.layers for linear in (layer.qkv, layer.out, layer.gate_up, layer.down)]
    return sum(_bytes_of(linear) for linear in [*linears, weights.head])


def _bytes_of(linear: Any) -> int:
    if isinstance(linear, PackedLinear):
        scales = linear.weight.scales_and_offsets
        apart = linear.weight.scales.nbytes + linear.weight.zeros.nbytes
        return int(linear.weight.packed.nbytes + (apart if scales is None else scales.nbytes))
    if isinstance(linear, DenseLinear):
        return int(linear.weight.nbytes)
    assert isinstance(linear, Int8Linear)
    return int(linear.weight.nbytes)


def _sampling(job: Job) -> SamplingParams:
    return SamplingParams(max_new_tokens=job.max_new_tokens, ignore_eos=True)


def _options(job: Job) -> dict[str, Any]:
    return {"num_frames": job.num_frames} if job.kind == "video" else {}


def _measured(completion: Completion) -> dict[str, Any]:
    split = completion.phase_seconds
    return {
        "ttft_s": completion.ttft_s,
        "preprocessing_s": split.preprocessing,
        "vision_s": split.vision,
        "projector_s": split.projector,
        "prefill_s": split.prefill,
        "decode_tokens_per_s": completion.tokens_per_s,
        "num_prompt_tokens": completion.num_prompt_tokens,
        "num_media_tokens": completion.num_media_tokens,
        "num_new_tokens": len(completion.token_ids),
    }


if __name__ == "__main__":
    serve(Nvila)
