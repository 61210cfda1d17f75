"""Text as it comes: whole characters, stop strings across the borders of tokens."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.engine.tiny_engines import ask, conversations, open_engine
from tests.tiny import make_tokenizer

from nvila.engine.text import Detokenizer, StopStrings


def test_a_character_is_held_back_until_it_is_whole() -> None:
    tokenizer = make_tokenizer()
    text = "a é 😀!"
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.put(token) for token in tokenizer(text)["input_ids"]]
    assert [piece for piece in pieces if piece] == list(text)
    assert detokenizer.end() == ""


def test_pieces_joined_are_the_whole_text_for_any_bytes() -> None:
    """Random bytes, most of them no UTF-8, with special tokens among them."""
    tokenizer = make_tokenizer()
    rng = random.Random(0)
    for _ in range(100):
        ids = [rng.choice([rng.randrange(256), 258, rng.randrange(97, 122)]) for _ in range(30)]
        detokenizer = Detokenizer(tokenizer)
        joined = "".join([*(detokenizer.put(token) for token in ids), detokenizer.end()])
        assert joined == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("pieces", "stops", "expected", "found"),
    [
        (["one st", "op two"], ["stop"], "one ", True),
        (["s", "t", "o", "p"], ["stop"], "", True),
        (["sto", "ne"], ["stop"], "stone", False),
        (["ststop"], ["stop"], "st", True),
        (["st", "stop"], ["stop"], "st", True),
        (["abcd"], ["cd", "bc"], "a", True),
        (["ab", "ab", "abc"], ["ababc"], "ab", True),
        (["no such"], ["stop", "x"], "no such", False),
        (["plain"], [], "plain", False),
        (["ends with st"], ["stop"], "ends with st", False),
    ],
)
def test_stop_strings(pieces: list[str], stops: list[str], expected: str, found: bool) -> None:
    matcher = StopStrings(stops)
    passed = [matcher.put(piece) for piece in pieces]
    assert "".join([*passed, matcher.end()]) == expected
    assert matcher.found == found
    if found:
        assert matcher.put("more") == ""


def test_what_may_become_a_stop_string_is_not_passed_on() -> None:
    matcher = StopStrings(["</end>"])
    assert matcher.put("text <") == "text "
    assert matcher.put("/en") == ""
    assert matcher.put("t") == "</ent"


def test_an_answer_ends_before_a_stop_string(checkpoint: Path) -> None:
    """The stop string starts inside one token and ends inside another (every token is one byte)."""
    engine = open_engine(checkpoint)
    messages = conversations()[0]
    whole = engine.generate(messages, max_new_tokens=40, temperature=0.0, ignore_eos=True).text
    stop = whole[5:8]
    completion = engine.generate(messages, max_new_tokens=40, stop=stop, ignore_eos=True)
    assert completion.text == whole[: whole.index(stop)]
    assert completion.finish_reason == "stop"
    streamed = "".join(engine.stream(messages, max_new_tokens=40, stop=("never there", stop), ignore_eos=True))
    assert streamed == completion.text


def test_an_answer_ends_with_the_end_token(checkpoint: Path) -> None:
    engine = open_engine(checkpoint)
    free = engine.generate(ask("Hello"), max_new_tokens=12, ignore_eos=True).token_ids
    assert len(free) == 12
    end = next(token for index, token in enumerate(free) if index > 3 and token not in free[:index])
    engine.model.generation_config.eos_token_id = [end, 258]
    completion = type(engine)(engine.model, engine.processor).generate(ask("Hello"), max_new_tokens=12)
    assert completion.token_ids == free[: free.index(end) + 1]
    assert completion.finish_reason == "stop"
    assert completion.text == engine.processor.decode(free[: free.index(end)], skip_special_tokens=True)
