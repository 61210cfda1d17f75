"""The lean decoder is transformers' decoder: the same tokens in float32, the same logits in every dtype."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.engine.tiny_engines import FAMILIES, Reference, conversations, open_engine, write_lively_checkpoint
from tests.tiny import make_model

from nvila import ConfigError
from nvila.engine import language, runner
from nvila.engine.kv_cache import KVCache
from nvila.engine.weights import take_weights


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_are_transformers_own(family: str, tmp_path: Path) -> None:
    write_lively_checkpoint(tmp_path, **FAMILIES[family])
    reference, engine = Reference(tmp_path), open_engine(tmp_path)
    answers = []
    for messages in conversations():
        expected = reference.answer(messages, max_new_tokens=24)
        found = engine.generate(messages, max_new_tokens=24)
        assert found.token_ids == expected
        assert found.text == reference.processor.decode(expected, skip_special_tokens=True)
        assert found.num_prompt_tokens == reference.inputs(messages)["input_ids"].shape[1]
        answers.append(tuple(expected))
    assert len(set(answers)) == len(answers), "the model answers everything alike, so nothing was compared"


def test_the_model_whose_weights_were_taken_still_works(checkpoint: Path) -> None:
    reference, engine = Reference(checkpoint), open_engine(checkpoint)
    messages = conversations()[1]
    inputs = reference.inputs(messages)
    with torch.inference_mode():
        tokens = engine.model.generate(**inputs, do_sample=False, max_new_tokens=8)
    assert tokens[0, inputs["input_ids"].shape[1] :].tolist() == reference.answer(messages, max_new_tokens=8)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_logits_of_prefill_and_decode(family: str, dtype: torch.dtype, tolerance: float) -> None:
    model = make_model(text={**FAMILIES[family]["text"], "initializer_range": 0.1}).to(dtype)
    ids = torch.randint(0, 256, (40,), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model(ids[None]).logits[0]
    weights = take_weights(model)
    cache = KVCache(weights, num_blocks=6, block_size=8)
    table = cache.table([0, 1, 2, 3, 4, 5])
    with torch.inference_mode():
        chunk = runner.PrefillChunk(ids=ids[:30].tolist(), offset=0, table=table, features=(), ends_prompt=True)
        found = [runner.prefill(weights, cache, [chunk])]
        found += [
            runner.decode_one_token(weights, cache, [int(ids[place])], [place], [table]) for place in range(30, 40)
        ]
    scale = expected.float().abs().max()
    difference = (torch.cat(found).float() - expected[29:].float()).abs().max()
    assert bool(torch.isfinite(difference))
    assert difference <= tolerance * scale


def test_attention_gathers_blocks_that_lie_apart() -> None:
    """The same keys in neighbouring blocks and in scattered ones; other rows hold other requests' keys."""
    model = make_model(text=FAMILIES["qwen2"]["text"])
    weights = take_weights(model)
    cache = KVCache(weights, num_blocks=16, block_size=4)
    torch.manual_seed(0)
    cache.key[0].normal_()
    cache.value[0].normal_()
    neighbours, apart = cache.table([1, 2, 3]), cache.table([9, 5, 12])
    assert neighbours.start == 4
    assert apart.start is None
    for rows in (cache.key[0], cache.value[0]):
        rows[apart.rows] = rows[neighbours.rows]
    for begin, end in ((0, 1), (0, 5)):
        query = torch.randn(end - begin, weights.num_heads, weights.head_dim)
        one, other = (
            language.attend(query, cache.key[0], cache.value[0], language.Span(begin, end, 6, table))
            for table in (neighbours, apart)
        )
        torch.testing.assert_close(one, other)


def test_single_tokens_together_are_single_tokens_one_by_one() -> None:
    """What a GPU computes in one call, for requests of unlike length in scattered blocks."""
    weights = take_weights(make_model(text=FAMILIES["qwen2"]["text"]))
    cache = KVCache(weights, num_blocks=16, block_size=4)
    torch.manual_seed(0)
    cache.key[0].normal_()
    cache.value[0].normal_()
    tables = [cache.table(blocks) for blocks in ([1, 2, 3], [9, 5, 12], [7])]
    spans = [language.Span(row, row + 1, offset, tables[row]) for row, offset in enumerate((10, 5, 0))]
    query = torch.randn(3, weights.num_heads, weights.head_dim)
    alone = [language.attend(query[s.begin : s.end], cache.key[0], cache.value[0], s) for s in spans]
    together = language.attend_together(query, cache.key[0], cache.value[0], *language.padded_rows(spans))
    torch.testing.assert_close(together, torch.cat(alone))


def test_repetition_penalty_of_the_checkpoint_is_kept(checkpoint: Path) -> None:
    reference, engine = Reference(checkpoint), open_engine(checkpoint)
    messages = conversations()[0]
    plain = engine.generate(messages, max_new_tokens=24).token_ids
    expected = reference.answer(messages, max_new_tokens=24, repetition_penalty=1.4)
    assert plain != expected
    assert engine.generate(messages, max_new_tokens=24, repetition_penalty=1.4).token_ids == expected
    engine.model.generation_config.repetition_penalty = 1.4
    again = type(engine)(engine.model, engine.processor)
    assert again.generate(messages, max_new_tokens=24).token_ids == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ({"hidden_act": "gelu"}, "gelu"),
        ({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}, "sliding"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "dynamic"),
    ],
)
def test_what_the_decoder_cannot_compute_is_refused(text: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        take_weights(make_model(text=text))
