"""The small tokenizer: every text round-trips, known words are one token, specials have their order, files reload."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from nvila.train.tokenizer import SPECIAL_TOKENS, build_tokenizer, byte_letters, spell

WORDS = ["what", "is", "flag of France", "You are a helpful assistant", "system", "traffic light"]
TEXTS = [
    "what is this",
    "  two  spaces \t and\n\nlines\r\n",
    "naïve Ünïcödé 日本語 עברית हिन्दी",
    "e\u0301 decomposed, \ufdd0 noncharacter, \x00 control, \U0001f600 emoji \U0001f1eb\U0001f1f7",
    "$12.50 + 3%=?! it's <notatoken>",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_round_trips(text: str) -> None:
    tokenizer = build_tokenizer(WORDS)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(spell(text)) == text


def test_every_byte_has_its_own_id() -> None:
    tokenizer = build_tokenizer([])
    assert tokenizer.convert_ids_to_tokens(list(range(256))) == byte_letters()


def test_known_words_are_one_token_and_unknown_ones_are_spelled() -> None:
    tokenizer = build_tokenizer(WORDS)
    assert len(tokenizer("what", add_special_tokens=False)["input_ids"]) == 1
    assert len(tokenizer(" France", add_special_tokens=False)["input_ids"]) == 1
    assert len(tokenizer("what is", add_special_tokens=False)["input_ids"]) == 2
    assert tokenizer("whatever", add_special_tokens=False)["input_ids"] == spell("whatever")
    assert tokenizer("12", add_special_tokens=False)["input_ids"] == spell("12")


def test_specials_come_last_in_the_published_order() -> None:
    tokenizer = build_tokenizer(WORDS)
    first = len(tokenizer) - len(SPECIAL_TOKENS)
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(first, len(tokenizer)))
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("[BOS]", "<|im_end|>", "[PAD]")
    ids = tokenizer("<|im_start|>user\n<image>", add_special_tokens=False)["input_ids"]
    assert ids[0] == first + 1
    assert ids[-1] == first + 6


def test_saved_files_load_with_auto_tokenizer(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(WORDS)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    for text in TEXTS:
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert loaded.decode(loaded(text)["input_ids"]) == text
