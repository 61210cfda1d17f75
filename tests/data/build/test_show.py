"""Showing a data set: everything of a sample is on the page, nothing of it is markup, broken samples are shown too."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nvila.data.build.show import SHEET_COLUMNS, SHEET_SIDE, show_data, spread
from nvila.errors import ConfigError

COLOURS = [(200, 30, 30), (30, 160, 40), (40, 60, 200)]


class Reader(HTMLParser):
    """The visible texts, the pictures and all tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.pictures: list[Image.Image] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "img":
            data = str(dict(attrs)["src"]).partition("base64,")[2]
            self.pictures.append(Image.open(io.BytesIO(base64.b64decode(data))))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three pictures, a folder of frames, a record whose picture is missing, and one that is no record."""
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (400, 200), colour).save(tmp_path / f"{number}.png")
    (tmp_path / "clip").mkdir()
    for number in range(4):
        Image.new("RGB", (64, 48), (60 * number,) * 3).save(tmp_path / "clip" / f"{number}.png")
    records: list[dict[str, object]] = [
        {"id": f"p{number}", "image": f"{number}.png", "source": "paint", "conversations": _turns(number)}
        for number in range(3)
    ]
    records.append({"id": "clip", "video": "clip", "conversations": _turns(3)})
    records.append({"id": "gone", "image": "gone.png", "conversations": _turns(4)})
    records.append({"nothing": 1})
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records))
    return path


def _turns(number: int) -> list[dict[str, str]]:
    return [
        {"from": "human", "value": f"<script>alert({number})</script> & what?"},
        {"from": "gpt", "value": f"answer {number}"},
        {"from": "human", "value": "and then?"},
        {"from": "gpt", "value": f"second {number}"},
    ]


def test_the_page_shows_all_turns_and_pictures_and_runs_nothing(data: Path, tmp_path: Path) -> None:
    sheet, page = show_data(str(data), tmp_path / "out")
    assert (sheet.name, page.name) == ("sheet.png", "index.html")
    text = page.read_text(encoding="utf-8")
    reader = Reader(text)
    assert reader.tags <= {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "main",
        "article",
        "h2",
        "div",
        "img",
        "p",
    }
    assert not re.search(r"https?://", text), "the page needs nothing else"
    for number in range(4):
        assert any(f"<script>alert({number})</script> & what?" in shown for shown in reader.texts)
        assert {f"answer {number}", f"second {number}"} <= set(reader.texts)
    assert any("paint" in shown for shown in reader.texts)
    assert any("gone.png: no such file" in shown for shown in reader.texts)
    assert any("fits no format" in shown for shown in reader.texts)
    still = [picture for picture in reader.pictures if picture.size == (336, 168)]
    assert [tuple(np.asarray(picture)[50, 50].tolist()) for picture in still] == [
        pytest.approx(colour, abs=6) for colour in COLOURS
    ]
    assert len(reader.pictures) == 3 + 6, "six frames stand for a clip"


def test_the_sheet_shows_each_picture_in_its_cell(data: Path, tmp_path: Path) -> None:
    (written,) = show_data(str(data), tmp_path / "sheet.png", num=6)
    sheet = np.asarray(Image.open(written))
    for number, colour in enumerate(COLOURS):
        x = number % SHEET_COLUMNS * (SHEET_SIDE + 6) + SHEET_SIDE // 2
        assert tuple(sheet[50, x].tolist()) == pytest.approx(colour, abs=2)


def test_samples_are_spread_over_the_whole_set() -> None:
    assert spread(5, 48, 0) == [0, 1, 2, 3, 4]
    chosen = spread(1000, 10, 0)
    assert [index // 100 for index in chosen] == list(range(10))
    assert spread(1000, 10, 0) == chosen != spread(1000, 10, 1)
    assert len(set(spread(7, 5, 3))) == 5


def test_another_ending_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.jpg; give a \.png or \.html"):
        show_data(str(data), tmp_path / "sheet.jpg")
