"""What Table 3 says: both tables, what scoring costs against the training it saves, and which of the claims held."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pruning_rows import ALL, CRITERIA, KEEPS, PAPER_COLUMNS, ROWS, row_name
from redundant_corpus import FRESH
from tables import shown, side_by_side

AS_GOOD = 1.0
"""Points of the average by which a row may be below another and count as good; the paper's own is 0.1."""


def costs_of_scoring(
    scoring: Mapping[str, Any], pace: Mapping[str, float], epochs: float, *, preparing: float, samples: int
) -> dict[str, Any]:
    """Of each criterion: seconds of scoring the corpus, what part they are of the training that each share saves, and
    the corpus from which on they are less.

    `pace`: seconds a sample of a training, by what learns. `preparing`: seconds that the small model took, which a
    corpus of any size needs once; the criteria that use it pay it, and the size from which on it pays follows from it.
    Coverage pays for the image gain that it needs.
    """
    found: dict[str, Any] = {"training_seconds_per_sample": dict(pace), "preparing_seconds": round(preparing, 1)}
    for name, cost in scoring.items():
        before = scoring["image_gain"]["seconds"] if name == "coverage" else 0.0
        total = cost["seconds"] + before
        each = total / cost["samples"]
        fixed = preparing if name in ("deltaloss", "image_gain", "coverage") else 0.0
        entry: dict[str, Any] = {"seconds": round(total, 2), "seconds_per_sample": each}
        for training, seconds in pace.items():
            for keep in KEEPS:
                saved = (1 - keep) * epochs * seconds
                entry[f"{training}, {keep:.0%} kept"] = {
                    "share_of_saved": round(each / saved, 4),
                    "share_with_preparing": round((each + fixed / samples) / saved, 4),
                    "pays_from_samples": pays_from(fixed, each, saved),
                }
        found[name] = entry
    return found


def pays_from(fixed: float, each: float, saved: float) -> int | None:
    """The least number of samples at which fixed costs and `each` for every sample are below what each saves.

    None where scoring a sample costs more than it saves.
    """
    if saved <= each:
        return None
    return int(fixed / (saved - each)) + 1


def claims(rows: Mapping[str, Any]) -> dict[str, bool]:
    """What the paper says of its table, and whether it is so here; only what the rows at hand can tell."""

    def average(name: str) -> float:
        return float(rows[name]["scores"]["average"]["mean"])

    found = {}
    for budget in ("epochs", "steps"):
        half = row_name(budget, "deltaloss", 0.5)
        if {ALL, half} <= rows.keys():
            found[f"equal {budget}: half by DeltaLoss is as good as all (within {AS_GOOD:g})"] = (
                average(half) >= average(ALL) - AS_GOOD
            )
        for keep in KEEPS:
            names = {method: row_name(budget, method, keep) for method in CRITERIA}
            for better, worse in (("deltaloss", "random"), ("deltaloss", "cluster"), ("cluster", "random")):
                if {names[better], names[worse]} <= rows.keys():
                    found[f"equal {budget}, {keep:.0%}: {CRITERIA[better]} is above {CRITERIA[worse]}"] = average(
                        names[better]
                    ) > average(names[worse])
    raw, pruned = "weak-raw", row_name("weak", "deltaloss", 0.5)
    if {ALL, raw, pruned} <= rows.keys():
        found["a weak source added raw lowers the average"] = average(raw) < average(ALL)
        found["pruned by DeltaLoss it is better than raw"] = average(pruned) > average(raw)
    return found


def table(rows: Mapping[str, Any], costs: Mapping[str, Any], held: Mapping[str, bool]) -> str:
    """The paper's table and ours, side by side, the costs, and what held."""
    header = ("", *PAPER_COLUMNS, "| samples", "steps", *FRESH, "average", "wrong removed", "fresh removed")
    lines = []
    for name, found in rows.items():
        row, own = ROWS[name], found["costs"]
        paper = [f"{value:.1f}" for value in row.paper] if row.paper else [""] * len(PAPER_COLUMNS)
        label = f"{row.label}, equal steps" if row.budget == "steps" else row.label
        gone = [f"{own[key]['mean']:.0f} %" if key in own else "" for key in ("wrong_removed", "fresh_removed")]
        lines.append(
            (
                label,
                *paper,
                f"| {own['samples']['mean']:.0f}",
                f"{own['steps']['mean']:.0f}",
                *(shown(found["scores"][column]) for column in (*FRESH, "average")),
                *gone,
            )
        )
    parts = [side_by_side(header, lines), _cost_lines(costs)]
    parts += [f"{'held' if so else 'NOT held'}: {claim}" for claim, so in held.items()]
    return "\n".join(parts)


def _cost_lines(costs: Mapping[str, Any]) -> str:
    lines = ["", f"the small model took {costs['preparing_seconds']} s"]
    for name, label in CRITERIA.items():
        if name in costs:
            half = costs[name][f"tuning, {KEEPS[0]:.0%} kept"]
            pays = half["pays_from_samples"]
            lines.append(
                f"{label}: {costs[name]['seconds']} s, {100 * half['share_of_saved']:.1f} % of the training that half "
                f"saves ({100 * half['share_with_preparing']:.1f} % with the small model's); pays from "
                f"{'no size on' if pays is None else f'{pays:,} samples on'}"
            )
    return "\n".join([*lines, ""])
