"""Answers in a grammar: whatever the model would say, what comes out parses."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.engine.tiny_engines import ask, conversations, open_engine

from nvila import ConfigError
from nvila.engine import SamplingParams, grammar

needs_llguidance = pytest.mark.skipif(find_spec("llguidance") is None, reason="llguidance is not installed")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"count": {"type": "integer", "minimum": 0, "maximum": 99}, "kind": {"enum": ["cat", "dog"]}},
    "required": ["count", "kind"],
    "additionalProperties": False,
}


@needs_llguidance
@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.5, "seed": 1}, {"temperature": 1.5, "seed": 2}])
def test_json_schema(sampling: dict[str, Any], checkpoint: Path) -> None:
    completion = open_engine(checkpoint).generate(conversations()[1], max_new_tokens=60, json_schema=SCHEMA, **sampling)
    answer = json.loads(completion.text)
    assert completion.finish_reason == "stop"
    assert set(answer) == {"count", "kind"}
    assert 0 <= answer["count"] <= 99
    assert answer["kind"] in ("cat", "dog")


@needs_llguidance
def test_regex_beside_free_answers(checkpoint: Path) -> None:
    engine = open_engine(checkpoint)
    free = engine.generate(ask("Hello"), max_new_tokens=10).token_ids
    bound = engine.submit(ask("Hello"), SamplingParams(max_new_tokens=30, regex=r"(cat|dog) [0-9]{3}"))
    beside = engine.submit(ask("Hello"), SamplingParams(max_new_tokens=10))
    assert re.fullmatch(r"(cat|dog) [0-9]{3}", bound.result().text)
    assert beside.result().token_ids == free


@needs_llguidance
@pytest.mark.parametrize("options", [{"regex": "("}, {"json_schema": "{"}, {"json_schema": {"type": "no such"}}])
def test_what_is_no_grammar_is_refused(options: dict[str, Any], checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="grammar cannot be"):
        open_engine(checkpoint).generate(ask("Hello"), **options)


def test_the_missing_package_is_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install 'nvila\\[grammar\\]'"):
        open_engine(checkpoint).generate(ask("Hello"), regex="a")
