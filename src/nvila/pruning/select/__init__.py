"""Choosing samples by their scores: equation 1's union over sub-data-sets of the top K of each.

Read options.py (what is asked for), tables.py (the scores as a table on disk), cutoffs.py (the K-th score of each
source), lists.py (the keep-lists) and run.py (all together). Leaves out making scores and looking at them.
"""

from __future__ import annotations

from nvila.pruning.select.options import SelectOptions
from nvila.pruning.select.run import SelectedSource, Selection, select

__all__ = ["SelectOptions", "SelectedSource", "Selection", "select"]
