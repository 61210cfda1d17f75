"""The rows of Table 3 at small scale: the paper's, ours by other criteria, and those of its second experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

PAPER_COLUMNS = ("MMMU", "DocVQA", "TextVQA", "IM-10")
CRITERIA: Mapping[str, str] = MappingProxyType(
    {
        "deltaloss": "DeltaLoss",
        "cluster": "Cluster",
        "random": "Random",
        "image_gain": "Image gain (ours)",
        "coverage": "Coverage (ours)",
    }
)
KEEPS = (0.5, 0.3, 0.1)
START, ALL = "start", "all"

_PAPER: Mapping[tuple[str, float], tuple[float, float, float, float]] = MappingProxyType(
    {
        ("deltaloss", 0.5): (48.1, 89.7, 78.4, 75.5),
        ("cluster", 0.5): (47.8, 88.3, 77.0, 74.5),
        ("random", 0.5): (47.6, 87.1, 76.6, 74.0),
        ("deltaloss", 0.3): (47.8, 87.9, 76.4, 74.0),
        ("cluster", 0.3): (47.7, 84.1, 76.0, 73.5),
        ("random", 0.3): (47.7, 82.9, 75.6, 73.1),
        ("deltaloss", 0.1): (47.1, 84.4, 74.5, 72.4),
        ("cluster", 0.1): (47.4, 79.6, 73.2, 72.2),
        ("random", 0.1): (47.0, 77.3, 72.6, 72.0),
    }
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: which part of what it trains on, for how long, and the paper's four scores where it has them."""

    label: str
    method: str = ""
    """The criterion that chooses; none trains on everything."""
    keep: float = 1.0
    """The share that is kept: of the corpus, or of the weak source where that is added."""
    budget: Literal["epochs", "steps"] = "epochs"
    """Whether the row sees its part as often as the baseline sees the corpus, or trains as many steps."""
    weak: bool = False
    """Whether the weak source joins the whole corpus."""
    paper: tuple[float, float, float, float] | None = None

    @property
    def is_chance(self) -> bool:
        """Whether the row has the seeds of chance: random ones, and the baselines that they are held against."""
        return self.method in ("", "random")


def _rows() -> dict[str, Row]:
    rows = {
        START: Row(label="Before the corpus"),
        ALL: Row(label="100 %", paper=(48.0, 90.1, 78.8, 75.6)),
    }
    for budget in ("epochs", "steps"):
        for keep in KEEPS:
            for method, label in CRITERIA.items():
                paper = _PAPER.get((method, keep)) if budget == "epochs" else None
                rows[row_name(budget, method, keep)] = Row(
                    label=f"{keep:.0%} {label}", method=method, keep=keep, budget=budget, paper=paper
                )
    rows["weak-raw"] = Row(label="100 % + weak, raw", weak=True)
    for method in ("deltaloss", "random"):
        rows[row_name("weak", method, 0.5)] = Row(
            label=f"100 % + weak, 50% {CRITERIA[method]}", method=method, keep=0.5, weak=True
        )
    return rows


def row_name(budget: str, method: str, keep: float) -> str:
    """Such as epochs-deltaloss-50."""
    return f"{budget}-{method}-{round(100 * keep)}"


ROWS: Mapping[str, Row] = MappingProxyType(_rows())
