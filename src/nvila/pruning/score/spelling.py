"""Which tokens of a chat are the answers', for any processor with a chat template, and when two models agree on them.

The rule: render the turns up to an answer with the prompt for an answer (`add_generation_prompt`), and the turns up to
and including it. What the second has more than the first is the answer with the end of its turn; white space behind
that is the template's and does not count. The answer's tokens are those that hold a character of it.

A processor replaces each placeholder by as many tokens as the medium takes, so places in the text are not places in the
ids. Each answer is therefore looked for in the ids, with the prompt in front of it, from the last answer to the first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from nvila.errors import DataError

ChatMessage = dict[str, Any]

_PROBE: list[ChatMessage] = [
    {"role": "user", "content": [{"type": "text", "text": "q"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
]


class Answer(NamedTuple):
    """Ids to look for: the prompt of an answer and the answer, the first of whose tokens is number `start`."""

    ids: tuple[int, ...]
    start: int


class Spelled(NamedTuple):
    """A chat as text with a placeholder a medium, its number of tokens as such, and its answers in order."""

    text: str
    num_tokens: int
    answers: tuple[Answer, ...]


def spelling_of(processor: Any) -> str:
    """A hash of what decides into which tokens an answer is split: the tokenizer, and the marks around a turn."""
    tokenizer = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    kept = {key: value for key, value in tokenizer.items() if key not in ("truncation", "padding")}
    rendered = processor.apply_chat_template(_PROBE, tokenize=False)
    return hashlib.sha256(json.dumps([kept, rendered], sort_keys=True).encode()).hexdigest()[:16]


def spell(processor: Any, messages: Sequence[ChatMessage], learned: Sequence[bool]) -> Spelled:
    """The chat as the processor's template writes it; `learned` says of each message whether it is scored.

    Raises DataError for a template that writes a turn in another way when more follows it: no turn of its can be told
    from the others.
    """
    text = _render(processor, messages)
    encoded = processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    answers: list[Answer] = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant" or not learned[number]:
            continue
        asked, prompted = _render(processor, messages[:number]), _render(processor, messages[:number], prompt=True)
        answered = _render(processor, messages[: number + 1])
        if not (prompted.startswith(asked) and answered.startswith(prompted) and text.startswith(answered)):
            raise DataError(
                f"message {number}: the chat template writes it otherwise when it is not the last; score samples of "
                "one turn, or use a template that does not look ahead"
            )
        first = _holding(offsets, len(asked), len(prompted))
        held = _holding(offsets, len(prompted), len(answered.rstrip()))
        if not held:
            raise DataError(f"message {number}: the chat template leaves nothing of the answer")
        begin = first[0] if first else held[0]
        answers.append(Answer(ids=tuple(ids[begin : held[-1] + 1]), start=held[0] - begin))
    return Spelled(text=text, num_tokens=len(ids), answers=tuple(answers))


def find_answers(ids: Sequence[int], answers: Sequence[Answer]) -> list[int]:
    """The places in `ids` of all tokens of the answers, rising. Raises DataError for one that is not there."""
    places: list[int] = []
    end = len(ids)
    for number, answer in reversed(list(enumerate(answers))):
        found = _rightmost(ids, answer.ids, end)
        if found < 0:
            raise DataError(
                f"answer {number}: its {len(answer.ids)} tokens are not among the {len(ids)} that the processor makes; "
                "does its text spell a special token?"
            )
        places += range(found + answer.start, found + len(answer.ids))
        end = found
    return sorted(places)


def _render(processor: Any, messages: Sequence[ChatMessage], *, prompt: bool = False) -> str:
    if not messages:
        return ""
    text: str = processor.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt)
    return text


def _holding(offsets: Sequence[tuple[int, int]], start: int, end: int) -> list[int]:
    """The tokens that hold a character from `start` up to `end`."""
    return [index for index, (left, right) in enumerate(offsets) if right > left and right > start and left < end]


def _rightmost(ids: Sequence[int], wanted: tuple[int, ...], end: int) -> int:
    """Where `wanted` starts for the last time before `end`; -1 where it does not."""
    size = len(wanted)
    for start in range(end - size, -1, -1):
        if ids[start] == wanted[0] and tuple(ids[start : start + size]) == wanted:
            return start
    return -1
