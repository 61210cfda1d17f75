"""The kinds of samples of the paper's Figure 4, and a fourth that section 2.2.1 names: told by both models' losses.

- too easy: both models give the answer nearly all probability; there is nothing to learn.
- helpful: the large model finds the answer likelier, so it can be learned, and the small one does not know it yet.
- distracting: the large model finds it less likely than the small one; often the answer is wrong.
- undecided: neither knows it, or both know it alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nvila.pruning.report.data import Looked, Losses


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind: its name in style sheets, its title, and what it says in a line."""

    name: str
    title: str
    meaning: str


HELPFUL = Kind(name="helpful", title="Helpful", meaning="the large model knows it, the small one does not: learnable")
EASY = Kind(name="easy", title="Too easy", meaning="both models know it already: nothing to learn")
DISTRACTING = Kind(
    name="distracting", title="Distracting", meaning="the large model doubts it more than the small one: often wrong"
)
UNDECIDED = Kind(name="undecided", title="Undecided", meaning="both models do alike: too hard for both, or half known")
KINDS = (HELPFUL, EASY, DISTRACTING, UNDECIDED)

EASY_LOSS = {"token": 0.1, "byte": 0.03}
"""Both losses a unit below this are too easy: each token with a probability of 0.9 on average."""
MARGIN = 0.5
"""DeltaLoss of a whole answer beyond which one model clearly knows it better, in nats."""


def kinds_of(losses: Losses) -> NDArray[np.int64]:
    """(n,): the number of each sample's kind in `KINDS`, -1 where it has no score."""
    kinds = np.full(len(losses.delta), KINDS.index(UNDECIDED), np.int64)
    kinds[losses.delta >= MARGIN] = KINDS.index(HELPFUL)
    kinds[losses.delta <= -MARGIN] = KINDS.index(DISTRACTING)
    kinds[np.maximum(losses.large, losses.small) < EASY_LOSS[losses.unit]] = KINDS.index(EASY)
    kinds[np.isnan(losses.delta)] = -1
    return kinds


def examples_of(looked: Looked, losses: Losses, kinds: NDArray[np.int64], kind: Kind, num: int) -> list[int]:
    """Up to `num` samples that show a kind, the clearest first, from as many sources as there are."""
    own = np.flatnonzero(kinds == KINDS.index(kind))
    clearness = {
        "helpful": -losses.delta,
        "distracting": losses.delta,
        "easy": np.maximum(losses.large, losses.small),
        "undecided": -np.minimum(losses.large, losses.small),
    }[kind.name][own]
    return _spread(own[np.argsort(clearness, kind="stable")], looked.source, num)


def _spread(ordered: NDArray[np.int64], source: NDArray[np.int64], num: int) -> list[int]:
    """The first of every source, then the second of every source, and so on, in the given order otherwise."""
    turn: dict[int, int] = {}
    ranked: Sequence[tuple[int, int, int]] = []
    found = []
    for position, index in enumerate(ordered.tolist()):
        own = int(source[index])
        turn[own] = turn.get(own, -1) + 1
        if turn[own] < num:
            found.append((turn[own], position, index))
    ranked = sorted(found)[:num]
    return [index for _, _, index in ranked]
