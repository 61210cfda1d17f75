"""Blocks are taken once, shared by content, given back, and forgotten in a good order."""

from __future__ import annotations

import random

from nvila.engine.kv_cache import BlockPool


def chain(pool: BlockPool) -> list[int]:
    """Three blocks of the pool, remembered as a, b and c."""
    blocks = pool.allocate(3)
    assert blocks is not None
    for block, digest in zip(blocks, (b"a", b"b", b"c"), strict=True):
        pool.remember(block, digest)
    return blocks


def test_fresh_requests_get_neighbours_with_room_to_go_on() -> None:
    pool = BlockPool(32)
    first, second = pool.allocate(4), pool.allocate(4)
    assert first == [0, 1, 2, 3]
    assert second is not None
    assert second == list(range(second[0], second[0] + 4))
    assert pool.allocate(4, after=3) == [4, 5, 6, 7]
    assert pool.allocate(2, after=second[-1]) == [second[-1] + 1, second[-1] + 2]


def test_a_full_pool_gives_nothing_and_loses_nothing() -> None:
    pool = BlockPool(4)
    held = pool.allocate(3)
    assert held is not None
    assert pool.allocate(2) is None
    assert pool.num_available == 1
    pool.release(held)
    assert pool.num_available == 4


def test_scattered_blocks_are_given_where_no_neighbours_are_left() -> None:
    pool = BlockPool(6)
    singles = [pool.allocate(1) for _ in range(6)]
    for single in (singles[0], singles[2], singles[4]):
        assert single is not None
        pool.release(single)
    found = pool.allocate(3)
    assert found is not None
    assert len(set(found)) == 3


def test_known_beginnings_are_shared() -> None:
    pool = BlockPool(8)
    blocks = chain(pool)
    assert pool.match([b"a", b"b", b"x", b"c"]) == blocks[:2]
    pool.release(blocks)
    assert (pool.num_used, pool.num_kept) == (2, 1)
    pool.release(blocks[:2])
    assert (pool.num_used, pool.num_kept) == (0, 3)
    assert pool.match([b"b"]) == [blocks[1]]


def test_ends_of_chains_are_forgotten_first() -> None:
    pool = BlockPool(3)
    blocks = chain(pool)
    pool.release(blocks)
    assert pool.allocate(1) == [blocks[2]]
    assert pool.match([b"a", b"b", b"c"]) == blocks[:2]


def test_a_continuation_does_not_take_another_one_s_kept_blocks() -> None:
    pool = BlockPool(16)
    blocks = chain(pool)
    pool.release(blocks)
    shared = pool.match([b"a"])
    other = pool.allocate(2, after=shared[-1])
    assert other is not None
    assert not set(other) & set(blocks)
    assert pool.match([b"a", b"b", b"c"]) == blocks


def test_the_longest_unused_is_forgotten() -> None:
    pool = BlockPool(2)
    for digest in (b"a", b"b"):
        block = pool.allocate(1)
        assert block is not None
        pool.remember(block[0], digest)
        pool.release(block)
    pool.release(pool.match([b"a"]))
    assert pool.allocate(1) is not None
    assert pool.match([b"b"]) == []
    assert len(pool.match([b"a"])) == 1


def test_random_use_keeps_the_books() -> None:
    """Whatever is taken, shared and given back: no block has two owners that do not share it, and all come back."""
    rng = random.Random(0)
    pool = BlockPool(40)
    held: list[list[int]] = []
    chains = [[f"{name}{index}".encode() for index in range(6)] for name in "abcde"]
    for _ in range(3000):
        if held and rng.random() < 0.5:
            pool.release(held.pop(rng.randrange(len(held))))
        else:
            digests = rng.choice(chains)[: rng.randint(0, 6)]
            known = pool.match(digests)
            fresh = pool.allocate(rng.randint(1, 8), after=known[-1] if known else None)
            if fresh is None:
                pool.release(known)
                continue
            assert not {block for blocks in held for block in blocks} & set(fresh)
            assert len(set(fresh)) == len(fresh)
            for block, digest in zip(fresh, digests[len(known) :], strict=False):
                pool.remember(block, digest)
            held.append([*known, *fresh])
        used = {block for blocks in held for block in blocks}
        assert pool.num_used == len(used)
        assert pool.num_used + pool.num_available == 40
    for blocks in held:
        pool.release(blocks)
    pool.forget_kept()
    assert (pool.num_used, pool.num_kept, pool.num_available) == (0, 0, 40)
