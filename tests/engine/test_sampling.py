"""Draws have the distribution that was asked for, filters are transformers' own, log-probabilities are those."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine.tiny_engines import Reference, ask, conversations, open_engine
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from nvila import ConfigError
from nvila.engine import SamplingParams
from nvila.engine.sampling import Sampler, candidates, choose, draw, penalise

FILTERS = {
    "none": {},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.6},
    "min_p": {"min_p": 0.1},
    "hot": {"temperature": 1.7, "top_p": 0.9},
    "all": {"temperature": 0.6, "top_k": 9, "top_p": 0.8, "min_p": 0.05},
    "top_k above the vocabulary": {"top_k": 10_000},
}


def sampler(params: SamplingParams, prompt_ids: tuple[int, ...] = ()) -> Sampler:
    return Sampler.create(params, device=torch.device("cpu"), default_penalty=1.0, prompt_ids=prompt_ids, grammar=None)


def theirs(scores: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """transformers' probabilities (V,)."""
    ids = torch.zeros(1, 1, dtype=torch.long)
    warped = TemperatureLogitsWarper(params.temperature)(ids, scores[None])
    if params.top_k:
        warped = TopKLogitsWarper(params.top_k)(ids, warped)
    if params.top_p < 1:
        warped = TopPLogitsWarper(params.top_p)(ids, warped)
    if params.min_p:
        warped = MinPLogitsWarper(params.min_p)(ids, warped)
    return warped[0].softmax(dim=-1)


@pytest.mark.parametrize("options", FILTERS.values(), ids=FILTERS.keys())
@pytest.mark.parametrize(("size", "spread"), [(40, 2.0), (3000, 3.0), (3000, 0.01)])
def test_filters_leave_what_transformers_leaves(options: dict[str, Any], size: int, spread: float) -> None:
    params = SamplingParams(**{"temperature": 1.0, **options})
    scores = spread * torch.randn(size, generator=torch.Generator().manual_seed(size))
    probabilities, ids = candidates(scores / params.temperature, params)
    found = torch.zeros(size).scatter(0, ids, probabilities)
    torch.testing.assert_close(found, theirs(scores, params), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("options", FILTERS.values(), ids=FILTERS.keys())
def test_draws_have_the_distribution(options: dict[str, Any]) -> None:
    """Chi-square on a small vocabulary: below the 99.99 % quantile, and far above it for another distribution."""
    params = SamplingParams(**{"temperature": 1.0, **options, "seed": 5})
    scores = torch.linspace(2, -1, 12)[torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    probabilities, ids = candidates(scores / params.temperature, params)
    drawn = sampler(params)
    num_draws = 6000
    counts = torch.zeros(12)
    for _ in range(num_draws):
        counts[draw(probabilities, ids, drawn.generator)] += 1
    expected = theirs(scores, params) * num_draws
    assert bool((counts[expected == 0] == 0).all())
    kept = expected > 0
    assert _chi_square(counts[kept], expected[kept]) < 40
    uniform = torch.full((int(kept.sum()),), num_draws / int(kept.sum()))
    assert _chi_square(counts[kept], uniform) > 100


def _chi_square(counts: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


def test_repetition_penalty_is_transformers_own() -> None:
    scores = torch.randn(30, generator=torch.Generator().manual_seed(1))
    seen = {3, 7, 29, 500}
    ids = torch.tensor([[3, 7, 29]])
    expected = RepetitionPenaltyLogitsProcessor(1.3)(ids, scores[None].clone())[0]
    torch.testing.assert_close(penalise(scores, seen, 1.3), expected)


def test_answered_tokens_count_as_seen() -> None:
    one = sampler(SamplingParams(repetition_penalty=100.0), prompt_ids=(0,))
    logits = torch.tensor([[9.0, 8.0, 7.0]])
    assert [choose(logits, [one])[0].token for _ in range(2)] == [1, 2]


def test_a_seed_gives_one_answer_whoever_else_is_there(checkpoint: Path) -> None:
    params = SamplingParams(max_new_tokens=12, temperature=1.0, seed=11)
    alone = open_engine(checkpoint).submit(conversations()[1], params).result().token_ids
    engine = open_engine(checkpoint)
    others = [
        engine.submit(messages, SamplingParams(max_new_tokens=9, temperature=1.0, seed=index))
        for index, messages in enumerate(conversations(3))
    ]
    assert engine.submit(conversations()[1], params).result().token_ids == alone
    assert all(other.result().token_ids for other in others)
    different = {
        tuple(engine.generate(conversations()[1], max_new_tokens=12, temperature=1.0, seed=seed).token_ids)
        for seed in range(5)
    }
    assert len(different) == 5


def test_without_a_seed_draws_differ(checkpoint: Path) -> None:
    engine = open_engine(checkpoint)
    drawn = {tuple(engine.generate(ask("Hi"), max_new_tokens=10, temperature=2.0).token_ids) for _ in range(4)}
    assert len(drawn) > 1


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7, "seed": 1, "top_k": 3, "repetition_penalty": 1.2}])
def test_logprobs_are_the_log_softmax_of_the_model(sampling: dict[str, Any], checkpoint: Path) -> None:
    reference, engine = Reference(checkpoint), open_engine(checkpoint)
    messages = conversations()[2]
    completion = engine.generate(messages, max_new_tokens=6, logprobs=4, **sampling)
    inputs = reference.inputs(messages)
    ids = torch.cat([inputs["input_ids"], torch.tensor([completion.token_ids])], dim=1)
    with torch.inference_mode():
        logits = reference.model(**{**inputs, "input_ids": ids, "attention_mask": None}).logits[0]
    expected = logits[-len(completion.token_ids) - 1 : -1].float().log_softmax(dim=-1)
    assert len(completion.logprobs) == len(completion.token_ids)
    for choice, row in zip(completion.logprobs, expected, strict=True):
        assert choice.logprob == pytest.approx(float(row[choice.token]), abs=1e-4)
        values, top = row.topk(4)
        assert [token for token, _ in choice.top_logprobs] == top.tolist()
        assert [value for _, value in choice.top_logprobs] == pytest.approx(values.tolist(), abs=1e-4)


def test_logprobs_of_the_chosen_alone(checkpoint: Path) -> None:
    completion = open_engine(checkpoint).generate(ask("Hi"), max_new_tokens=3, logprobs=0)
    assert [choice.top_logprobs for choice in completion.logprobs] == [(), (), ()]
    assert all(choice.logprob is not None and choice.logprob <= 0 for choice in completion.logprobs)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0"),
        ({"min_p": 1.5}, "min_p is 1.5"),
        ({"top_k": -1}, "top_k is -1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0"),
        ({"logprobs": -1}, "logprobs is -1"),
        ({"stop": ("a", "")}, "not empty"),
        ({"regex": "a", "json_schema": {}}, "one of them"),
    ],
)
def test_values_out_of_range(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SamplingParams(**options)
