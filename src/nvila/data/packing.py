"""Packing: which samples share a row, decided from their sizes alone.

A training step is one row a rank (or several). Two things cost time: padding at a row's end, and ranks that wait for
the one with the most tiles, because a tile's way through the vision tower costs as much as hundreds of text tokens.
So rows are filled by best fit out of a look-ahead window of samples, and steps are made of rows with about equally many
tiles. The trade: samples are seen out of order, by up to the window and the pool of rows, and neighbours in a step are
alike in tiles.

The plan depends on nothing but the sizes and their order: every rank that plans the same stream gets the same steps
and takes its own row of each. It needs no pixels; `nvila.data.sizes` tells sizes from headers.
Encoding is `nvila.data.encode`, putting rows into tensors `nvila.data.collate`.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from nvila.errors import ConfigError, DataError


class Sized(Protocol):
    """What can be packed: anything that knows its tokens and its tiles (frames of clips are tiles)."""

    @property
    def num_tokens(self) -> int: ...

    @property
    def num_tiles(self) -> int: ...


class Item(NamedTuple):
    """A sample's size, and the key by which whoever encodes it finds it again (a number or a string)."""

    key: int | str
    num_tokens: int
    num_tiles: int = 0


_EVEN = 1.05
"""The most tiles of a rank over the mean of the ranks, up to which a step counts as even."""

S = TypeVar("S", bound=Sized)
Row = tuple[S, ...]
Step = tuple[Row[S], ...]


@dataclass(frozen=True, kw_only=True)
class PackingOptions:
    """Budgets and look-ahead of a packer. Raises ConfigError for values out of range."""

    max_tokens: int
    """Tokens of a row."""
    max_tiles: int | None = None
    """Tiles of a row; None sets no limit."""
    window: int = 1024
    """Samples that a row is chosen from."""
    rows_per_step: int = 1
    """Rows that are trained on at the same time: ranks, times rows of a rank."""
    pool: int = 16
    """Steps' worth of rows that a step is chosen from; without effect for one row a step."""
    patience: int = 64
    """Steps that a finished row may wait for rows with as many tiles."""

    def __post_init__(self) -> None:
        limits = {**vars(self), "max_tiles": 1 if self.max_tiles is None else self.max_tiles}
        for name, value in limits.items():
            if value < 1:
                raise ConfigError(f"packing: {name} is {value}; give a whole number from 1")


class _Waiting(NamedTuple):
    """A finished row in the pool: the step at which it came, and its samples."""

    since: int
    row: tuple[Any, ...]


class RowPacker(Generic[S]):
    """Packs a stream of sized samples into steps of rows. The same stream gives the same steps.

    Each row starts with the window's oldest sample, so that none waits for ever, and takes the largest that still fits
    until nothing does. Of the pool's rows, sorted by tiles, a step takes neighbours: the oldest that are even within
    5 %, or the most even ones; a row that has waited for `patience` steps goes first.
    """

    def __init__(self, options: PackingOptions) -> None:
        self.options = options
        self.num_taken = 0
        """Samples taken from the stream so far: where the stream goes on after a resume."""
        self.num_steps = 0
        self._window: OrderedDict[int, S] = OrderedDict()
        self._by_size: list[tuple[int, int]] = []  # (tokens, -arrival), ascending: of equals the oldest is found first
        self._pool: list[_Waiting] = []

    def pack(self, samples: Iterable[S]) -> Iterator[Step[S]]:
        """Steps of `samples`, to the last one. `state_dict` may be taken between any two steps."""
        for sample in samples:
            step = self.add(sample)
            if step is not None:
                yield step
        yield from self.flush()

    def add(self, sample: S) -> Step[S] | None:
        """Takes a sample in; a step, when the window and the pool are full enough to make one.

        Raises DataError for a sample that no row can hold, with both numbers.
        """
        self._check(sample)
        self._window[self.num_taken] = sample
        insort(self._by_size, (sample.num_tokens, -self.num_taken))
        self.num_taken += 1
        if len(self._window) < self.options.window:
            return None
        self._finish_row()
        return self._take_step() if len(self._pool) >= self._pool_size else None

    def flush(self) -> Iterator[Step[S]]:
        """Steps of what is still held, at the end of a stream.

        Rows are divided until every step has one for every rank. The last step has fewer only where fewer samples are
        held than that takes.
        """
        while self._pool or self._window:
            while self._window and len(self._pool) < self._pool_size:
                self._finish_row()
            if not self._window:
                self._even_out_pool()
            yield self._take_step()

    def state_dict(self, save: Callable[[Any], Any] = list) -> dict[str, Any]:
        """All that the next steps depend on, fit for JSON where `save` gives what JSON knows.

        `save` turns a held sample into what is written. Where samples are not `Item`, give one that keeps no pixels.
        """
        return {
            "num_taken": self.num_taken,
            "num_steps": self.num_steps,
            "window": [[arrival, save(sample)] for arrival, sample in self._window.items()],
            "pool": [[since, [save(sample) for sample in row]] for since, row in self._pool],
        }

    def load_state_dict(self, state: dict[str, Any], restore: Callable[[Any], S] | None = None) -> None:
        """Goes on from `state`; the stream must go on behind its first `num_taken` samples.

        `restore` turns what `save` gave back into a sample; None makes an `Item` of it.
        """
        revive: Callable[[Any], Any] = Item._make if restore is None else restore
        self.num_taken, self.num_steps = state["num_taken"], state["num_steps"]
        self._window = OrderedDict((arrival, revive(saved)) for arrival, saved in state["window"])
        self._by_size = sorted((sample.num_tokens, -arrival) for arrival, sample in self._window.items())
        self._pool = [_Waiting(since, tuple(revive(saved) for saved in row)) for since, row in state["pool"]]

    @property
    def _pool_size(self) -> int:
        """Rows that the pool holds before it gives a step."""
        num_rows = self.options.rows_per_step
        return num_rows * self.options.pool if num_rows > 1 else 1

    def _check(self, sample: S) -> None:
        budgets = {"tokens": self.options.max_tokens, "tiles": self.options.max_tiles}
        for unit, size in (("tokens", sample.num_tokens), ("tiles", sample.num_tiles)):
            budget = budgets[unit]
            if budget is not None and size > budget:
                name = sample.key if isinstance(sample, Item) else f"number {self.num_taken}"
                raise DataError(
                    f"sample {name} has {size} {unit}, but a row of the packing may have {budget}; raise its "
                    f"max_{unit}, or give the sample fewer {unit} (max_tiles, num_frames, too_long)"
                )

    def _finish_row(self) -> None:
        """Moves a row's samples from the window to the pool: its oldest, and then always the largest that fits."""
        oldest = next(iter(self._window))
        row = [self._pop(bisect_right(self._by_size, (self._window[oldest].num_tokens, -oldest)) - 1)]
        tokens = self.options.max_tokens - row[0].num_tokens
        tiles = None if self.options.max_tiles is None else self.options.max_tiles - row[0].num_tiles
        place = self._largest_within(tokens, tiles, len(self._by_size))
        while place >= 0:
            sample = self._pop(place)
            row.append(sample)
            tokens -= sample.num_tokens
            tiles = None if tiles is None else tiles - sample.num_tiles
            place = self._largest_within(tokens, tiles, place)
        self._pool.append(_Waiting(self.num_steps, tuple(row)))

    def _largest_within(self, tokens: int, tiles: int | None, end: int) -> int:
        """The place, below `end`, of the largest sample within both budgets; -1 where there is none."""
        place = bisect_right(self._by_size, (tokens, 0), hi=end) - 1
        if tiles is not None:
            while place >= 0 and self._window[-self._by_size[place][1]].num_tiles > tiles:
                place -= 1
        return place

    def _pop(self, place: int) -> S:
        return self._window.pop(-self._by_size.pop(place)[1])

    def _take_step(self) -> Step[S]:
        overdue = self.num_steps - self._pool[0].since >= self.options.patience
        chosen = _neighbours([_tiles(waiting.row) for waiting in self._pool], self.options.rows_per_step, overdue)
        step = tuple(self._pool[index].row for index in chosen)
        for index in reversed(chosen):
            del self._pool[index]
        self.num_steps += 1
        return step

    def _even_out_pool(self) -> None:
        """Splits rows of the most samples in two, until the pool's rows make whole steps."""
        while len(self._pool) % self.options.rows_per_step:
            index = max(range(len(self._pool)), key=lambda index: len(self._pool[index].row))
            since, row = self._pool[index]
            if len(row) == 1:
                return
            self._pool[index : index + 1] = [_Waiting(since, row[::2]), _Waiting(since, row[1::2])]


def _tiles(row: tuple[Any, ...]) -> int:
    return sum(sample.num_tiles for sample in row)


def _neighbours(tiles: list[int], num_rows: int, oldest_first: bool) -> list[int]:
    """Which rows make a step: `num_rows` of those whose `tiles` are given, oldest row first, in ascending order.

    Neighbours by tiles: of those even within `_EVEN` the ones that hold the oldest row, or else the most even ones.
    With `oldest_first` row 0 is among them whatever its tiles.
    """
    order = sorted(range(len(tiles)), key=lambda index: (tiles[index], index))
    num_rows = min(num_rows, len(order))
    first, last = 0, len(order) - num_rows
    if oldest_first:
        place = order.index(0)
        first, last = max(first, place - num_rows + 1), min(last, place)

    def rank(start: int) -> tuple[float, int]:
        members = order[start : start + num_rows]
        total = sum(tiles[index] for index in members)
        imbalance = tiles[members[-1]] * num_rows / total if total else 1.0
        return max(imbalance, _EVEN), min(members)

    start = min(range(first, last + 1), key=rank)
    return sorted(order[start : start + num_rows])
