"""Kinds, what ratios remove, and agreement, on a few samples whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nvila.pruning.report.charts import common_range, counts_by_kind, map_counts
from nvila.pruning.report.data import Looked, Losses, SourceTotals
from nvila.pruning.report.kinds import DISTRACTING, EASY, HELPFUL, KINDS, UNDECIDED, examples_of, kinds_of
from nvila.pruning.report.numbers import RATIOS, agreements, kept_at, rank_correlation, removals
from nvila.pruning.scores import Manifest

NAN = math.nan


def losses(delta: list[float], large: list[float], small: list[float], unit: str = "token") -> Losses:
    return Losses(delta=np.array(delta), large=np.array(large), small=np.array(small), unit=unit)


def looked(scores: list[float], source: list[int], tokens: list[float], found: Losses | None = None) -> Looked:
    names = [f"s{number}" for number in range(max(source) + 1)]
    return Looked(
        manifest=Manifest(criterion="deltaloss", sources=()),
        method="deltaloss",
        sources=tuple(names),
        source=np.array(source),
        ids=tuple(f"{number:03d}" for number in range(len(scores))),
        num_tokens=np.array(tokens),
        scores={"deltaloss": np.array(scores)},
        losses=found,
        totals=tuple(SourceTotals(name=name, num_samples=1, by_status={"ok": 1}) for name in names),
    )


def test_kinds_are_told_by_both_losses() -> None:
    found = losses([0.03, 4.2, -1.9, 0.1, NAN], [0.02, 0.2, 3.0, 2.0, NAN], [0.05, 4.4, 1.1, 2.1, NAN])
    named = [KINDS[kind] if kind >= 0 else None for kind in kinds_of(found)]
    assert named == [EASY, HELPFUL, DISTRACTING, UNDECIDED, None]


def test_a_long_answer_that_both_know_is_easy_whatever_its_sum() -> None:
    assert KINDS[kinds_of(losses([3.0], [0.01], [0.04]))[0]] is EASY
    assert KINDS[kinds_of(losses([3.0], [0.01], [0.04], unit="byte"))[0]] is HELPFUL


def test_examples_are_the_clearest_and_come_from_all_sources() -> None:
    found = losses([9.0, 8.0, 7.0, 1.0], [1.0] * 4, [9.0] * 4)
    view = looked([0.0] * 4, [0, 0, 0, 1], [1.0] * 4, found)
    assert examples_of(view, found, kinds_of(found), HELPFUL, 3) == [0, 3, 1]
    assert examples_of(view, found, kinds_of(found), EASY, 3) == []


def test_what_a_ratio_keeps_is_each_sources_top_with_ties_in_order() -> None:
    scores = np.array([1.0, 1.0, 1.0, 0.0, NAN, 5.0])
    source = np.array([0, 0, 0, 0, 0, 1])
    assert kept_at(scores, source, 0.5).tolist() == [True, True, False, False, False, True]


def test_removals_say_cut_tokens_kinds_and_the_global_ranking() -> None:
    scores = [4.0, 3.0, 2.0, 1.0, 10.0, 9.0]
    view = looked(scores, [0, 0, 0, 0, 1, 1], [1.0, 1.0, 4.0, 2.0, 1.0, 1.0])
    found = removals(view, np.array([0, 0, 1, 2, 0, 0]), 4)
    half = found[0][RATIOS.index(0.5)]
    assert (half.share, half.cutoff) == (0.5, 3.0)
    assert half.share_of_tokens == 6 / 8
    assert half.by_kind == (0.0, 0.25, 0.25, 0.0)
    assert half.share_if_global == 0.75
    assert found[1][RATIOS.index(0.5)].share_if_global == 0.0


def test_a_source_without_scores_has_no_removals() -> None:
    assert removals(looked([1.0, NAN], [0, 1], [1.0, 1.0]), None, 0)[1] == []


def test_rank_correlation_is_spearmans_with_mean_ranks_for_ties() -> None:
    first = np.array([1.0, 2.0, 2.0, 3.0])
    assert rank_correlation(first, np.array([10.0, 20.0, 20.0, 90.0])) == pytest.approx(1.0)
    assert rank_correlation(first, np.array([9.0, 2.0, 2.0, 1.0])) == pytest.approx(-1.0)
    # scipy.stats.spearmanr([1, 2, 2, 3], [1, 3, 2, 4])
    assert rank_correlation(first, np.array([1.0, 3.0, 2.0, 4.0])) == pytest.approx(0.9486832980505139)
    assert math.isnan(rank_correlation(first, np.ones(4)))


def test_agreement_counts_what_both_keep_of_what_both_have_scored() -> None:
    first, second = np.arange(10.0), np.arange(10.0)
    second[9] = NAN
    reverse = -np.arange(10.0)
    source = np.zeros(10, np.int64)
    found = {(one.first, one.second): one for one in agreements({"a": first, "b": second, "c": reverse}, source)}
    assert found["a", "b"].overlaps == (1.0,) * len(RATIOS)
    assert found["a", "b"].num_samples == 9
    assert found["a", "c"].overlaps[RATIOS.index(0.5)] == 0.0
    assert found["a", "c"].overlaps[RATIOS.index(0.9)] == pytest.approx(8 / 9)
    assert found["a", "c"].rank_correlation == pytest.approx(-1.0)
    assert agreements({"a": first, "b": np.full(10, NAN)}, source) == []


def test_charts_count_every_score_once_outliers_in_the_outer_bins() -> None:
    values = np.array([*np.linspace(-1, 1, 998), 1e9, -1e9, NAN])
    limits = common_range(values)
    assert limits[1] < 2
    counts = counts_by_kind(values, np.zeros(len(values), np.int64), 2, limits)
    assert counts.sum() == 1000
    assert counts[1].sum() == 0
    assert common_range(np.array([NAN])) == (-1.0, 1.0)
    assert map_counts(np.array([0.1, 5.0, NAN]), np.array([0.1, 0.0, 1.0]), 1.0).sum() == 2
