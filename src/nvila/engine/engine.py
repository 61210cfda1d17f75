"""The engine: conversations in, answers out, many at a time.

Whoever waits for an answer drives the engine: each call of `step` advances every request, so that one thread that calls
`generate` and a server with many work alike, and nothing runs in the background. All methods may be called from several
threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nvila.engine import runner
from nvila.engine.adapters import Adapter, Adapters
from nvila.engine.config import EngineBusyError, EngineConfig
from nvila.engine.encoder import Encoder
from nvila.engine.grammar import GrammarMaker
from nvila.engine.handle import Handle
from nvila.engine.kv_cache import BlockPool, KVCache
from nvila.engine.prompt import Prompt, read_prompt
from nvila.engine.request import Completion, PhaseSeconds, Request
from nvila.engine.round import check_formats, round_in_place
from nvila.engine.runner import PrefillChunk
from nvila.engine.sampling import Sampler, SamplingParams, choose
from nvila.engine.scheduler import Scheduler
from nvila.engine.text import Detokenizer, StopStrings
from nvila.engine.weights import DecoderWeights, take_weights
from nvila.errors import PromptError
from nvila.model import NVILAForConditionalGeneration
from nvila.processing import NVILAProcessor
from nvila.utils.device import choose_device, choose_dtype

_CPU_KV_BYTES = 2 << 30
_GPU_KV_SHARE = 0.8


@dataclass(frozen=True, kw_only=True)
class EngineStats:
    """What an engine holds at the moment."""

    num_waiting: int
    num_running: int
    num_blocks: int
    num_blocks_used: int
    num_blocks_kept: int
    """Held by nobody, and kept for requests that begin alike."""
    num_media_begun: int
    num_media_kept: int
    feature_bytes_kept: int


class Engine:
    """Answers conversations about images and videos with a lean decoder and continuous batching.

    model: an `NVILAForConditionalGeneration` in evaluation mode on its device. Its decoder's weights are fused in
    place and shared with it. processor: its `NVILAProcessor`. Raises ConfigError for a decoder that is not supported.
    """

    def __init__(self, model: Any, processor: Any, config: EngineConfig | None = None) -> None:
        self.config = config or EngineConfig()
        self.model = model
        self.processor = processor
        self.weights = take_weights(model)
        on_gpu = self.weights.device.type == "cuda"
        num_blocks = _num_blocks(self.weights, self.config)
        self._cache = KVCache(self.weights, num_blocks, self.config.block_size)
        patches = (model.visual.tile_size // model.visual.patch_size) ** 2
        self._scheduler = Scheduler(
            self.config,
            BlockPool(num_blocks),
            self._cache.table,
            prefill_chunk=self.config.prefill_chunk or (2048 if on_gpu else 256),
            tiles_per_step=self.config.tiles_per_step or max(1, (16384 if on_gpu else 2048) // patches),
        )
        self._encoder = Encoder(model, self.config.feature_cache_bytes)
        generation = model.generation_config
        ends = generation.eos_token_id
        self._eos_ids = frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
        self._penalty = float(generation.repetition_penalty or 1.0)
        self._grammars = GrammarMaker(processor.tokenizer, min(self._eos_ids, default=None))
        self._lock = threading.RLock()
        self.adapters = Adapters(model, processor, self._lock)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        dtype: str = "auto",
        vision: str | None = None,
        language: str | None = None,
        device: str = "auto",
        adapters: Mapping[str, str | Path] | None = None,
        config: EngineConfig | None = None,
    ) -> Engine:
        """An engine for `nvila-mini`, a checkpoint folder of any layout, or a hub id.

        vision: "w8a8", language: "w4a16"; None leaves the part as the checkpoint has it. Parts that the checkpoint
        does not have in the format are rounded to nearest. adapters: folders of `nvila finetune` by the names that
        requests give. Raises CheckpointError or ConfigError for what is wrong with the checkpoint or an adapter.
        """
        check_formats(vision, language)
        where = choose_device(device)
        processor = NVILAProcessor.from_pretrained(name)
        model = NVILAForConditionalGeneration.from_pretrained(name, dtype=choose_dtype(dtype, where))
        round_in_place(model, vision=vision, language=language)
        engine = cls(model.to(where).eval(), processor, config)
        for called, folder in (adapters or {}).items():
            engine.adapters.add(called, folder)
        return engine

    def generate(
        self,
        messages: Any,
        *,
        adapter: str | None = None,
        template_options: Mapping[str, Any] | None = None,
        **sampling: Any,
    ) -> Completion:
        """The answer to one conversation. Keywords are those of `SamplingParams`; see `submit` for the rest."""
        return self.submit(
            messages, SamplingParams(**sampling), adapter=adapter, template_options=template_options
        ).result()

    def generate_all(
        self,
        conversations: Sequence[Any],
        *,
        adapter: str | None = None,
        template_options: Mapping[str, Any] | None = None,
        **sampling: Any,
    ) -> list[Completion]:
        """The answers to several conversations, computed together, in their order."""
        params = SamplingParams(**sampling)
        handles = [
            self.submit(messages, params, adapter=adapter, template_options=template_options)
            for messages in conversations
        ]
        return [handle.result() for handle in handles]

    def stream(
        self,
        messages: Any,
        *,
        adapter: str | None = None,
        template_options: Mapping[str, Any] | None = None,
        **sampling: Any,
    ) -> Iterator[str]:
        """The answer to one conversation in pieces; leaving the loop early cancels it."""
        yield from self.submit(
            messages, SamplingParams(**sampling), adapter=adapter, template_options=template_options
        ).pieces()

    def submit(
        self,
        messages: Any,
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        template_options: Mapping[str, Any] | None = None,
        wait: bool = True,
    ) -> Handle:
        """Put a conversation in the queue.

        messages: as `NVILAProcessor.apply_chat_template` takes them. adapter: the name of one of `adapters`; the base
        answers without. template_options: keywords for it, such as
        max_tiles and num_frames. wait: where the queue is full, drive the engine until there is room; otherwise
        EngineBusyError is raised. Raises ConfigError for an adapter that is not known, PromptError for a
        conversation that is malformed or too long, MediaError.
        """
        began = time.perf_counter()
        adapted = None if adapter is None else self.adapters.get(adapter)
        processor = self.processor if adapted is None else adapted.processor
        inputs = processor.apply_chat_template(
            messages,
            **{
                "add_generation_prompt": True,
                "tokenize": True,
                "return_dict": True,
                "return_tensors": "pt",
                **(template_options or {}),
            },
        )
        prompt = read_prompt(inputs, processor, self.model)
        if adapted is not None:
            prompt = prompt.salted(adapted.salt, also_media=bool(adapted.vision))
        request = self._request(prompt, params or SamplingParams(), began, adapted)
        while True:
            try:
                with self._lock:
                    self._scheduler.add(request)
                return Handle(self, request)
            except EngineBusyError:
                if not wait:
                    raise
            self.step()

    def step(self) -> bool:
        """Advance every request by one step: some encoding, some prefill, a token for all who decode.

        Returns whether there is work left.
        """
        with self._lock, torch.inference_mode():
            self._scheduler.begin_step()
            self._encode()
            self._prefill()
            self._decode()
            return self._scheduler.has_work

    def cancel(self, handle: Handle) -> None:
        """End a request now and free what it holds; one that has ended stays as it is."""
        request = handle.request
        with self._lock:
            if request.finish_reason is None:
                self._scheduler.end(request, "cancelled")
                self._forget_unwanted()

    def clear_kept(self) -> None:
        """Forget prefixes and features that are kept for reuse."""
        with self._lock:
            self._scheduler.pool.forget_kept()
            self._encoder.kept.clear()

    def stats(self) -> EngineStats:
        """What is held at the moment."""
        with self._lock:
            pool = self._scheduler.pool
            return EngineStats(
                num_waiting=len(self._scheduler.waiting),
                num_running=len(self._scheduler.running),
                num_blocks=pool.num_blocks,
                num_blocks_used=pool.num_used,
                num_blocks_kept=pool.num_kept,
                num_media_begun=self._encoder.num_begun,
                num_media_kept=len(self._encoder.kept),
                feature_bytes_kept=self._encoder.kept.num_bytes,
            )

    def _request(self, prompt: Prompt, params: SamplingParams, began: float, adapter: Adapter | None) -> Request:
        room = self.weights.max_length - len(prompt.ids)
        if room <= 0:
            raise PromptError(
                f"the prompt is {len(prompt.ids)} tokens ({prompt.num_media_tokens} of them for images and videos), "
                f"and the model takes {self.weights.max_length} with the answer; shorten the text, give fewer images, "
                "or lower max_tiles or num_frames"
            )
        sampler = Sampler.create(
            params,
            device=self.weights.device,
            default_penalty=self._penalty,
            prompt_ids=prompt.ids,
            grammar=self._grammars.make(json_schema=params.json_schema, regex=params.regex),
        )
        prepared = time.perf_counter()
        request = Request(
            prompt=prompt,
            sampler=sampler,
            detokenizer=Detokenizer(self.processor.tokenizer),
            stop_strings=StopStrings(params.stop_strings),
            eos_ids=frozenset() if params.ignore_eos else self._eos_ids,
            max_new_tokens=min(params.max_new_tokens, room),
            block_size=self.config.block_size,
            submitted_at=began,
            seconds=PhaseSeconds(preprocessing=prepared - began),
            adapter=adapter,
        )
        if request.num_blocks > self._scheduler.pool.num_blocks:
            size = self.config.block_size
            raise PromptError(
                f"the prompt and its answer take up to {request.num_blocks * size} tokens of KV cache, and the engine "
                f"has {self._scheduler.pool.num_blocks * size}; lower max_new_tokens, or raise kv_cache_bytes"
            )
        return request

    def _encode(self) -> None:
        requests, num_tiles = self._scheduler.to_encode(self._encoder.num_left)
        try:
            self._encode_for(requests, num_tiles)
        except Exception as error:  # noqa: BLE001  its owner gets it, and the others go on
            if len(requests) == 1:
                self._fail(requests, error)
                return
            for request in requests:  # together nobody knows whose it is
                try:
                    self._encode_for([request], num_tiles)
                except Exception as own:  # noqa: BLE001  as above
                    self._fail([request], own)

    def _encode_for(self, requests: Sequence[Request], num_tiles: int) -> None:
        wanted = [(request, index, medium) for request in requests for index, medium in request.missing_media()]
        if not wanted:
            return
        with self.adapters.encoding(requests[0].tower):
            found = self._encoder.advance([medium for _, _, medium in wanted], num_tiles)
        for request, index, medium in wanted:
            if medium.digest in found.features:
                request.features[index] = found.features[medium.digest]
        for request in dict.fromkeys(owner for owner, _, medium in wanted if medium.digest in found.touched):
            request.seconds.vision += found.vision_seconds
            request.seconds.projector += found.projector_seconds

    def _prefill(self) -> None:
        portions = self._scheduler.to_prefill()
        if not portions:
            return
        began = time.perf_counter()
        try:
            chunks = [_chunk(request, count) for request, count in portions]
            logits_BV = runner.prefill(self.weights, self._cache, chunks)
            for request, count in portions:
                self._scheduler.note_computed(request, count)
            self._choose([request for request, _ in portions if not request.num_prefill_left], logits_BV)
            ended = time.perf_counter()
            for request, _ in portions:
                request.seconds.prefill += (request.times[0] if request.times else ended) - began
        except Exception as error:  # noqa: BLE001  as above
            self._fail([request for request, _ in portions], error)

    def _decode(self) -> None:
        requests = self._scheduler.to_decode()
        if not requests:
            return
        try:
            logits_BV = runner.decode_one_token(
                self.weights,
                self._cache,
                [request.tokens[-1] for request in requests],
                [request.num_computed for request in requests],
                [request.table for request in requests if request.table is not None],
                [request.decoder_adapter for request in requests],
            )
            for request in requests:
                self._scheduler.note_computed(request, 1)
            self._choose(requests, logits_BV)
        except Exception as error:  # noqa: BLE001  as above
            self._fail(requests, error)

    def _choose(self, requests: Sequence[Request], logits_BV: torch.Tensor) -> None:
        if not requests:
            return
        for request, choice in zip(requests, choose(logits_BV, [r.sampler for r in requests]), strict=True):
            reason = request.take(choice)
            if reason is not None:
                self._scheduler.end(request, reason)

    def _fail(self, requests: Sequence[Request], error: Exception) -> None:
        """Hand `error` to those whose step it was; everything that they held is free."""
        for request in requests:
            if request.finish_reason is None:
                request.error = error
                self._scheduler.end(request, "error")
        self._forget_unwanted()

    def _forget_unwanted(self) -> None:
        wanted = {medium.digest for request in self._scheduler.running for _, medium in request.missing_media()}
        self._encoder.keep_only(wanted)


def _chunk(request: Request, count: int) -> PrefillChunk:
    begin, end = request.num_computed, request.num_computed + count
    assert request.table is not None
    return PrefillChunk(
        ids=request.tokens[begin:end],
        offset=begin,
        table=request.table,
        features=request.features_within(begin, end),
        ends_prompt=end == request.num_prompt,
        adapter=request.decoder_adapter,
    )


def _num_blocks(weights: DecoderWeights, config: EngineConfig) -> int:
    """Blocks within the engine's bytes, and no more than `max_running` conversations of full length fill."""
    num_bytes = config.kv_cache_bytes
    if num_bytes is None:
        on_gpu = weights.device.type == "cuda"
        num_bytes = int(_GPU_KV_SHARE * torch.cuda.mem_get_info(weights.device)[0]) if on_gpu else _CPU_KV_BYTES
    most = config.max_running * -(-weights.max_length // config.block_size)
    return max(1, min(most, num_bytes // (weights.kv_bytes_per_token * config.block_size)))
