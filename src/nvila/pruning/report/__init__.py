"""Looking at scores: one page that needs nothing else, and a picture of the same for terminals.

Read data.py (what is read of the scores), kinds.py (Figure 4's kinds), numbers.py (what a ratio removes, how criteria
agree), examples.py (samples with their pictures), charts.py and page.py (the page), picture.py (the PNG), run.py.
"""

from __future__ import annotations

from nvila.pruning.report.run import ReportOptions, write_report

__all__ = ["ReportOptions", "write_report"]
