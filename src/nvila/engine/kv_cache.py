"""The KV cache: blocks of rows that requests take, share where they begin alike, and give back.

A block is `block_size` tokens of all layers. Two ideas meet here. Blocks are paged, so that memory is shared and never
lost to gaps; and a request gets neighbouring blocks wherever they can be had, so that attention reads its keys in place
instead of gathering them. A request reserves all that it can ever need before it starts: what runs, ends.

Blocks of ended requests are kept by a hash of everything before and in them (tokens, and the content of pictures)
until their room is needed, the longest unused first.

Letters: R rows (tokens of all blocks), K key/value heads, D channels of a head.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from nvila.engine.weights import DecoderWeights


class BlockPool:
    """Which blocks are free, used by how many requests, or kept for reuse. Holds numbers only."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._is_free = bytearray(b"\1" * num_blocks)
        self._num_free = num_blocks
        self._users = [0] * num_blocks
        self._hash_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}
        self._kept: OrderedDict[int, None] = OrderedDict()

    @property
    def num_used(self) -> int:
        """Blocks that some request holds."""
        return self.num_blocks - self._num_free - len(self._kept)

    @property
    def num_kept(self) -> int:
        """Blocks that nobody holds and that are kept for reuse."""
        return len(self._kept)

    @property
    def num_available(self) -> int:
        """Blocks that a request could get, kept ones included."""
        return self._num_free + len(self._kept)

    def match(self, hashes: Sequence[bytes]) -> list[int]:
        """The longest run of known blocks that starts the chain `hashes`; the caller holds them from now on."""
        found: list[int] = []
        for digest in hashes:
            block = self._block_of.get(digest)
            if block is None:
                break
            found.append(block)
        for block in found:
            self._kept.pop(block, None)
            self._users[block] += 1
        return found

    def allocate(self, count: int, after: int | None = None) -> list[int] | None:
        """`count` blocks for one request, or None where so many are not available.

        They follow block `after` where that can be; else they are neighbours where that can be; else any.
        """
        if count > self.num_available:
            return None
        chosen = self._following(after, count) if after is not None else None
        if chosen is None:
            chosen = self._neighbours(count)
        while chosen is None:
            if self._num_free >= count:
                chosen = [block for block in range(self.num_blocks) if self._is_free[block]][:count]
            else:
                self._forget(next(iter(self._kept)))
                chosen = self._neighbours(count) if self._num_free >= count else None
        for block in chosen:
            self._is_free[block] = 0
            self._users[block] = 1
        self._num_free -= count
        return chosen

    def release(self, blocks: Sequence[int]) -> None:
        """Give blocks back; the last of a chain are forgotten first, because the others are of use without them."""
        for block in reversed(blocks):
            self._users[block] -= 1
            assert self._users[block] >= 0
            if self._users[block] == 0:
                if block in self._hash_of:
                    self._kept[block] = None
                else:
                    self._set_free(block)

    def remember(self, block: int, digest: bytes) -> None:
        """`block` is complete, and `digest` stands for its tokens and all before them."""
        if digest not in self._block_of and block not in self._hash_of:
            self._hash_of[block], self._block_of[digest] = digest, block

    def forget_kept(self) -> None:
        """Free every block that is kept for reuse alone."""
        for block in list(self._kept):
            self._forget(block)

    def _forget(self, block: int) -> None:
        del self._kept[block]
        del self._block_of[self._hash_of.pop(block)]
        self._set_free(block)

    def _set_free(self, block: int) -> None:
        self._is_free[block] = 1
        self._num_free += 1

    def _following(self, after: int, count: int) -> list[int] | None:
        """The blocks behind `after`, where all are free; those that are kept may serve another continuation."""
        end = after + 1 + count
        is_free = end <= self.num_blocks and all(self._is_free[after + 1 : end])
        return list(range(after + 1, end)) if is_free else None

    def _neighbours(self, count: int) -> list[int] | None:
        """Blocks in the middle of the longest free run, so that both its neighbours have room to go on."""
        if count == 0:
            return []
        runs = [list(run) for is_free, run in groupby(range(self.num_blocks), self._is_free.__getitem__) if is_free]
        longest = max(runs, key=len, default=[])
        if len(longest) < count:
            return None
        begin = 0 if longest[0] == 0 else (len(longest) - count) // 2
        return longest[begin : begin + count]


@dataclass(frozen=True)
class BlockTable:
    """The blocks of one request, and the rows of the cache that they are."""

    blocks: list[int]
    rows: torch.Tensor
    """(blocks * block_size,) int64, on the cache's device: the row of each position."""
    start: int | None
    """The first row, where the blocks are neighbours in order."""


class KVCache:
    """The keys and values of all blocks. `key[layer]` and `value[layer]`: (R, K, D)."""

    def __init__(self, weights: DecoderWeights, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        shape = (len(weights.layers), num_blocks * block_size, weights.num_kv_heads, weights.head_dim)
        # Zeros cost nothing before they are touched, and rows read as padding are finite.
        self.key = torch.zeros(shape, dtype=weights.dtype, device=weights.device).unbind(0)
        self.value = torch.zeros(shape, dtype=weights.dtype, device=weights.device).unbind(0)

    def table(self, blocks: list[int]) -> BlockTable:
        """The rows of `blocks`."""
        first = torch.tensor(blocks, dtype=torch.long) * self.block_size
        rows = (first[:, None] + torch.arange(self.block_size)).flatten().to(self.key[0].device)
        is_run = blocks == list(range(blocks[0], blocks[0] + len(blocks)))
        return BlockTable(blocks, rows, blocks[0] * self.block_size if is_run else None)
