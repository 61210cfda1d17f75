"""Which names belong to training and which are held out: decided by md5 of the name, never by a rendering.

Fonts are split by superfamily (about one in five is held out), words one in ten, phrasings four of a task,
and of every pictured concept with at least three renderings exactly one rendering. A name's side never
depends on what else is in the collection, except where a fixed number of a group is held out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

Split = Literal["train", "heldout"]


def bucket(kind: str, name: str, num_buckets: int) -> int:
    """The stable bucket in `range(num_buckets)` of `name`; `kind` keeps fonts, words, ... independent."""
    digest = hashlib.md5(f"{kind}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % num_buckets


def superfamily_split(name: str) -> Split:
    """One superfamily in five is held out."""
    return "heldout" if bucket("superfamily", name, 5) == 0 else "train"


def word_split(word: str) -> Split:
    """One word in ten is held out; case does not matter."""
    return "heldout" if bucket("word", word.lower(), 10) == 0 else "train"


def held_out_of(kind: str, names: Iterable[str], count: int) -> frozenset[str]:
    """The `count` names of a group with the lowest hashes: the same ones whatever the order given."""
    return frozenset(sorted(set(names), key=lambda name: (bucket(kind, name, 2**32), name))[:count])
