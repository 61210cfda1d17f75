"""What the processor needs of a tokenizer: the placeholders' ids, and a newline that never merges.

An image's features end with a newline that must stay a token of its own, while BPE would merge it with a newline of
the text behind it. So the tokenizer learns to split at `BREAK`, a Unicode noncharacter (reserved for a program's own
use), and to drop it. It is a rule of the tokenizer and not a step after it, because serving engines tokenise our
replacement texts by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken
from tokenizers.pre_tokenizers import Sequence as PreTokenizers
from tokenizers.pre_tokenizers import Split

from nvila.errors import CheckpointError
from nvila.processing.chat import ASSISTANT_HEADER, IMAGE_TOKEN, SPECIAL_TOKENS, VIDEO_TOKEN

BREAK = "\ufdd0"
NEWLINE = "\n" + BREAK
"""Text of a newline that stays a token of its own."""


@dataclass(frozen=True, kw_only=True)
class TokenIds:
    """The ids that the processor and the trainer need; `assistant_header` is "assistant" and a newline."""

    image: int
    video: int
    newline: int
    im_start: int
    im_end: int
    assistant_header: tuple[int, ...]


def prepare_tokenizer(tokenizer: Any) -> TokenIds:
    """Adds the placeholders that are missing, teaches the tokenizer to split at `BREAK`, and looks the ids up.

    Changes `tokenizer` in place; a second call changes nothing. Raises CheckpointError when the tokenizer has no
    single token for a newline or lacks the ChatML tokens.
    """
    missing = [
        token for token in SPECIAL_TOKENS if tokenizer.convert_tokens_to_ids(token) in (None, tokenizer.unk_token_id)
    ]
    if missing:
        tokenizer.add_tokens(
            [AddedToken(token, special=True, normalized=False) for token in missing], special_tokens=True
        )
    newline = _ids(tokenizer, "\n")
    if len(newline) != 1:
        raise CheckpointError(f"the tokenizer spells a newline with {len(newline)} tokens; the model needs it to be 1")
    if _ids(tokenizer, f"{NEWLINE}\n") != [*newline, *newline]:
        backend = tokenizer.backend_tokenizer
        split = Split(BREAK, "removed")
        backend.pre_tokenizer = PreTokenizers([split, backend.pre_tokenizer]) if backend.pre_tokenizer else split
    return TokenIds(
        image=_one(tokenizer, IMAGE_TOKEN),
        video=_one(tokenizer, VIDEO_TOKEN),
        newline=newline[0],
        im_start=_one(tokenizer, "<|im_start|>"),
        im_end=_one(tokenizer, "<|im_end|>"),
        assistant_header=tuple(_ids(tokenizer, ASSISTANT_HEADER)),
    )


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _one(tokenizer: Any, token: str) -> int:
    ids = _ids(tokenizer, token)
    if len(ids) != 1:
        raise CheckpointError(f"the tokenizer spells {token} with {len(ids)} tokens; add it as a special token")
    return ids[0]
