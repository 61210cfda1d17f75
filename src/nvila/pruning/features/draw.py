"""From clusters to scores whose top K is the draw, for every K.

A sample's turn is (its place in its cluster + a fraction at random) / the cluster's weight; turns are taken in rising
order, and the score is the turn's negative. With equal weights that is the even draw: after any number of turns, the
counts drawn from two clusters that are not empty yet differ by one at most. With other weights the counts are
proportional to them until a cluster runs out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def turns(labels: NDArray[np.int32], order: F64, keys: F64, weights: F64) -> tuple[F64, NDArray[np.int32]]:
    """(n,) the turn of each sample, and (n,) its place in its cluster, from 0.

    labels: (n,) clusters. order: (n,) who comes first in a cluster, rising; ties go by `keys`. keys: (n,) random
    numbers from 0 up to 1, different for nearly all. weights: (num_clusters,) above 0.
    """
    ranked = np.lexsort((keys, order, labels))
    ordered = labels[ranked]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(ordered) else ordered
    sizes = np.diff([*starts, len(ordered)])
    places = np.empty(len(labels), np.int32)
    places[ranked] = np.arange(len(ordered)) - np.repeat(starts, sizes)
    return (places + keys) / weights[labels], places


def even_turns(labels: NDArray[np.int32], keys: F64) -> tuple[F64, NDArray[np.int32]]:
    """The turns of an even draw per cluster, at random within each."""
    return turns(labels, keys, keys, np.ones(int(labels.max(initial=-1)) + 1))


def coverage_turns(labels: NDArray[np.int32], gain: F64, keys: F64) -> tuple[F64, NDArray[np.int32]]:
    """The turns of the coverage criterion. gain: (n,) what the picture adds to the answer's log p, nan where unknown.

    From each cluster as many as the square root of its size, between an even draw (1), which overrates rare oddities,
    and a proportional one (its size), which is random drawing; those that gain most first. Unknown gains stand in the
    middle. Samples that the picture does not help (gain of 0 and below) come after all others.
    """
    sizes = np.bincount(labels, minlength=1).astype(np.float64)
    is_useless = gain <= 0
    rank = np.full(len(gain), 0.5)
    known = ~np.isnan(gain)
    rank[known] = np.argsort(np.argsort(gain[known], kind="stable")) / max(1, int(known.sum()) - 1)
    found, places = turns(labels, is_useless * 2.0 - rank, keys, np.sqrt(np.maximum(sizes, 1.0)))
    return found + is_useless * (found.max(initial=0.0) + 1.0), places
