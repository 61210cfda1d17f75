"""What keep ratios would remove, and how far criteria agree: exact on the samples that are looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from nvila.pruning.report.data import F64, Looked
from nvila.pruning.select.run import num_wanted

RATIOS = (0.9, 0.7, 0.5, 0.3, 0.1)


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What a ratio removes of a source by the report's method. Shares are of its scored samples."""

    ratio: float
    share: float
    cutoff: float
    """The lowest score that is kept."""
    share_of_tokens: float
    """Share of the answer tokens that is removed; nan where tokens were not counted."""
    by_kind: tuple[float, ...]
    """Shares of all scored samples of the source, by kind in the order of `KINDS`; () where kinds are not known."""
    share_if_global: float
    """Share that is removed where all sources are ranked together."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Two methods on the samples that both have scored."""

    first: str
    second: str
    num_samples: int
    rank_correlation: float
    """Spearman's, over all sources; nan where one gives all samples the same score."""
    overlaps: tuple[float, ...]
    """For each of `RATIOS`: the share of what one keeps of each source that the other keeps too."""


def kept_at(scores: F64, source: NDArray[np.int64], ratio: float) -> NDArray[np.bool_]:
    """(n,): whether a sample is among the top of its source; samples are in the order that breaks ties."""
    kept = np.zeros(len(scores), dtype=bool)
    for number in np.unique(source):
        own = np.flatnonzero((source == number) & ~np.isnan(scores))
        best = own[np.argsort(-scores[own], kind="stable")]
        kept[best[: num_wanted(ratio, len(own))]] = True
    return kept


def removals(looked: Looked, kinds: NDArray[np.int64] | None, num_kinds: int) -> list[list[Removal]]:
    """For each source what each of `RATIOS` removes; [] for a source without scores."""
    scores = looked.scores[looked.method]
    is_scored = ~np.isnan(scores)
    together = {ratio: kept_at(scores, np.zeros(len(scores), np.int64), ratio) for ratio in RATIOS}
    kept = {ratio: kept_at(scores, looked.source, ratio) for ratio in RATIOS}
    found: list[list[Removal]] = []
    for number in range(len(looked.sources)):
        own = (looked.source == number) & is_scored
        rows: list[Removal] = []
        for ratio in RATIOS if own.any() else ():
            gone = own & ~kept[ratio]
            tokens = looked.num_tokens[own].sum()
            rows.append(
                Removal(
                    ratio=ratio,
                    share=float(gone.sum() / own.sum()),
                    cutoff=float(scores[own & kept[ratio]].min()),
                    share_of_tokens=float(looked.num_tokens[gone].sum() / tokens) if tokens else float("nan"),
                    by_kind=()
                    if kinds is None
                    else tuple(float((kinds[gone] == kind).sum() / own.sum()) for kind in range(num_kinds)),
                    share_if_global=float((own & ~together[ratio]).sum() / own.sum()),
                )
            )
        found.append(rows)
    return found


def agreements(scores: Mapping[str, F64], source: NDArray[np.int64]) -> list[Agreement]:
    """Every pair of methods that have scored some samples in common."""
    found = []
    for first, second in combinations(scores, 2):
        both = ~np.isnan(scores[first]) & ~np.isnan(scores[second])
        if not both.any():
            continue
        one, other, where = scores[first][both], scores[second][both], source[both]
        overlaps = []
        for ratio in RATIOS:
            kept, also = kept_at(one, where, ratio), kept_at(other, where, ratio)
            overlaps.append(float((kept & also).sum() / kept.sum()))
        found.append(
            Agreement(
                first=first,
                second=second,
                num_samples=int(both.sum()),
                rank_correlation=rank_correlation(one, other),
                overlaps=tuple(overlaps),
            )
        )
    return found


def rank_correlation(first: F64, second: F64) -> float:
    """Spearman's: the correlation of the ranks, equal values having the mean of theirs; nan without variation."""
    one, other = _ranks(first), _ranks(second)
    one, other = one - one.mean(), other - other.mean()
    size = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum() / size) if size else float("nan")


def _ranks(values: F64) -> F64:
    """(n,) ranks from 0, the mean rank for equal values."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: F64 = (ends - (counts + 1) / 2)[inverse]
    return ranks
