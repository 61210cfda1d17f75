"""One request on its way: what it has, what it still needs, and what comes of it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from nvila.engine.adapters import Adapter
from nvila.engine.kv_cache import BlockTable
from nvila.engine.low_rank import DecoderAdapter
from nvila.engine.prompt import Medium, Prompt, chain
from nvila.engine.sampling import Choice, Sampler
from nvila.engine.text import Detokenizer, StopStrings

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(kw_only=True)
class PhaseSeconds:
    """Where the time to the first token went; what is missing of it was spent waiting for other requests.

    A step that several requests share counts in full for each. A GPU works on while calls return: there, what a phase
    has left undone counts in the next one that waits for it.
    """

    preprocessing: float = 0.0
    """Opening and cutting media, tokens, digests."""
    vision: float = 0.0
    """The tower; 0 for media whose features were kept."""
    projector: float = 0.0
    """With the merge of scales and the pooling of frames."""
    prefill: float = 0.0
    """With the choice of the first token."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """An answer, how it ended, and its numbers."""

    text: str
    token_ids: list[int]
    """With the token that ends the answer, where it came to its end."""
    finish_reason: FinishReason
    num_prompt_tokens: int
    num_media_tokens: int
    """Those of the prompt's tokens that stand for pixels."""
    num_cached_tokens: int
    """Those of the prompt's tokens whose KV cache an earlier request had left."""
    logprobs: list[Choice]
    """One a token, where log-probabilities were asked for."""
    ttft_s: float | None
    """Seconds from `submit` to the first token; None where there was none."""
    tokens_per_s: float | None
    """Decoding speed after the first token; None for a single token."""
    phase_seconds: PhaseSeconds
    """The parts of `ttft_s`."""


@dataclass(eq=False, kw_only=True)
class Request:
    """What the engine knows of a request. `table` is None while it waits."""

    prompt: Prompt
    sampler: Sampler
    detokenizer: Detokenizer
    stop_strings: StopStrings
    eos_ids: frozenset[int]
    max_new_tokens: int
    block_size: int
    submitted_at: float
    seconds: PhaseSeconds
    adapter: Adapter | None = None
    tokens: list[int] = field(init=False)
    """Of the prompt and the answer."""
    num_prompt: int = field(init=False)
    num_computed: int = 0
    """Tokens whose keys and values are in the cache."""
    num_cached: int = 0
    table: BlockTable | None = None
    digests: list[bytes] = field(init=False)
    """Of the full blocks of `tokens`, each with all before it."""
    num_remembered: int = 0
    features: dict[int, torch.Tensor] = field(default_factory=dict)
    """By index of the medium: features that wait to be prefilled."""
    choices: list[Choice] = field(default_factory=list)
    pieces: deque[str] = field(default_factory=deque)
    text: str = ""
    times: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt.ids)
        self.num_prompt = len(self.tokens)
        self._keys_L3 = self.prompt.keys()
        self._media: tuple[Medium, ...] = self.prompt.media
        self.num_media_tokens = self.prompt.num_media_tokens
        self._salt = self.prompt.salt
        self.digests = []
        self._extend_digests()
        self.prompt = Prompt(ids=[], media=())  # the pixels are let go as soon as they are encoded

    @property
    def decoder_adapter(self) -> DecoderAdapter | None:
        return None if self.adapter is None else self.adapter.decoder

    @property
    def tower(self) -> Adapter | None:
        """The adapter that changes the tower, or None for the base's own."""
        return self.adapter if self.adapter is not None and self.adapter.vision else None

    @property
    def num_blocks(self) -> int:
        """Blocks that hold the prompt and the longest answer; the last token's keys are never needed."""
        return -(-(self.num_prompt + self.max_new_tokens - 1) // self.block_size)

    @property
    def num_pixel_bytes(self) -> int:
        return sum(medium.pixels.nbytes for medium in self._media)

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def is_decoding(self) -> bool:
        """Whether the prompt is in the cache, and with it all answered tokens but the last."""
        return self.num_generated > 0

    @property
    def num_prefill_left(self) -> int:
        return 0 if self.is_decoding else self.num_prompt - self.num_computed

    def missing_media(self) -> Iterable[tuple[int, Medium]]:
        """Media whose features are needed and not there, in order."""
        for index, medium in enumerate(self._media):
            if index not in self.features and medium.positions[-1] >= self.num_computed:
                yield index, medium

    @property
    def is_encoded(self) -> bool:
        return next(iter(self.missing_media()), None) is None

    def features_within(self, begin: int, end: int) -> list[tuple[list[int], torch.Tensor]]:
        """The features of positions `begin` to before `end`, with their places counted from `begin`."""
        found = []
        for index, features_nH in self.features.items():
            medium = self._media[index]
            part = medium.within(begin, end)
            if part.start < part.stop:
                found.append(([position - begin for position in medium.positions[part]], features_nH[part]))
        return found

    def advance(self, num_tokens: int) -> None:
        """`num_tokens` more are in the cache; features that are behind it are let go."""
        self.num_computed += num_tokens
        self.features = {
            index: features
            for index, features in self.features.items()
            if self._media[index].positions[-1] >= self.num_computed
        }
        if self.num_computed >= self.num_prompt:
            self._media = ()

    def take(self, choice: Choice) -> FinishReason | None:
        """The next token of the answer; returns how the answer ends, where it ends with it."""
        self.tokens.append(choice.token)
        self.times.append(time.perf_counter())
        if self.sampler.params.logprobs is not None:
            self.choices.append(choice)
        self._extend_digests()
        is_end = choice.token in self.eos_ids
        self._pass_on(self.stop_strings.put("" if is_end else self.detokenizer.put(choice.token)))
        grammar = self.sampler.grammar
        if is_end or self.stop_strings.found or (grammar is not None and grammar.is_complete):
            return "stop"
        return "length" if self.num_generated >= self.max_new_tokens else None

    def finish(self, reason: FinishReason) -> None:
        """The answer has ended; what was held back is passed on, and everything large is let go."""
        self._pass_on(self.stop_strings.put(self.detokenizer.end()) + self.stop_strings.end())
        self.finish_reason = reason
        self.table, self.features, self._media = None, {}, ()

    def completion(self) -> Completion:
        """What came of a request that has ended."""
        assert self.finish_reason is not None
        times = self.times
        seconds = times[-1] - times[0] if len(times) > 1 else 0.0
        return Completion(
            text=self.text,
            token_ids=self.tokens[self.num_prompt :],
            finish_reason=self.finish_reason,
            num_prompt_tokens=self.num_prompt,
            num_media_tokens=self.num_media_tokens,
            num_cached_tokens=self.num_cached,
            logprobs=self.choices,
            ttft_s=times[0] - self.submitted_at if times else None,
            tokens_per_s=(len(times) - 1) / seconds if seconds > 0 else None,
            phase_seconds=self.seconds,
        )

    def _pass_on(self, text: str) -> None:
        if text:
            self.text += text
            self.pieces.append(text)

    def _extend_digests(self) -> None:
        size = self.block_size
        while (len(self.digests) + 1) * size <= len(self.tokens):
            begin = len(self.digests) * size
            keys = self._keys_L3[begin : begin + size]
            if len(keys) < size:
                answered = np.zeros((size - len(keys), 3), dtype=np.int64)
                answered[:, 0] = self.tokens[begin + len(keys) : begin + size]
                keys = np.concatenate([keys, answered])
            self.digests.append(chain(self.digests[-1] if self.digests else self._salt, keys))
