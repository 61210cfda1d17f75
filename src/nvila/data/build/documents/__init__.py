"""The family `documents`: real pages of free LaTeX documentation with questions whose answers are in the text layer.

Units are documentation folders. A sample shows a whole page or a part of one (224-1344 px) and asks two to five
questions: reading a region given as a box or drawn as a rectangle, words beside words, lines below lines, headings,
page numbers, tables of contents, "key: value" lines, where a phrase is, and whether a word occurs. Boxes are
[x1, y1, x2, y2] in thousandths of the picture. Figures, formulas and what pdfium cannot map to Latin-1 are left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from nvila.data.build.documents.layout import Line, Word
from nvila.data.build.documents.prepare import prepare
from nvila.data.build.documents.questions import MAKERS, mention_absent
from nvila.data.build.documents.view import View, choose_window, draw_window, see
from nvila.data.build.family import Material, Package, one_in_ten
from nvila.data.corpus.canvas import Turn, chance, make_sample, number, pick
from nvila.data.corpus.splits import Split
from nvila.errors import DataError
from nvila.types import LabelledBox, Sample

_TEX_LICENCE = "free, per document (mostly LPPL, GPL, public domain; Licenses.gz of the package)"
_MAX_TURNS = 5
_MAX_TRIES = 50
_MARKING = ("read_marked", "count_lines")


class PageMaterial:
    """Prepared pages. Keeps the last few PDFs open."""

    def __init__(self, folder: Path) -> None:
        index = folder / "index.json"
        if not index.is_file():
            raise DataError(f"{index}: missing; prepare the documents with nvila data build")
        self._folder = folder
        self._offsets: dict[str, list[int]] = json.loads(index.read_text(encoding="utf-8"))["units"]
        self._pages = (folder / "pages.jsonl").open("rb")
        self.units: Sequence[str] = tuple(sorted(self._offsets))
        self._document = lru_cache(maxsize=4)(self._open_document)

    def _open_document(self, name: str) -> Any:
        import pypdfium2 as pdfium

        return pdfium.PdfDocument(self._folder / "pdf" / name)

    def read_page(self, rng: np.random.Generator, unit: str) -> dict[str, Any]:
        """The record of a random page of `unit`."""
        self._pages.seek(pick(rng, self._offsets[unit]))
        record: dict[str, Any] = json.loads(self._pages.readline())
        return record

    def make(self, rng: np.random.Generator, unit: str, same_side: Sequence[str]) -> Sample:
        """A page or a part of one, with two to five questions; words that do not occur come from `same_side`."""
        for _ in range(_MAX_TRIES):
            record = self.read_page(rng, unit)
            lines = unpack_lines(record["lines"])
            size = (record["size"][0], record["size"][1])
            page = self._document(record["pdf"])[record["page"]]
            window = choose_window(rng, size, lines)
            view = see(draw_window(rng, page, window), window, lines, size, record["number"])
            page.close()
            absent = unpack_lines(self.read_page(rng, pick(rng, same_side))["lines"])
            turns, kinds, boxes = ask(rng, view, lines, absent)
            if len(turns) >= 2:
                break
        else:
            raise DataError(f"{self._folder}: {unit!r} gave no two questions in {_MAX_TRIES} tries; prepare it again")
        shown = {"document": record["unit"], "pdf": record["pdf"], "page": record["page"], "licence": record["licence"]}
        place = {"page_pixels": window.page, "window": window.box}
        meta = {"unit": unit, "kinds": kinds, **shown, **place}
        return make_sample(view.image, *turns, task="documents", objects=boxes, **meta)


def unpack_lines(packed: Sequence[Any]) -> list[Line]:
    """Lines as `prepare` stored them."""
    return [
        Line(
            tuple(Word(text, (left, top, right, bottom)) for text, left, top, right, bottom in words), size, bool(sane)
        )
        for size, sane, words in packed
    ]


def ask(
    rng: np.random.Generator, view: View, lines: Sequence[Line], elsewhere: Sequence[Line]
) -> tuple[list[Turn], list[str], list[LabelledBox]]:
    """Two to five questions of different kinds with the boxes they are about; fewer where the view has no more.

    `lines`: all of the page. `elsewhere`: lines of another page, for words that do not occur. At most one question
    draws a rectangle into the picture.
    """
    names = list(MAKERS)
    weights = np.array([MAKERS[name][1] for name in names])
    order = rng.choice(len(names), len(names), replace=False, p=weights / weights.sum())
    wanted = number(rng, 2, _MAX_TURNS)
    turns: list[Turn] = []
    kinds: list[str] = []
    boxes: list[LabelledBox] = []
    for name in (names[int(place)] for place in order):
        if len(turns) == wanted:
            break
        if name in _MARKING and any(kind in _MARKING for kind in kinds):
            continue
        if name == "mention" and chance(rng, 0.5):
            words = [word.text for line in elsewhere if line.sane for word in line.words]
            turn = mention_absent(rng, " ".join(line.text for line in lines), words)
            asked = (turn, list[LabelledBox]()) if turn else None
        else:
            asked = MAKERS[name][0](rng, view)
        told = [turn.answers[0] for turn in turns if len(turn.answers[0]) >= 6]
        if asked and (name in _MARKING or asked[0].answers[0] not in told):
            turns.append(asked[0])
            kinds.append(name)
            boxes += asked[1]
    return turns, kinds, boxes


@dataclass(frozen=True)
class Documents:
    """See the module's text."""

    name: str = "documents"
    packages: tuple[Package, ...] = (
        Package(name="texlive-latex-recommended-doc", origin="debian", licence=_TEX_LICENCE, megabytes=50.3),
        Package(name="texlive-latex-base-doc", origin="debian", licence=_TEX_LICENCE, megabytes=85.3),
        Package(name="texlive-humanities-doc", origin="debian", licence=_TEX_LICENCE, megabytes=27.1),
    )

    def prepare(self, fetched: Path, dest: Path) -> None:
        """Reads up to two dozen pages a folder. Raises DataError when a package is missing or nothing is usable."""
        prepare(fetched, dest, [package.name for package in self.packages])

    def open(self, material: Path) -> Material:
        """Opens prepared pages. Raises DataError when they are not there."""
        return PageMaterial(material)

    def side(self, unit: str) -> Split:
        """A tenth of the folders is held out."""
        return one_in_ten(self.name, unit)


FAMILY = Documents()
