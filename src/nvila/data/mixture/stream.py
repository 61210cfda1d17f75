"""Following the order: the samples of one rank, read by worker processes, from where a run stopped.

The ranks take turns in the stream of positions, and the workers take turns in what their rank takes. Since a
DataLoader asks its workers in turn as well, the samples come in the same order with any number of workers, and how
many were handed out is all that has to be remembered: not what the workers hold, which is read again.

Ranks that always hand out equally many samples stand at one common position. Ranks that pack rows of tokens do not;
then the states of all ranks, merged, tell which samples behind the farthest rank are still to come, and another
number of ranks begins with those (state.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from nvila.data.mixture.mixture import Draw, Mixture
from nvila.data.mixture.order import Order, Place
from nvila.data.mixture.state import Start, counts_for, resume_point
from nvila.data.mixture.tally import Tally
from nvila.errors import ConfigError
from nvila.processing.pictures import damage_reported
from nvila.types import ImagePart, Sample, VideoPart

T = TypeVar("T")


def as_is(sample: Sample) -> Sample:
    """The sample itself, with the pictures it holds decoded, since they leave the worker as pixels.

    Raises MediaError for a picture that is damaged.
    """
    with damage_reported(f"a picture of sample {sample.id!r}"):
        for message in sample.messages:
            for part in message.content:
                if isinstance(part, ImagePart) and part.image is not None:
                    part.image.load()
                for frame in (part.video or ()) if isinstance(part, VideoPart) else ():
                    frame.load()
    return sample


def _unchanged(item: T) -> T:
    return item


class _Reader(IterableDataset[Draw[T]]):
    """What one worker reads: every `num_workers`-th element of what is still to come for its rank."""

    def __init__(
        self,
        draw: Callable[[Place], Draw[T]],
        order: Order,
        *,
        start: Start,
        first: int,
        step: int,
        end: int | None,
    ) -> None:
        """`first`, `step`: which elements of what is to come are the rank's; `end`: first position not to be read."""
        self._draw = draw
        self._order = order
        self._start = start
        self._first = first
        self._step = step
        self._end = end

    def __iter__(self) -> Iterator[Draw[T]]:
        worker = get_worker_info()
        number, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        yield from map(self._draw, self._places(self._first + number * self._step, self._step * num_workers))

    def _places(self, first: int, step: int) -> Iterator[Place]:
        behind = range(first, len(self._start.pending), step)
        for position in map(self._start.place_of, behind):
            if self._end is None or position < self._end:
                yield self._order.locate(position)
        onward = self._start.place_of(first + len(behind) * step)
        yield from self._order.walk(onward, step=step, end=self._end)


class _Drawing(Generic[T]):
    """`mixture.draw` with the seed and the transform, as an object that can be sent to a worker process."""

    def __init__(self, mixture: Mixture, transform: Callable[[Sample], T], seed: int) -> None:
        self._mixture = mixture
        self._transform = transform
        self._seed = seed

    def __call__(self, place: Place) -> Draw[T]:
        return self._mixture.draw(place, seed=self._seed, transform=self._transform)


class MixtureStream(Generic[T]):
    """What `transform` makes of one rank's samples, without end or for `num_epochs`, with a state to go on exactly.

    Iterating goes on where the last iteration stopped. The union over the ranks of an epoch is the epoch, every
    position once; when the samples of all epochs cannot be dealt out evenly, some ranks end one sample earlier (a
    trainer that needs equal steps counts steps). A broken sample is counted, logged once and replaced
    (`Mixture.draw`); too many of them raise DataError (`Tally`).
    """

    def __init__(
        self,
        mixture: Mixture,
        transform: Callable[[Sample], T],
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        num_prefetched: int = 4,
        num_epochs: int | None = None,
    ) -> None:
        """`transform` runs in the workers (`as_is` for the samples themselves); each worker holds up to
        `num_prefetched` of its results ready. Raises ConfigError for a rank outside the world."""
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank} is not in a world of {world_size} ranks; give 0 to {world_size - 1}")
        self._mixture = mixture
        self._order = mixture.order(seed)
        self._drawing = _Drawing(mixture, transform, seed)
        self._fingerprint = mixture.fingerprint()
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._num_workers = num_workers
        self._num_prefetched = num_prefetched
        self._end = None if num_epochs is None else num_epochs * mixture.samples_per_epoch
        self._start = Start()
        self._consumed = 0
        self.tally = Tally([source.name for source in mixture.config.source], mixture.config.max_broken_share)

    def __iter__(self) -> Iterator[T]:
        for draw in self.draws():
            assert draw.item is not None  # the tally refuses a draw without one
            yield draw.item

    def draws(self) -> Iterator[Draw[T]]:
        """As iterating, but with the position of each item, by which `read` finds it again. Raises DataError."""
        for draw in self._loader():
            self._consumed += 1
            self.tally.add(draw)
            yield draw

    def read(self, position: int) -> Draw[T]:
        """What stands at `position` of the stream, read in this process and not counted."""
        return self._drawing(self._order.locate(position))

    @property
    def position(self) -> int:
        """The position that comes next for this rank."""
        return self._start.place_of(self._rank + self._consumed * self._world_size)

    @property
    def epoch(self) -> int:
        """The epoch that this rank's next sample belongs to, from 0."""
        return self.position // self._mixture.samples_per_epoch

    def state_dict(self) -> dict[str, Any]:
        """Where this rank stands, as JSON can hold it; see state.py for what to do with those of several ranks."""
        return {
            "fingerprint": self._fingerprint,
            "seed": self._seed,
            "epoch": self.epoch,
            "world_size": self._world_size,
            "start": {"position": self._start.position, "pending": list(self._start.pending)},
            "ranks": {str(self._rank): {"consumed": self._consumed, "broken": self.tally.state_dict()}},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after `state`, which is this rank's, that of all ranks merged, or that of any one rank where all
        hand out equally many samples. Raises ConfigError when it is of another mixture or seed."""
        for key, own in (("fingerprint", self._fingerprint), ("seed", self._seed)):
            if key not in state:
                raise ConfigError(f"the state to resume has no {key!r}; give what state_dict or merge_states returned")
            if state[key] != own:
                raise ConfigError(
                    f"the state to resume has {key} {state[key]}, but the mixture {self._mixture.config.name!r} has "
                    f"{own}; resume with the sources, lists, amounts and seed of the interrupted run"
                )
        self._start, self._consumed = resume_point(state, rank=self._rank, world_size=self._world_size)
        self.tally.load_state_dict(counts_for(state, rank=self._rank, world_size=self._world_size))

    def _loader(self) -> DataLoader[Draw[T]]:
        reader = _Reader(
            self._drawing,
            self._order,
            start=self._start,
            first=self._rank + self._consumed * self._world_size,
            step=self._world_size,
            end=self._end,
        )
        return DataLoader(
            reader,
            batch_size=None,
            num_workers=self._num_workers,
            prefetch_factor=self._num_prefetched if self._num_workers else None,
            collate_fn=_unchanged,
            generator=torch.Generator().manual_seed(0),  # or else it would draw its seed from the training's generator
        )
