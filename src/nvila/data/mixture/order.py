"""The order of a mixture: which sample of which source stands at each position of an endless stream of epochs.

Everything is computed from the seed and the position, in blocks, so that starting anywhere costs the same.
Two tables would be the obvious way (a shuffled list of all samples, 8 bytes each, anew for every epoch). Here only
the owner of each position is kept (1 byte, 2 above 256 sources), and the sample is computed: a Feistel network over
a x b >= n values whose rare overshoot is fed in again (Black and Rogaway, "Ciphers with arbitrary finite domains",
2002) permutes a source without a table, in about 0.1 microseconds a sample.

Letters: P positions, S sources.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

BLOCK = 2**16
"""Positions computed at a time: half a megabyte a temporary, which stays in the cache."""
_NUM_ROUNDS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_OWNER_BITS = np.uint64(16)


class Place(NamedTuple):
    """What stands at a position of the endless stream: number of the source, index of the sample in it as filtered."""

    position: int
    source: int
    sample: int


def derive_key(*parts: int | str) -> int:
    """64 bits that depend on all `parts` and on their order."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def scramble(values: U64) -> U64:
    """A bijection of 64 bits in which every input bit reaches every output bit (the finaliser of SplitMix64)."""
    mixed = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def permute(index: U64, size: U64, key: U64) -> U64:
    """Where a pseudo-random permutation of `size` values takes `index`; the permutation is chosen by `key`.

    All three (P,) and elementwise: each element may belong to another permutation. `index < size < 2**52`.
    """
    rows = np.ceil(np.sqrt(size.astype(np.float64))).astype(np.uint64)
    columns = (size + rows - np.uint64(1)) // rows
    result = _feistel(index, rows, columns, key)
    outside = np.flatnonzero(result >= size)
    while len(outside):
        result[outside] = _feistel(result[outside], rows[outside], columns[outside], key[outside])
        outside = outside[result[outside] >= size[outside]]
    return result


def _feistel(index: U64, rows: U64, columns: U64, key: U64) -> U64:
    left, right = np.divmod(index, columns)
    for number in range(_NUM_ROUNDS):
        salt = key + np.uint64((number + 1) * int(_GOLDEN) % 2**64)
        if number % 2:
            right = _shift(right, left, columns, salt)
        else:
            left = _shift(left, right, rows, salt)
    return left * columns + right


def _shift(half: U64, other: U64, modulus: U64, salt: U64) -> U64:
    """`half` plus a pseudo-random function of `other`, modulo `modulus` (below 2**32, so no product overflows)."""
    random = (scramble(other * _GOLDEN + salt) >> np.uint64(32)) * modulus >> np.uint64(32)
    moved = half + random
    return moved - np.where(moved >= modulus, modulus, np.uint64(0))


class Schedule:
    """Which source owns each position of an epoch, the same in every epoch.

    A source with m samples has one in each m-th part of the epoch, at a random place inside it: any stretch
    holds its fair number, up to two, and no source falls into step with the ranks or the workers.
    """

    def __init__(self, counts: Sequence[int], key: int) -> None:
        """`counts`: (S,) samples of each source in an epoch."""
        self.num_positions = sum(counts)
        self._owners = _interleave(counts, key)
        starts = range(0, self.num_positions, BLOCK)
        per_block = [np.bincount(self._owners[start : start + BLOCK], minlength=len(counts)) for start in starts]
        self._before = np.zeros((len(per_block), len(counts)), dtype=np.int64)
        np.cumsum(per_block[:-1], axis=0, out=self._before[1:])

    def block(self, number: int) -> tuple[I64, I64]:
        """Owner and number among its owner's samples for each position of a block: two (up to BLOCK,) int64."""
        owners = self._owners[number * BLOCK : (number + 1) * BLOCK]
        by_owner = np.argsort(owners, kind="stable")
        counts = np.bincount(owners, minlength=self._before.shape[1])
        first = np.cumsum(counts) - counts
        ordinals = np.empty(len(owners), dtype=np.int64)
        ordinals[by_owner] = np.arange(len(owners)) + np.repeat(self._before[number] - first, counts)
        return owners.astype(np.int64), ordinals


def _interleave(counts: Sequence[int], key: int) -> NDArray[Any]:
    """(P,) owner of each position, uint8 or uint16; needs 8 bytes a position while it works."""
    marks = np.empty(sum(counts), dtype=np.uint64)
    filled = 0
    for owner, count in enumerate(counts):
        salt = np.uint64(derive_key(key, "jitter", owner))
        for start in range(0, count, BLOCK):
            ordinal = np.arange(start, min(start + BLOCK, count), dtype=np.uint64)
            jitter = (scramble(ordinal * _GOLDEN + salt) >> np.uint64(11)).astype(np.float64) * 2.0**-53
            fraction = (ordinal.astype(np.float64) + jitter) / count
            when = (fraction * 2.0**47).astype(np.uint64) << _OWNER_BITS
            marks[filled : filled + len(ordinal)] = when | np.uint64(owner)
            filled += len(ordinal)
    marks.sort()
    marks &= np.uint64(2 ** int(_OWNER_BITS) - 1)
    return marks.astype(np.uint8 if len(counts) <= 2**8 else np.uint16)


class Order:
    """The endless stream: epoch after epoch, each a permutation of the mixture.

    `counts[s]` of the `sizes[s]` samples of source s stand in each epoch. A source is passed through in one
    permutation after the other, across the epochs: however `counts` and `sizes` relate, no sample is drawn a second
    time before all have been drawn once, and so on.
    """

    def __init__(self, *, counts: Sequence[int], sizes: Sequence[int], seed: int) -> None:
        assert len(counts) == len(sizes)
        assert min(counts) > 0
        assert min(sizes) > 0
        self._schedule = Schedule(counts, derive_key(seed, "schedule"))
        self._counts = np.array(counts, dtype=np.int64)
        self._sizes = np.array(sizes, dtype=np.int64)
        self._keys = np.array([derive_key(seed, "source", number) for number in range(len(sizes))], dtype=np.uint64)

    @property
    def samples_per_epoch(self) -> int:
        """Positions of one epoch."""
        return self._schedule.num_positions

    def locate(self, position: int) -> Place:
        """What stands at `position` of the stream; about a millisecond, so `walk` where many are wanted."""
        return next(self.walk(position, step=1, end=position + 1))

    def walk(self, start: int, *, step: int, end: int | None = None) -> Iterator[Place]:
        """What stands at `start`, `start + step`, ... below `end`, or for ever."""
        position = start
        while end is None or position < end:
            epoch, within = divmod(position, self.samples_per_epoch)
            number, offset = divmod(within, BLOCK)
            owners, ordinals = self._schedule.block(number)
            stop = len(owners) if end is None else min(len(owners), offset + end - position)
            chosen = slice(offset, stop, step)
            owners, indices = owners[chosen], self._indices(epoch, owners[chosen], ordinals[chosen])
            positions = range(position, position + len(owners) * step, step)
            yield from map(Place, positions, owners.tolist(), indices.tolist())
            position += len(owners) * step

    def _indices(self, epoch: int, owners: I64, ordinals: I64) -> I64:
        """(P,) indices in their sources: the place in the pass through the source, permuted by the key of the pass."""
        sizes = self._sizes[owners]
        passes, within = np.divmod(epoch * self._counts[owners] + ordinals, sizes)
        keys = scramble(self._keys[owners] + passes.astype(np.uint64) * _GOLDEN)
        return permute(within.astype(np.uint64), sizes.astype(np.uint64), keys).astype(np.int64)


def stand_ins(*, seed: int, source: int, index: int, size: int, limit: int) -> Iterator[int]:
    """Up to `limit` other indices of a source of `size`, in a random order of their own for each `index`.

    They depend on nothing else, so that every rank, every worker and every resumed run agrees.
    """
    key = np.array([derive_key(seed, "stand-in", source, index)], dtype=np.uint64)
    sizes = np.array([size], dtype=np.uint64)
    candidates = (int(permute(np.array([number], dtype=np.uint64), sizes, key)[0]) for number in range(size))
    yield from itertools.islice((candidate for candidate in candidates if candidate != index), limit)
