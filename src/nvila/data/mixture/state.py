"""Where a stream stands, in a form that is saved beside a checkpoint: JSON, and small.

    {"fingerprint", "seed", "epoch",              what the stream is of, and the epoch its first rank is in
     "world_size", "start": {position, pending},  the ranks, and where they began
     "ranks": {"0": {"consumed", "broken"}}}      what a rank has handed out since, and its counts by source

The state of one rank speaks for all if they hand out equally many samples. Otherwise the states of all ranks are
merged before they are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nvila.data.mixture.tally import add_up
from nvila.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a stream begins: every position below `position` is done, except for those `pending`."""

    position: int = 0
    pending: tuple[int, ...] = ()

    def place_of(self, number: int) -> int:
        """The position of element `number` of what is to come: the pending ones come first."""
        if number < len(self.pending):
            return self.pending[number]
        return self.position + number - len(self.pending)

    def after(self, consumed: Sequence[int]) -> Start:
        """The start of what is left when rank r has handed out `consumed[r]` elements of every `len(consumed)`-th."""
        world_size = len(consumed)
        farthest = max(consumed) * world_size
        behind = range(min(consumed) * world_size, farthest)
        missed = [self.place_of(number) for number in behind if number // world_size >= consumed[number % world_size]]
        return Start(
            position=self.position + max(0, farthest - len(self.pending)),
            pending=(*missed, *self.pending[farthest:]),
        )


def merge_states(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The states of all ranks, in any order, as one that any number of ranks can go on from.

    Raises ConfigError when they are not of one stream, or a rank is missing or there twice.
    """
    if not states:
        raise ConfigError("there is no state to merge; give the state of every rank")
    first = states[0]
    for state in states:
        for key in ("fingerprint", "seed", "world_size", "start"):
            if state[key] != first[key]:
                raise ConfigError(
                    f"the states of the ranks differ in {key!r} ({state[key]} and {first[key]}); "
                    "take those of one checkpoint"
                )
    ranks = {rank: counts for state in states for rank, counts in state["ranks"].items()}
    given, world_size = sum(len(state["ranks"]) for state in states), first["world_size"]
    if given != len(ranks) or len(ranks) != world_size:
        raise ConfigError(
            f"the states are of the ranks {', '.join(sorted(ranks))} ({given} states), but the world has "
            f"{world_size} ranks; give each rank's state once"
        )
    return {**first, "ranks": dict(sorted(ranks.items(), key=lambda item: int(item[0])))}


def resume_point(state: Mapping[str, Any], *, rank: int, world_size: int) -> tuple[Start, int]:
    """Where `rank` of `world_size` goes on after `state`: the start, and how many of its elements are done.

    With the same number of ranks every rank goes on with what would have been its own; with another number, what is
    left is dealt out anew. Raises ConfigError for a state of some ranks, not one and not all.
    """
    start = Start(position=state["start"]["position"], pending=tuple(state["start"]["pending"]))
    ranks, old_size = state["ranks"], state["world_size"]
    if len(ranks) not in (1, old_size):
        raise ConfigError(f"the state holds {len(ranks)} of {old_size} ranks; merge the states of all of them")
    only = next(iter(ranks.values()))
    consumed = [ranks[str(old)]["consumed"] if len(ranks) > 1 else only["consumed"] for old in range(old_size)]
    if old_size == world_size:
        return start, consumed[rank]
    return start.after(consumed), 0


def counts_for(state: Mapping[str, Any], *, rank: int, world_size: int) -> dict[str, list[int]]:
    """The counts of broken samples that `rank` goes on with: its own, or with another number of ranks all in rank 0."""
    ranks = state["ranks"]
    if state["world_size"] == world_size:
        return ranks[str(rank)]["broken"] if str(rank) in ranks else {}
    return add_up([counts["broken"] for counts in ranks.values()]) if rank == 0 else {}
