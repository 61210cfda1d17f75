"""Answers that must match a JSON schema or a regular expression, by llguidance (an extra of the package).

llguidance says which tokens may come next; masking their logits is the sampler's part.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from nvila.errors import ConfigError

_PACKAGE = "llguidance"


class GrammarMaker:
    """Makes grammars for one tokenizer, whose tables are built once, on first use."""

    def __init__(self, tokenizer: Any, eos_id: int | None) -> None:
        self._tokenizer = tokenizer
        self._eos_id = eos_id
        self._tables: Any = None

    def make(self, *, json_schema: dict[str, Any] | str | None, regex: str | None) -> Grammar | None:
        """The grammar of a request, None where it asks for none. Raises ConfigError for one that is no grammar."""
        if json_schema is None and regex is None:
            return None
        if find_spec(_PACKAGE) is None:
            raise ConfigError(f"a JSON schema or a regex needs the package {_PACKAGE}; pip install 'nvila[grammar]'")
        import llguidance
        import llguidance.hf

        if self._tables is None:
            self._tables = llguidance.hf.from_tokenizer(self._tokenizer, eos_token=self._eos_id)
        try:
            if regex is not None:
                source = llguidance.LLMatcher.grammar_from_regex(regex)
            else:
                text = json_schema if isinstance(json_schema, str) else json.dumps(json_schema)
                # Models that may write spaces anywhere in JSON have been seen to write nothing else.
                source = llguidance.LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_flexible": False})
        except ValueError as error:
            raise ConfigError(f"the grammar cannot be read ({_first_line(error)}); correct it") from error
        matcher = llguidance.LLMatcher(self._tables, source)
        if matcher.is_error():
            raise ConfigError(f"the grammar cannot be used ({_first_line(matcher.get_error())}); correct it")
        return Grammar(matcher)


class Grammar:
    """How far one answer has come in its grammar."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    @property
    def is_complete(self) -> bool:
        """Whether nothing but the end may follow."""
        return bool(self._matcher.is_stopped())

    def allowed(self, vocabulary: int) -> torch.Tensor:
        """(vocabulary,) bool on the CPU: the tokens that may come next."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        flags = np.unpackbits(bits, bitorder="little")[:vocabulary].astype(bool)
        return torch.from_numpy(np.pad(flags, (0, vocabulary - len(flags))))

    def take(self, token: int) -> None:
        """Go on by `token`."""
        self._matcher.consume_token(token)


def _first_line(error: object) -> str:
    return next(iter(str(error).splitlines()), "no reason given")
