"""The rows of Table 5 at small scale, what the paper says of them, and what of it held here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tables import shown, side_by_side

from nvila.adapters.options import LanguageMethod, VisionMethod

AS_GOOD = 2.0
"""Points of the average by which a row may be below another and count as good."""
FASTER = 1.25
"""What the paper has a tower's layer norms train faster than LoRA on it; its table says 1.32 with LoRA on the decoder,
1.19 with QLoRA."""


@dataclass(frozen=True, kw_only=True)
class Paper:
    """A row of the paper's table: GB, iterations a second, FT-5 at ratio 1 and at the best ratio."""

    memory: float
    throughput: float
    equal: float
    best: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """What learns in the tower and in the decoder."""

    label: str
    vision: VisionMethod
    language: LanguageMethod
    paper: Paper | None = None
    """None for the combination that the paper's table leaves out."""

    @property
    def searches(self) -> bool:
        """Whether ratios are tried; the paper has one rate where everything learns."""
        return self.language != "full"


ROWS: Mapping[str, Row] = MappingProxyType(
    {
        "lora-lora": Row(
            label="LoRA + LoRA",
            vision="lora",
            language="lora",
            paper=Paper(memory=20.1, throughput=3.4, equal=69.2, best=71.8),
        ),
        "ln-lora": Row(
            label="LN + LoRA",
            vision="ln",
            language="lora",
            paper=Paper(memory=19.2, throughput=4.5, equal=63.5, best=71.4),
        ),
        "full-lora": Row(
            label="FT + LoRA",
            vision="full",
            language="lora",
            paper=Paper(memory=21.9, throughput=4.2, equal=64.0, best=70.1),
        ),
        "lora-qlora": Row(
            label="LoRA + QLoRA",
            vision="lora",
            language="qlora",
            paper=Paper(memory=11.1, throughput=2.6, equal=63.0, best=70.8),
        ),
        "ln-qlora": Row(
            label="LN + QLoRA",
            vision="ln",
            language="qlora",
            paper=Paper(memory=10.2, throughput=3.1, equal=62.7, best=70.9),
        ),
        "full-qlora": Row(label="FT + QLoRA", vision="full", language="qlora"),
        "full-full": Row(
            label="FT + FT", vision="full", language="full", paper=Paper(memory=63.5, throughput=6.1, equal=77.7)
        ),
    }
)
"""Tower + decoder."""


def claims(rows: Mapping[str, Any]) -> dict[str, bool]:
    """What the paper says of its table, and whether it is so here; only what the rows at hand can tell."""
    found = {}
    for name in rows:
        if ROWS[name].searches:
            equal, best = (average(rows, name, column) for column in ("equal", "best"))
            found[f"{ROWS[name].label}: a smaller rate for the tower is better than the same"] = best > equal
    for language in ("lora", "qlora"):
        norms, low_rank, whole = (f"{vision}-{language}" for vision in ("ln", "lora", "full"))
        said = ROWS[norms].label
        for other in (low_rank, whole):
            if {norms, other} <= rows.keys():
                found[f"{said} is as good as {ROWS[other].label} (within {AS_GOOD:g})"] = (
                    average(rows, norms, "best") >= average(rows, other, "best") - AS_GOOD
                )
                found[f"{said} takes less memory than {ROWS[other].label}"] = total(rows, norms) < total(rows, other)
        if {norms, low_rank} <= rows.keys():
            found[f"{said} is at least {FASTER:g} times as fast as {ROWS[low_rank].label}"] = speed(
                rows, norms
            ) >= FASTER * speed(rows, low_rank)
    for vision in ("lora", "ln", "full"):
        plain, packed = f"{vision}-lora", f"{vision}-qlora"
        if {plain, packed} <= rows.keys():
            found[f"{ROWS[packed].label} takes less memory than {ROWS[plain].label}"] = total(rows, packed) < total(
                rows, plain
            )
            found[f"{ROWS[packed].label} is as good as {ROWS[plain].label} (within {AS_GOOD:g})"] = (
                average(rows, packed, "best") >= average(rows, plain, "best") - AS_GOOD
            )
    if rows.keys() == ROWS.keys():
        found["FT + FT is the most accurate"] = all(
            average(rows, "full-full", "best") >= average(rows, name, "best") for name in rows
        )
    return found


def average(rows: Mapping[str, Any], name: str, column: str) -> float:
    """The mean accuracy of a row over tasks and seeds, at ratio 1 ("equal") or at the chosen ones ("best")."""
    return float(rows[name]["scores"][column]["average"]["mean"])


def total(rows: Mapping[str, Any], name: str) -> int:
    """Bytes of a step of a row."""
    return sum(rows[name]["costs"]["memory"].values())


def speed(rows: Mapping[str, Any], name: str) -> float:
    """Iterations a second of a row."""
    return float(rows[name]["costs"]["iterations_per_s"])


def table(rows: Mapping[str, Any], tasks: Sequence[str], held: Mapping[str, bool]) -> str:
    """The paper's table and ours, side by side; each task at its chosen ratio; memory by component; what held."""
    header = ("tower + decoder", "GB", "it/s", "ratio 1", "best", "| MB", "it/s", "ratio 1", "best", *tasks, "ratios")
    lines, parts = [], []
    for name, found in rows.items():
        paper, scores, memory = ROWS[name].paper, found["scores"], found["costs"]["memory"]
        lines.append(
            (
                ROWS[name].label,
                *(_paper_cells(paper) if paper else [""] * 4),
                f"| {total(rows, name) / 1e6:.1f}",
                f"{speed(rows, name):.2f}",
                shown(scores["equal"]["average"]),
                shown(scores["best"]["average"]) if ROWS[name].searches else "",
                *(shown(scores["best"][task]) for task in tasks),
                " ".join(f"{found['load']['ratios'][task]:g}" for task in tasks),
            )
        )
        parts.append((ROWS[name].label, *(f"{size / 1e6:.2f}" for size in memory.values())))
    components = next(iter(rows.values()))["costs"]["memory"]
    texts = [side_by_side(header, lines), "", side_by_side(("MB of a step", *components), parts), ""]
    texts += [f"{'held' if so else 'NOT held'}: {claim}" for claim, so in held.items()]
    return "\n".join(texts)


def _paper_cells(paper: Paper) -> list[str]:
    best = "" if paper.best is None else f"{paper.best:.1f}"
    return [f"{paper.memory:.1f}", f"{paper.throughput:.1f}", f"{paper.equal:.1f}", best]
