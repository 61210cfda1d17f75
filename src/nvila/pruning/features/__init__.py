"""Criteria that look at where samples lie among the others: cluster (the paper's baseline) and coverage.

Read options.py (what is asked for), towers.py and skills.py (features of a sample), store.py (features on disk),
clusters.py (k-means), draw.py (which sample of which cluster comes first) and criteria.py (all together).
"""

from __future__ import annotations

from nvila.pruning.features.criteria import FeatureReport, score_by_features
from nvila.pruning.features.options import CRITERIA, FeatureOptions

__all__ = ["CRITERIA", "FeatureOptions", "FeatureReport", "score_by_features"]
