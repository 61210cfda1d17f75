"""How a contender talks with the benchmark: a line of JSON in, a line of JSON out.

A contender is a process of its own, often in an environment where nvila is not installed, so this file needs the
standard library alone. Whatever libraries print goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, Protocol

from inputs import Job


class Contender(Protocol):
    """A model in some engine."""

    def answer(self, job: Job) -> dict[str, Any]:
        """One request alone. Gives ttft_s, decode_tokens_per_s (None for one token), num_prompt_tokens,
        num_media_tokens, num_new_tokens, and as far as the engine tells them preprocessing_s, vision_s, projector_s,
        prefill_s. Pixels are decoded before the clock starts."""
        ...

    def answer_all(self, jobs: list[Job]) -> dict[str, Any]:
        """All requests at once. Gives seconds (until the last has ended) and "how", in a few words."""
        ...


def serve(load: Callable[[dict[str, Any]], Contender]) -> None:
    """Load the contender that the first argument describes, then answer until the input ends."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(result: dict[str, Any]) -> None:
        channel.write(json.dumps(result) + "\n")
        channel.flush()

    began = time.perf_counter()
    contender = load(json.loads(sys.argv[1]))
    say({"load_s": time.perf_counter() - began})
    for line in sys.stdin:
        request = json.loads(line)
        jobs = [Job(**job) for job in request["jobs"]]
        try:
            say(contender.answer_all(jobs) if request["together"] else contender.answer(jobs[0]))
        except Exception as error:  # noqa: BLE001  one case that a peer cannot do leaves the others
            traceback.print_exc()
            say({"failed": f"{type(error).__name__}: {error}".splitlines()[0][:300]})


def decode_rate(num_tokens: int, seconds: float) -> float | None:
    """Tokens a second behind the first one; `seconds` are from the first to the last."""
    return (num_tokens - 1) / seconds if num_tokens > 1 and seconds > 0 else None
