"""From logits to the next token: penalties, temperature, filters, seeds, log-probabilities.

The order is transformers' own: grammar, repetition penalty, temperature, top-k, top-p, min-p; so are the meanings. Each
request draws from a generator of its own, so that a seed gives the same answer whoever is in the batch.

Letters: B requests, V vocabulary, C candidates, in descending order of their logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from nvila.engine.grammar import Grammar
from nvila.errors import ConfigError

_FIRST_LOOK = 512
"""Candidates among which a nucleus is sought before the whole vocabulary is sorted."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How one answer is drawn and where it ends. Raises ConfigError for values out of range."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    """0 takes the likeliest token."""
    top_k: int = 0
    """Only the `top_k` likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability."""
    min_p: float = 0.0
    """Only tokens with at least this share of the likeliest one's probability."""
    repetition_penalty: float | None = None
    """Divides the logits of tokens seen before (of negative ones multiplies); None takes the checkpoint's own."""
    seed: int | None = None
    stop: str | tuple[str, ...] = ()
    """The answer ends before the first of these strings."""
    ignore_eos: bool = False
    """Whether the answer goes on behind the model's end token, up to `max_new_tokens`."""
    logprobs: int | None = None
    """Log-probabilities of each token and of this many likeliest ones, before all that is above; None gives none."""
    json_schema: dict[str, Any] | str | None = None
    regex: str | None = None

    def __post_init__(self) -> None:
        penalty = 1.0 if self.repetition_penalty is None else self.repetition_penalty
        checks = (
            ("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "a whole number from 1"),
            ("temperature", self.temperature, 0 <= self.temperature < float("inf"), "a number from 0"),
            ("top_k", self.top_k, self.top_k >= 0, "a whole number from 0, which keeps all"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "a number above 0 and up to 1"),
            ("min_p", self.min_p, 0 <= self.min_p <= 1, "a number from 0 to 1"),
            ("repetition_penalty", penalty, 0 < penalty < float("inf"), "a number above 0"),
            ("logprobs", self.logprobs, self.logprobs is None or self.logprobs >= 0, "a whole number from 0"),
            ("stop", self.stop, all(self.stop_strings), "strings that are not empty"),
        )
        for name, value, is_good, wanted in checks:
            if not is_good:
                raise ConfigError(f"{name} is {value!r}; give {wanted}")
        if self.json_schema is not None and self.regex is not None:
            raise ConfigError("json_schema and regex are both given; give one of them")

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as several strings; `""` is none."""
        return ((self.stop,) if self.stop else ()) if isinstance(self.stop, str) else tuple(self.stop)


@dataclass(frozen=True)
class Choice:
    """A token, its log-probability and those of the likeliest ones, where they were asked for."""

    token: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


@dataclass(kw_only=True)
class Sampler:
    """What one request carries from token to token."""

    params: SamplingParams
    repetition_penalty: float
    generator: torch.Generator
    grammar: Grammar | None = None
    seen: set[int] = field(default_factory=set)
    """Tokens of the prompt and the answer; only kept where there is a penalty."""

    @classmethod
    def create(
        cls,
        params: SamplingParams,
        *,
        device: torch.device,
        default_penalty: float,
        prompt_ids: Sequence[int],
        grammar: Grammar | None,
    ) -> Sampler:
        """A sampler at the start of an answer; without a seed it is seeded by chance."""
        generator = torch.Generator(device)
        if params.seed is None:
            generator.seed()
        else:
            generator.manual_seed(params.seed)
        penalty = default_penalty if params.repetition_penalty is None else params.repetition_penalty
        seen = set(prompt_ids) if penalty != 1 else set()
        return cls(params=params, repetition_penalty=penalty, generator=generator, grammar=grammar, seen=seen)

    @property
    def is_plain(self) -> bool:
        """Whether the likeliest token is all that is wanted."""
        return (
            self.params.temperature == 0
            and self.repetition_penalty == 1
            and self.params.logprobs is None
            and self.grammar is None
        )

    def take(self, token: int) -> None:
        """Note that `token` was chosen."""
        if self.repetition_penalty != 1:
            self.seen.add(token)
        if self.grammar is not None:
            self.grammar.take(token)


def choose(logits_BV: torch.Tensor, samplers: Sequence[Sampler]) -> list[Choice]:
    """The next token of each request; `samplers` note it."""
    # One host synchronisation a step: the host must know whether an answer has ended.
    likeliest = logits_BV.argmax(dim=-1).tolist()
    choices = [
        Choice(token) if sampler.is_plain else _choose_one(logits_V, sampler)
        for token, logits_V, sampler in zip(likeliest, logits_BV, samplers, strict=True)
    ]
    for choice, sampler in zip(choices, samplers, strict=True):
        sampler.take(choice.token)
    return choices


def _choose_one(logits_V: torch.Tensor, sampler: Sampler) -> Choice:
    scores_V = logits_V.float()
    params = sampler.params
    allowed_V = scores_V
    if sampler.grammar is not None:
        allowed_V = allowed_V.masked_fill(~sampler.grammar.allowed(len(scores_V)).to(scores_V.device), -torch.inf)
    if sampler.repetition_penalty != 1:
        allowed_V = penalise(allowed_V, sampler.seen, sampler.repetition_penalty)
    if params.temperature == 0:
        token = int(allowed_V.argmax())
    else:
        token = draw(*candidates(allowed_V / params.temperature, params), sampler.generator)
    if params.logprobs is None:
        return Choice(token)
    logprobs_V = scores_V.log_softmax(dim=-1)
    values, ids = logprobs_V.topk(min(params.logprobs, len(logprobs_V)))
    return Choice(token, float(logprobs_V[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))


def penalise(scores_V: torch.Tensor, seen: set[int], penalty: float) -> torch.Tensor:
    """`scores_V` with those of seen tokens divided by `penalty`, or multiplied where they are negative."""
    ids = torch.tensor([token for token in seen if token < len(scores_V)], dtype=torch.long, device=scores_V.device)
    chosen = scores_V[ids]
    return scores_V.index_copy(0, ids, torch.where(chosen < 0, chosen * penalty, chosen / penalty))


def candidates(scores_V: torch.Tensor, params: SamplingParams) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (C,) and ids (C,) of what the filters leave; they sum up to 1.

    A nucleus is sought among the likeliest tokens first: sorting a large vocabulary costs more than all the rest.
    """
    size = len(scores_V)
    if params.top_k:
        scores_C, ids_C = scores_V.topk(min(params.top_k, size))
        probabilities_C = scores_C.softmax(dim=-1)
    elif params.top_p < 1:
        total = scores_V.logsumexp(dim=-1)
        scores_C, ids_C = scores_V.topk(min(_FIRST_LOOK, size))
        probabilities_C = (scores_C - total).exp()
        if float(probabilities_C.sum()) < params.top_p:
            scores_C, ids_C = scores_V.sort(descending=True)
            probabilities_C = (scores_C - total).exp()
    else:
        probabilities_C, ids_C = scores_V.softmax(dim=-1), torch.arange(size, device=scores_V.device)
    if params.top_p < 1:
        before_C = probabilities_C.cumsum(dim=-1) - probabilities_C
        kept = before_C < params.top_p
        probabilities_C, ids_C = probabilities_C[kept], ids_C[kept]
    if params.min_p:
        kept = probabilities_C >= params.min_p * probabilities_C.max()
        probabilities_C, ids_C = probabilities_C[kept], ids_C[kept]
    return probabilities_C / probabilities_C.sum(), ids_C


def draw(probabilities_C: torch.Tensor, ids_C: torch.Tensor, generator: torch.Generator) -> int:
    """One of the ids, by inverting the cumulative distribution: one random number, however many candidates."""
    cumulative = probabilities_C.double().cumsum(dim=-1)
    point = torch.rand((), generator=generator, dtype=torch.float64, device=cumulative.device) * cumulative[-1]
    index = torch.searchsorted(cumulative, point, right=True).clamp(max=len(ids_C) - 1)
    return int(ids_C[index])
