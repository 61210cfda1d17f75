"""The page: everything in one file, no script, nothing fetched; texts of the data are escaped and isolated.

A Content-Security-Policy says the same to the browser, should an escape ever be missing.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nvila.pruning.report import charts
from nvila.pruning.report.data import Looked, Losses, SourceTotals
from nvila.pruning.report.examples import Shown
from nvila.pruning.report.kinds import EASY_LOSS, KINDS, MARGIN, Kind
from nvila.pruning.report.numbers import RATIOS, Agreement, Removal
from nvila.pruning.report.style import STYLE

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_NAMES = [kind.name for kind in KINDS]
_PLAIN = ["plain"]


def text(value: str) -> str:
    """A text of the data as HTML: escaped, without control characters, its direction its own affair."""
    return f'<span class="data" dir="auto">{_escaped(value)}</span>'


def _escaped(value: str) -> str:
    clean = "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in value)
    return html.escape(clean, quote=True)


def page(
    looked: Looked,
    kinds: NDArray[np.int64] | None,
    examples: Mapping[Kind, Sequence[tuple[int, Shown]]],
    removals: Sequence[Sequence[Removal]],
    agreements: Sequence[Agreement],
) -> str:
    """The whole page."""
    sections = [_header(looked)]
    if kinds is not None and looked.losses is not None:
        sections += [
            _tiles(looked, kinds),
            _kinds_by_source(looked, kinds),
            _plane(looked.losses),
        ]
    sections += [_distributions(looked, kinds, removals)]
    if looked.losses is not None:
        sections += [_examples(examples, looked.losses)]
    sections += [_removals(looked, removals, kinds is not None), _agreements(agreements), _unscored(looked.totals)]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Pruning report: {_escaped(looked.method)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(sections)
        + f"</main>\n<footer>{_footer(looked)}</footer>\n</body></html>\n"
    )


def _header(looked: Looked) -> str:
    models = " · ".join(f"{one.role}: {text(one.name)}" for one in looked.manifest.models)
    seen = len(looked.ids)
    sampled = "" if seen == looked.num_samples else f" Charts show {seen:,} of them, chosen by a hash of their ids."
    unfinished = "" if looked.manifest.complete else " <b>Scoring is not complete yet.</b>"
    return (
        "<header><h1>What pruning would keep</h1>"
        f'<p class="soft">{looked.num_samples:,} samples of {len(looked.sources)} sources, ranked by '
        f"{text(looked.method)}.{sampled}{unfinished}<br>{models}</p></header>\n<main>"
    )


def _tiles(looked: Looked, kinds: NDArray[np.int64]) -> str:
    scored = sum(total.num_scored for total in looked.totals)
    known = kinds[kinds >= 0]
    tiles = [f'<div class="tile"><b>{scored:,}</b>scored<small>of {looked.num_samples:,} samples</small></div>']
    for number, kind in enumerate(KINDS):
        share = float((known == number).mean()) if len(known) else 0.0
        tiles.append(
            f'<div class="tile key-{kind.name}"><b>{share:.1%}</b>{kind.title}<small>{kind.meaning}</small></div>'
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _legend() -> str:
    return "".join(f'<span class="swatch bg-{kind.name}"></span>{kind.title}' for kind in KINDS)


def _kinds_by_source(looked: Looked, kinds: NDArray[np.int64]) -> str:
    rows = []
    for number, total in enumerate(looked.totals):
        own = kinds[(looked.source == number) & (kinds >= 0)]
        shares = [float((own == kind).mean()) if len(own) else 0.0 for kind in range(len(KINDS))]
        cells = "".join(f"<td>{share:.0%}</td>" for share in shares)
        bar = charts.stacked_bar(shares, _NAMES)
        rows.append(f"<tr><td>{text(total.name)}</td><td>{total.num_samples:,}</td><td>{bar}</td>{cells}</tr>")
    heads = "".join(f"<th>{kind.title}</th>" for kind in KINDS)
    return (
        f"<h2>Kinds of samples in each source</h2><p>{_legend()}</p>"
        '<div class="wide"><table><thead><tr><th>Source</th><th>Samples</th><th style="width:34%"></th>'
        f"{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _plane(losses: Losses) -> str:
    easy = EASY_LOSS[losses.unit]
    limit = charts.map_limit(losses.small, losses.large)
    return (
        "<h2>Where the samples lie</h2>"
        f'<div class="plane"><div>{charts.loss_map(losses.small, losses.large, easy)}'
        f'<div class="axis">loss of the small model → {limit:.2f} nats a {losses.unit}</div></div><div>'
        "<p>To the right the small model's loss, upward the large one's: darker where there are more samples (by the "
        "logarithm).</p>"
        '<p><b class="ink-helpful">Below the diagonal</b> the large model gives the answer more probability: it can '
        'be learned. <b class="ink-distracting">Above it</b> the large model doubts what the small one believes. Near '
        "the diagonal both do alike.</p>"
        f"<p>The square in the corner is what both know (loss below {easy:g} a {losses.unit}). A sample is helpful or "
        f"distracting from a DeltaLoss of ±{MARGIN:g} of its whole answer on.</p></div></div>"
    )


def _distributions(looked: Looked, kinds: NDArray[np.int64] | None, removals: Sequence[Sequence[Removal]]) -> str:
    scores = looked.scores[looked.method]
    limits = charts.common_range(scores)
    groups = kinds if kinds is not None else np.zeros(len(scores), np.int64)
    names = _NAMES if kinds is not None else _PLAIN
    figures = []
    for number, total in enumerate(looked.totals):
        own = looked.source == number
        half = next((one.cutoff for one in removals[number] if one.ratio == 0.5), None)
        counts = charts.counts_by_kind(scores[own], groups[own], len(names), limits)
        cut = "no scores" if half is None else f"half is cut at {half:.3g}"
        figures.append(
            f"<figure><h3>{text(total.name)}</h3>{charts.histogram(counts, names, limits, half)}"
            f"<figcaption><span>{limits[0]:.3g}</span><span>{cut}</span><span>{limits[1]:.3g}</span></figcaption>"
            "</figure>"
        )
    return (
        "<h2>Scores of each source</h2><p>Higher is kept. All have the same axis, which ends at the 1st and 99th "
        "percentile with what lies beyond in the outer bars; heights are each source's own. The dashed line is where "
        f'half of the source is cut.</p><div class="multiples">{"".join(figures)}</div>'
    )


def _examples(examples: Mapping[Kind, Sequence[tuple[int, Shown]]], losses: Losses) -> str:
    parts = [
        "<h2>Look at some</h2><p>The clearest of each kind, from as many sources as there are. DeltaLoss is of the "
        "whole answer.</p>"
    ]
    for kind, shown in examples.items():
        cards = "".join(_card(kind, index, one, losses) for index, one in shown)
        body = f'<div class="cards">{cards}</div>' if cards else '<p class="soft">There are none.</p>'
        parts.append(f"<h3>{kind.title}: {kind.meaning}</h3>{body}")
    return "".join(parts)


def _card(kind: Kind, index: int, shown: Shown, losses: Losses) -> str:
    pictures = "".join(
        f'<img src="{_escaped(uri)}" width="{width}" height="{height}" alt="">' for uri, width, height in shown.pictures
    )
    turns = "".join(f'<p class="{_escaped(role)}" dir="auto">{_escaped(said)}</p>' for role, said in shown.turns)
    problem = f'<p class="problem">{_escaped(shown.problem)}</p>' if shown.problem else ""
    numbers = "".join(
        f"<dt>{name}</dt><dd>{value:.3g}</dd>"
        for name, value in (
            (f"large, loss a {losses.unit}", losses.large[index]),
            (f"small, loss a {losses.unit}", losses.small[index]),
            ("DeltaLoss", losses.delta[index]),
        )
    )
    return (
        f'<article class="key-{kind.name}"><small>{text(shown.source)} · {text(shown.id)}</small>'
        f'<div class="pictures">{pictures}</div>{turns}{problem}<dl>{numbers}</dl></article>'
    )


def _removals(looked: Looked, removals: Sequence[Sequence[Removal]], has_kinds: bool) -> str:
    heads = "".join(f"<th>keep {ratio:.0%}</th>" for ratio in RATIOS)
    rows = []
    for total, found in zip(looked.totals, removals, strict=True):
        cells = "".join(_removal(one, has_kinds) for one in found) or f'<td colspan="{len(RATIOS)}">no scores</td>'
        rows.append(f"<tr><td>{text(total.name)}<small>{total.num_samples:,} samples</small></td>{cells}</tr>")
    bars = "Bars show what is removed, by kind. " if has_kinds else "Bars show what is removed. "
    return (
        "<h2>What each ratio would remove</h2><p>Each source is ranked by itself, as equation 1 of the paper says. "
        f"{bars}Under them: the score that is cut at; the share of answer tokens that goes; and the share of the "
        "source that would go if all sources were ranked together (<code>--global</code>).</p>"
        f'<div class="wide"><table><thead><tr><th>Source</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody>'
        "</table></div>"
    )


def _removal(one: Removal, has_kinds: bool) -> str:
    shares, names = (one.by_kind, _NAMES) if has_kinds else ((one.share,), _PLAIN)
    tokens = "-" if math.isnan(one.share_of_tokens) else f"{one.share_of_tokens:.0%}"
    return (
        f"<td>{charts.stacked_bar(shares, names)}<small>cut at {one.cutoff:.3g}</small><small>tokens −{tokens}</small>"
        f"<small>global −{one.share_if_global:.0%}</small></td>"
    )


def _agreements(agreements: Sequence[Agreement]) -> str:
    if not agreements:
        return (
            "<h2>Agreement between criteria</h2><p>There is one criterion only. Score by others into the same folder "
            "to compare.</p>"
        )
    rows = []
    for one in agreements:
        cells = "".join(
            f'<td class="shade" style="--depth:{max(0.0, (overlap - ratio) / (1 - ratio)):.2f}">'
            f"<span>{overlap:.0%}</span></td>"
            for overlap, ratio in zip(one.overlaps, RATIOS, strict=True)
        )
        rows.append(
            f"<tr><td>{text(one.first)} and {text(one.second)}<small>{one.num_samples:,} samples</small></td>"
            f"<td>{_signed(one.rank_correlation)}</td>{cells}</tr>"
        )
    heads = "".join(f"<th>keep {ratio:.0%}</th>" for ratio in RATIOS)
    return (
        "<h2>Agreement between criteria</h2><p>The share of what one keeps that the other keeps too, each source by "
        "itself; by chance it would be the ratio, and the shade is how far above chance it is. The rank correlation "
        "is Spearman's, over all sources.</p>"
        f'<div class="wide"><table><thead><tr><th>Criteria</th><th>Rank correlation</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.2f}"


def _unscored(totals: Sequence[SourceTotals]) -> str:
    reasons = sorted({status for total in totals for status in total.by_status} - {"ok"})
    if not reasons:
        return "<h2>Without a score</h2><p>Every sample has one.</p>"
    rows = [
        f"<tr><td>{text(total.name)}</td>"
        + "".join(f"<td>{total.by_status.get(reason, 0):,}</td>" for reason in reasons)
        + "</tr>"
        for total in totals
        if total.num_scored < total.num_samples
    ]
    return (
        "<h2>Without a score</h2><p>These are not ranked: <code>--unscored keep</code> (the default) keeps them, "
        "<code>--unscored drop</code> leaves them out.</p>"
        f'<div class="wide"><table><thead><tr><th>Source</th>{"".join(f"<th>{text(one)}</th>" for one in reasons)}'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _footer(looked: Looked) -> str:
    return (
        f"Choose with <code>nvila prune select SCORES --method {_escaped(looked.method)} --keep 0.5 --out keep/</code>."
        " Losses are in nats."
    )
