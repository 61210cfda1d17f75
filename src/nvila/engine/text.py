"""Tokens to text as they come: characters are passed on when they are whole, stop strings are never passed on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_CUT = "\ufffd"
"""What a byte-level tokenizer makes of a character of which only some bytes are there yet."""


class Detokenizer:
    """Decodes token by token. The pieces joined are what the tokenizer makes of all ids, special tokens left out.

    Only the last piece's tokens and those that follow are decoded again, so that a long answer costs no more a token
    than a short one.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._pending: list[int] = []

    def put(self, token: int) -> str:
        """The text that `token` completes; empty while a character is cut."""
        self._pending.append(token)
        piece = self._new_text()
        if not piece or piece.endswith(_CUT):
            return ""
        self._context, self._pending = self._pending, []
        return piece

    def end(self) -> str:
        """What was held back."""
        piece = self._new_text() if self._pending else ""
        self._pending = []
        return piece

    def _new_text(self) -> str:
        return self._decode([*self._context, *self._pending])[len(self._decode(self._context)) :]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class StopStrings:
    """Holds back what may be the beginning of a stop string, across any borders of tokens."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._held = ""
        self.found = False

    def put(self, piece: str) -> str:
        """The text that is safe to pass on; after the first stop string there is none."""
        if self.found:
            return ""
        text = self._held + piece
        ends = [position for string in self._strings if (position := text.find(string)) >= 0]
        if ends:
            self.found, self._held = True, ""
            return text[: min(ends)]
        kept = len(text) - self._longest_beginning(text)
        self._held = text[kept:]
        return text[:kept]

    def end(self) -> str:
        """What was held back, where no stop string came of it."""
        text, self._held = self._held, ""
        return text

    def _longest_beginning(self, text: str) -> int:
        """Length of the longest end of `text` with which some stop string begins."""
        longest = max((len(string) for string in self._strings), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(string.startswith(text[-length:]) for string in self._strings):
                return length
        return 0
