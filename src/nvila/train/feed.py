"""Batches of a mixture: planned by size, packed into rows, encoded by workers, resumable at any step.

Three things follow each other. A stream of sizes (headers and text only, `SampleEncoder.size`) goes through the whole
mixture in its order, the same in every rank. A `RowPacker` makes steps of rows of it. Then each rank encodes the rows
that are its own, ahead of the training, in worker processes. So a step holds the same rows whatever the number of
ranks and of workers, and every rank knows the whole plan: any rank's state is the state of all.

Leaves out what a batch looks like (`nvila.data.collate`) and what is learned from it (`train.learner`).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from nvila.data.collate import collate_packed, collate_padded
from nvila.data.encode import Encoded, SampleEncoder, Size
from nvila.data.mixture import Draw, Mixture, MixtureStream
from nvila.data.mixture.order import Order
from nvila.data.mixture.tally import Tally
from nvila.data.packing import Item, PackingOptions, RowPacker, Step
from nvila.errors import ConfigError, DataError
from nvila.processing.chat import IGNORED
from nvila.train.extras import Extra, Extras
from nvila.train.notes import BatchNotes, SampleNote
from nvila.train.recipe import Batches
from nvila.types import Sample

NUM_SIZED = 512
"""Samples whose mean length tells how many packed rows hold a step's samples."""
_SLACK = 64
"""Tokens by which a sample may be longer than planned: a clip's header may be off by a frame."""

Row = tuple[Item, ...]


@dataclass(frozen=True)
class _Learned:
    """A sample as it is learned from."""

    encoded: Encoded
    extra: Extra | None


@dataclass(frozen=True)
class _Read:
    """How a sample was found, and where."""

    draw: Draw[_Learned]
    source: str


class MixtureFeed:
    """One rank's micro-batches, without end, from where `load_state_dict` says, else from the start."""

    def __init__(
        self,
        mixture: Mixture,
        encoder: SampleEncoder,
        batches: Batches,
        *,
        seed: int,
        name: str = "",
        pad_id: int,
        extras: Extras | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """`name` (of the stage) goes into the order. Raises ConfigError where the rows of a step cannot be dealt out
        evenly."""
        self.mixture = mixture
        self.encoder = encoder
        self.batches = batches
        self.seed = zlib.crc32(name.encode()) ^ seed
        self.pad_id = pad_id
        self.extras = extras
        self.rank = rank
        self.world_size = world_size
        self.rows_per_step = rows_per_step(mixture, encoder, batches, seed=self.seed, world_size=world_size)
        self.num_micro_batches = self.rows_per_step // (world_size * batches.micro_batch)
        """Micro-batches of a rank in a step: what the gradients are accumulated over."""
        config = mixture.config
        self.tally = Tally([source.name for source in config.source], config.max_broken_share)
        """Samples whose header was sound and whose pixels are not."""
        self._sized_broken: set[tuple[int, int]] = set()
        self._first_step = 0
        self._states: dict[int, dict[str, Any]] = {}

    def loader(self, num_workers: int) -> Iterator[dict[str, Any]]:
        """The micro-batches, encoded by so many processes; 0 encodes them in this one."""
        loader = DataLoader(
            _Rows(self.mixture, self.encoder, self.extras, self.seed),
            batch_sampler=self._micro_batches(num_workers),
            collate_fn=_Collate(self.pad_id, self.batches.pack, self.extras),
            num_workers=num_workers,
            multiprocessing_context="fork" if num_workers else None,
            generator=torch.Generator().manual_seed(0),  # or else it would draw its seed from the training's generator
        )
        for batch in loader:
            for draw in batch["notes"].draws:
                self.tally.add(self._unknown(draw))
            yield batch

    def state_dict(self, step: int) -> dict[str, Any]:
        """All that the batches from `step` on depend on, as JSON can hold it; `step` was planned and not yet asked
        for a later one."""
        for earlier in [known for known in self._states if known < step]:
            del self._states[earlier]
        return {**self._states[step], "pixels": self.tally.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after `state`, with any number of ranks. Raises ConfigError for the state of another mixture."""
        self._first_step = int(state["step"])
        self._states = {self._first_step: dict(state)}
        self.tally.load_state_dict(state["pixels"])

    def _micro_batches(self, num_workers: int) -> Iterator[list[Row]]:
        """The rows of each of this rank's micro-batches; keeps the state behind each step for `state_dict`."""
        stream: MixtureStream[Size] = MixtureStream(
            self.mixture, self.encoder.size, seed=self.seed, num_workers=min(num_workers, 1)
        )
        packer: RowPacker[Item] = RowPacker(packing_options(self.batches, self.rows_per_step))
        if self._first_step in self._states:
            saved = self._states[self._first_step]
            stream.load_state_dict(saved["stream"])
            packer.load_state_dict(saved["packer"])
        step = self._first_step
        self._states[step] = _state(step, stream, packer)
        for rows in packer.pack(self._items(stream)):
            step += 1
            self._states[step] = _state(step, stream, packer)
            yield from self._own(rows)

    def _items(self, stream: MixtureStream[Size]) -> Iterator[Item]:
        for draw in stream.draws():
            self._sized_broken.update((broken.source, broken.index) for broken in draw.broken)
            assert draw.item is not None
            yield Item(draw.position, draw.item.num_tokens, draw.item.num_tiles)

    def _unknown(self, draw: Draw[None]) -> Draw[None]:
        """The draw without what the sizes had already shown to be broken, which the stream has counted and logged."""
        broken = tuple(one for one in draw.broken if (one.source, one.index) not in self._sized_broken)
        return replace(draw, broken=broken)

    def _own(self, rows: Step[Item]) -> Iterator[list[Row]]:
        """This rank's share of a step: of each micro-batch its part, so that ranks run alike rows side by side."""
        size = self.batches.micro_batch
        for number in range(self.num_micro_batches):
            first = (number * self.world_size + self.rank) * size
            yield list(rows[first : first + size])


def rows_per_step(mixture: Mixture, encoder: SampleEncoder, batches: Batches, *, seed: int, world_size: int) -> int:
    """Rows of one optimiser step over all ranks: as given, or so many as hold `global_batch` samples on average.

    A multiple of `world_size * micro_batch`. Raises ConfigError where the given number is none, with both.
    """
    unit = world_size * batches.micro_batch
    given = batches.rows_per_step if batches.pack else batches.global_batch
    if given:
        if given % unit:
            raise ConfigError(
                f"a step has {given} rows, which {world_size} ranks with micro-batches of {batches.micro_batch} cannot "
                f"share evenly; give a multiple of {unit}"
            )
        return given
    stream: MixtureStream[Size] = MixtureStream(mixture, encoder.size, seed=seed)
    sizes = [size.num_tokens for size in islice(stream, NUM_SIZED)]
    rows = batches.global_batch * sum(sizes) / len(sizes) / batches.max_tokens
    return max(1, round(rows / unit)) * unit


def packing_options(batches: Batches, num_rows: int) -> PackingOptions:
    """The packer's options; without packing a window of one sample makes a row of every sample."""
    return PackingOptions(
        max_tokens=batches.max_tokens,
        max_tiles=batches.max_num_tiles,
        window=batches.window if batches.pack else 1,
        rows_per_step=num_rows,
        pool=batches.pool,
    )


def num_steps(mixture: Mixture, epochs: float, global_batch: int) -> int:
    """Optimiser steps of so many epochs."""
    return max(1, math.ceil(epochs * mixture.samples_per_epoch / global_batch))


def _state(step: int, stream: MixtureStream[Size], packer: RowPacker[Item]) -> dict[str, Any]:
    return {"step": step, "stream": stream.state_dict(), "packer": packer.state_dict()}


class _Rows(Dataset[Any]):
    """What the workers read: rows of planned samples, encoded."""

    def __init__(self, mixture: Mixture, encoder: SampleEncoder, extras: Extras | None, seed: int) -> None:
        self._mixture = mixture
        self._encoder = encoder
        self._extras = extras
        self._seed = seed
        self._order: Order = mixture.order(seed)

    def __getitems__(self, rows: Sequence[Row]) -> list[list[_Read]]:
        return [[self._read(item) for item in row] for row in rows]

    def _read(self, item: Item) -> _Read:
        def encode(sample: Sample) -> _Learned:
            encoded = self._encoder(sample)
            if encoded.num_tokens > item.num_tokens + _SLACK:
                raise DataError(
                    f"sample {sample.id}: has {encoded.num_tokens} tokens, but its place in a row was planned for "
                    f"{item.num_tokens}"
                )
            extra = None if self._extras is None else self._extras.of(sample, encoded, int(item.key))
            return _Learned(encoded, extra)

        place = self._order.locate(int(item.key))
        draw = self._mixture.draw(place, seed=self._seed, transform=encode)
        return _Read(draw=draw, source=self._mixture.config.source[draw.source].name)


class _Collate:
    """Encoded rows to a batch with its notes."""

    def __init__(self, pad_id: int, pack: bool, extras: Extras | None) -> None:
        self._pad_id = pad_id
        self._pack = pack
        self._extras = extras

    def __call__(self, rows: list[list[_Read]]) -> dict[str, Any]:
        reads = [read for row in rows for read in row]
        draws = tuple(_without_item(read.draw) for read in reads)
        learned = [read.draw.item for read in reads if read.draw.item is not None]
        if len(learned) < len(reads):  # the tally, in the training's process, refuses the batch for it
            return {
                "notes": BatchNotes(samples=(), num_tokens=0, num_learned=0, num_padding=0, num_tiles=0, draws=draws)
            }
        samples = [one.encoded for one in learned]
        if self._pack:
            ends = list(accumulate(len(row) for row in rows))
            packed = [samples[end - len(row) : end] for row, end in zip(rows, ends, strict=True)]
            batch = collate_packed(packed, pad_id=self._pad_id)
        else:
            batch = collate_padded(samples, pad_id=self._pad_id)
        if self._extras is not None:
            batch |= self._extras.collate(samples, [one.extra for one in learned if one.extra is not None])
        num_tokens = sum(sample.num_tokens for sample in samples)
        notes = BatchNotes(
            samples=tuple(SampleNote(sample.id, read.source) for sample, read in zip(samples, reads, strict=True)),
            num_tokens=num_tokens,
            num_learned=int((batch["labels"] != IGNORED).sum()),
            num_padding=batch["input_ids"].numel() - num_tokens,
            num_tiles=sum(sample.num_tiles for sample in samples),
            draws=draws,
        )
        return {**batch, "notes": notes}


def _without_item(draw: Draw[_Learned]) -> Draw[Any]:
    """The draw for the tally, which asks only whether there was something."""
    return Draw(position=draw.position, source=draw.source, item=draw.item and True, broken=draw.broken)
