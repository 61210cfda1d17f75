"""A tokenizer of a published model's size without its words: bytes, fillers that no text reaches, special tokens.

All contenders spell the prompt byte by byte, so that it has the same number of tokens in each, and no download is
needed. Fillers give every id that a random model may answer a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def byte_tokenizer(num_plain: int, specials: Sequence[str], *, eos: str, pad: str) -> Any:
    """Ids 0 to `num_plain` - 1 are bytes and fillers; `specials` follow."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    assert num_plain >= len(letters)
    names = [*letters, *(f"x{number}" for number in range(len(letters), num_plain))]
    backend = Tokenizer(models.BPE(vocab={name: number for number, name in enumerate(names)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(specials))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=eos,
        pad_token=pad,
        clean_up_tokenization_spaces=False,
        extra_special_tokens=[name for name in specials if name not in (eos, pad)],
    )
