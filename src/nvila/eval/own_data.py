"""Questions of any data set, with the answers that it has: for scoring a model on what it was adapted to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from nvila.data.mixture import Mixture, MixtureConfig
from nvila.data.mixture.mixture import READ_ERRORS
from nvila.errors import DataError
from nvila.eval.metrics import accepted, anls, exact, relaxed
from nvila.types import Message, Sample, TextPart

METRICS = {"exact": exact, "accepted": accepted, "anls": anls, "relaxed": relaxed}


def questions_of(config: MixtureConfig, *, limit: int | None = None, seed: int = 0) -> Iterator[Sample]:
    """Every answer of the data as a question of its own, behind the turns before it as the data have them.

    The data are opened at once and read as they are asked for. At most `limit` of the samples, drawn by `seed`;
    without, all of them in their order. `meta` is as the runner wants it. Raises DataError where a sample cannot be
    read, with the sample's place, or has no answer.
    """
    mixture = Mixture.open(config)
    places = [(source, index) for source, size in enumerate(mixture.sizes) for index in range(size)]
    if limit is not None and limit < len(places):
        chosen = np.random.default_rng(seed).permutation(len(places))[:limit]
        places = [places[number] for number in sorted(chosen.tolist())]
    return _read(mixture, places)


def _read(mixture: Mixture, places: Sequence[tuple[int, int]]) -> Iterator[Sample]:
    for source, index in places:
        try:
            sample = mixture.sample(source, index)
        except READ_ERRORS as error:
            path = mixture.config.source[source].path
            raise DataError(f"{error}; look at all of it with: nvila data check {path}") from error
        yield from questions_in(sample)


def questions_in(sample: Sample) -> list[Sample]:
    """The sample up to each of its answers that training would learn. Raises DataError where it has none."""
    found = []
    for number, turn in enumerate(sample.messages):
        if turn.role == "assistant" and turn.learned:
            answer = _text(turn)
            meta = {"question": _text(sample.messages[number - 1]), "answer": answer, "answers": [answer]}
            found.append(replace(sample, messages=sample.messages[:number], meta={**sample.meta, **meta}))
    if not found:
        raise DataError(f"{sample.source}: sample {sample.id} has no answer to compare with; leave it out")
    return found


def _text(turn: Message) -> str:
    return "".join(part.text for part in turn.content if isinstance(part, TextPart)).strip()
