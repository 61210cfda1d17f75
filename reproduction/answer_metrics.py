"""Which metric scores the answers of which column."""

from __future__ import annotations

from collections.abc import Mapping

from nvila.eval.metrics import Metric, accepted, anls, relaxed

METRICS: Mapping[str, Metric] = {
    "natural": accepted,
    "charts": relaxed,
    "text": anls,
    "short": accepted,
    "medium": accepted,
    "long": accepted,
}
"""Of each column of the two tables."""
