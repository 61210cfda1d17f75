"""Builds the tokenizer of a small model: bytes, and whole words that are frequent in questions and names.

A byte-level BPE without merges: a piece of text is one token when it is a known word, else its bytes. So every text
round-trips, an unseen word is spelled letter by letter (what reading asks for), and questions stay short. Special
tokens and their order are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nvila.layouts import PLACEHOLDERS

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "[BOS]", "[PAD]", *PLACEHOLDERS)
# Contractions; a word with at most one sign or space before it; one digit; a run of signs; line breaks; spaces.
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def build_tokenizer(words: Iterable[str]) -> Any:
    """A fast tokenizer whose vocabulary is 256 bytes, then every word with and without a leading space, then specials.

    `words` may hold phrases; they are cut into the pieces that the tokenizer will see. Save it with `save_pretrained`.
    """
    vocabulary = {letter: index for index, letter in enumerate(byte_letters())}
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    for word in words:
        for text in (word, " " + word):
            for piece, _ in splitter.pre_tokenize_str(text):
                vocabulary.setdefault(piece, len(vocabulary))
    backend = Tokenizer(
        models.BPE(vocab=vocabulary, merges=[], ignore_merges=True, fuse_unk=False, byte_fallback=False)
    )
    backend.pre_tokenizer = splitter
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="[BOS]",
        eos_token="<|im_end|>",
        pad_token="[PAD]",
        extra_special_tokens=[token for token in SPECIAL_TOKENS if token not in ("[BOS]", "<|im_end|>", "[PAD]")],
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )


def byte_letters() -> list[str]:
    """The printable letter that stands for each byte 0..255 in a byte-level vocabulary, in the order of the bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, spare = [], 256
    for byte in range(256):
        if byte in plain:
            letters.append(chr(byte))
        else:
            letters.append(chr(spare))
            spare += 1
    return letters


def spell(text: str) -> list[int]:
    """The ids of `text` letter by letter, as bytes: they decode to the same text as the tokenizer's own ids."""
    return list(text.encode("utf-8"))
