"""Questions about a table drawn as a table: all its numbers are printed, so all are exact."""

from __future__ import annotations

import numpy as np

from nvila.data.build.tables.grid import GridDrawing
from nvila.data.build.tables.questions import PLACES, Maker, ask, extreme
from nvila.data.build.tables.values import Grid, as_written, decimals_for
from nvila.data.corpus.canvas import Turn, number, pick


class GridQuestions:
    """Cells, extremes of a column, sizes, headings, and two rows compared."""

    def __init__(self, rng: np.random.Generator, data: Grid, drawing: GridDrawing) -> None:
        self._rng, self._data, self._title = rng, data, drawing.title
        self._numeric = [place for place, is_number in enumerate(data.numeric) if is_number and place]
        self._keys = [row[0] for row in data.rows]

    def makers(self) -> dict[str, Maker]:
        """The kinds that fit the table, by name."""
        found: dict[str, Maker] = {
            "cell": self._cell,
            "most_in": lambda: self._by_size("most_in", True),
            "least_in": lambda: self._by_size("least_in", False),
            "with_cell": self._with_cell,
            "num_rows": lambda: ask(self._rng, "num_rows", str(len(self._keys))),
            "num_columns": lambda: ask(self._rng, "num_columns", str(len(self._data.header))),
            "header": self._header,
            "row_difference": self._difference,
            "row_above": self._above,
        }
        title = self._title
        return found | ({"title": lambda: ask(self._rng, "title", title)} if title else {})

    def _any_cell(self) -> tuple[int, int]:
        row = number(self._rng, 0, len(self._keys) - 1)
        return row, number(self._rng, 1, len(self._data.header) - 1)

    def _column(self) -> tuple[int, list[float]]:
        place = int(pick(self._rng, self._numeric))
        return place, [float(row[place]) for row in self._data.rows]

    def _cell(self) -> Turn | None:
        row, place = self._any_cell()
        slots = {"row": self._keys[row], "column": self._data.header[place]}
        return ask(self._rng, "cell", self._data.rows[row][place], **slots)

    def _by_size(self, kind: str, highest: bool) -> Turn | None:
        place, values = self._column()
        best = extreme(values, 0, highest)
        return None if best is None else ask(self._rng, kind, self._keys[best], column=self._data.header[place])

    def _with_cell(self) -> Turn | None:
        row, place = self._any_cell()
        cells = [each[place] for each in self._data.rows]
        if cells.count(cells[row]) > 1:
            return None
        return ask(self._rng, "with_cell", self._keys[row], column=self._data.header[place], label=cells[row])

    def _header(self) -> Turn | None:
        place = number(self._rng, 0, len(self._data.header) - 1)
        return ask(self._rng, "header", self._data.header[place], place=PLACES[place])

    def _difference(self) -> Turn | None:
        place, values = self._column()
        first, second = (int(row) for row in self._rng.permutation(len(self._keys))[:2])
        if values[first] == values[second]:
            return None
        decimals = max(len(self._data.rows[row][place].partition(".")[2]) for row in (first, second))
        answer = as_written(abs(values[first] - values[second]), decimals)
        slots = {"row": self._keys[first], "other": self._keys[second], "column": self._data.header[place]}
        return ask(self._rng, "row_difference", answer, **slots)

    def _above(self) -> Turn | None:
        place, values = self._column()
        limit = round((min(values) + max(values)) / 2, decimals_for(max(abs(value) for value in values)))
        if limit in values:
            return None
        count = str(sum(value > limit for value in values))
        return ask(self._rng, "row_above", count, column=self._data.header[place], number=f"{limit:g}")
