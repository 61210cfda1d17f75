"""The report from scores to files: what stands in it, that it needs nothing else, and that data stay data."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("duckdb", reason="reports need duckdb")
pytest.importorskip("matplotlib", reason="reports need matplotlib")

from tests.pruning.select_helpers import Row, row, write_scores

from nvila.errors import ConfigError, DataError
from nvila.pruning.report import ReportOptions, write_report
from nvila.pruning.scores import ScoredSource

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u202e\x00\x1b[31m $\\frac{"


class Elements(HTMLParser):
    """Every element of a page with its attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def write_data(folder: Path, answers: Sequence[str], *, question: str = "What?", picture: bool = True) -> str:
    """A LLaVA-style file of samples q0, q1, ... with one picture for all."""
    folder.mkdir(parents=True)
    Image.new("RGB", (640, 480), (200, 30, 30)).save(folder / "red.png")
    records: list[dict[str, Any]] = []
    for number, answer in enumerate(answers):
        turns = [{"from": "human", "value": f"<image>\n{question}" if picture else question}]
        turns.append({"from": "gpt", "value": answer})
        records.append({"id": f"q{number}", "conversations": turns, **({"image": "red.png"} if picture else {})})
    (folder / "data.json").write_text(json.dumps(records))
    return str(folder / "data.json")


def rows_of(source: str, losses: Sequence[tuple[float, float]]) -> list[Row]:
    """Rows of one-token answers with the losses of the large and the small model."""
    return [
        {**row(f"q{number}", source, small - large), "log_p_large": -large, "log_p_small": -small}
        for number, (large, small) in enumerate(losses)
    ]


def report(tmp_path: Path, source: str = "shop", **options: Any) -> tuple[str, Path]:
    """The page of three samples, one of each kind of Figure 4, and the folder of scores."""
    data = write_data(tmp_path / "data", ["Snowy", "D", "Hat over heart"])
    rows = rows_of(source, [(0.01, 0.04), (3.0, 1.1), (0.3, 4.4)])
    rows.append({**row("lost", source, None, status="broken_media"), "num_tokens": 0})
    root = write_scores(tmp_path / "s", rows, sources=[ScoredSource(name=source, path=data, num_samples=4)])
    write_report(root, tmp_path / "report.html", ReportOptions(**options))
    return (tmp_path / "report.html").read_text(encoding="utf-8"), root


def test_the_three_kinds_of_figure_4_are_shown_with_picture_answer_and_losses(tmp_path: Path) -> None:
    page, _ = report(tmp_path)
    cards = re.findall(r'<article class="key-(\w+)">(.*?)</article>', page, re.DOTALL)
    assert [kind for kind, _ in cards] == ["helpful", "easy", "distracting"]
    for (_, card), answer, numbers in zip(
        cards,
        ("Hat over heart", "Snowy", "D"),
        (("0.3", "4.4", "4.1"), ("0.01", "0.04", "0.03"), ("3", "1.1", "-1.9")),
        strict=True,
    ):
        assert f">{answer}</p>" in card
        assert tuple(re.findall(r"<dd>(.*?)</dd>", card)) == numbers
        assert card.count('src="data:image/jpeg;base64,') == 1
    assert "broken_media" in page


def test_the_page_needs_nothing_else_and_holds_no_script(tmp_path: Path) -> None:
    page, _ = report(tmp_path)
    elements = Elements(page).found
    assert not [tag for tag, _ in elements if tag in ("script", "link", "iframe", "object", "embed", "base", "form")]
    addresses = [value for _, attrs in elements for name, value in attrs.items() if name in ("src", "href", "srcset")]
    assert addresses
    assert all(value is not None and value.startswith("data:image/jpeg;base64,") for value in addresses)
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page
    assert "prefers-color-scheme:dark" in page


def test_texts_of_the_data_stay_texts(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", [HOSTILE, HOSTILE], question=HOSTILE, picture=False)
    rows = [{**one, "status": "ok"} for one in rows_of(HOSTILE.replace("\x00", ""), [(0.3, 4.4), (3.0, 1.0)])]
    rows.append(row("x", HOSTILE.replace("\x00", ""), None, status="<b>odd</b>"))
    source = ScoredSource(name=HOSTILE.replace("\x00", ""), path=data, num_samples=3)
    root = write_scores(tmp_path / "s", rows, sources=[source])
    write_report(root, tmp_path / "report.html", ReportOptions())
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    elements = Elements(page)
    assert {tag for tag, _ in elements.found}.isdisjoint({"script", "iframe", "i"})
    assert not [attrs for _, attrs in elements.found if any(name.startswith("on") for name in attrs)]
    assert "<script>alert(1)</script>" in elements.text
    assert "<b>odd</b>" in elements.text
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_the_picture_is_a_png_of_the_same(tmp_path: Path) -> None:
    _, root = report(tmp_path)
    picture = Image.open(io.BytesIO((tmp_path / "report.png").read_bytes()))
    assert picture.format == "PNG"
    assert picture.width >= 1000
    assert {path.name for path in tmp_path.iterdir()} == {"data", "s", "report.html", "report.png"}
    assert root.exists()


def test_criteria_are_compared_and_another_can_lead(tmp_path: Path) -> None:
    _, root = report(tmp_path)
    source = [ScoredSource(name="shop", path="x", num_samples=3)]
    others = [row(f"q{number}", "shop", float(number)) for number in range(3)]
    write_scores(root, others, criterion="random", sources=source)
    write_report(root, tmp_path / "both.html", ReportOptions(method="random", num_examples=0))
    page = (tmp_path / "both.html").read_text(encoding="utf-8")
    assert 'ranked by <span class="data" dir="auto">random</span>' in page
    assert page.count('class="shade"') == 3 * 5
    assert "<article" not in page
    with pytest.raises(ConfigError, match=r"no scores by 'rnadom'.*did you mean 'random'"):
        write_report(root, tmp_path / "none.html", ReportOptions(method="rnadom"))


def test_scores_without_deltaloss_are_shown_without_kinds(tmp_path: Path) -> None:
    root = write_scores(tmp_path / "s", [row(f"{n}", "a", float(n)) for n in range(4)], criterion="random")
    write_report(root, tmp_path / "report.html", ReportOptions())
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Scores of each source" in page
    assert "Helpful" not in page


def test_data_that_are_gone_leave_their_reason(tmp_path: Path) -> None:
    rows = rows_of("gone", [(0.3, 4.4)])
    root = write_scores(tmp_path / "s", rows, num_parts=1)
    write_report(root, tmp_path / "report.html", ReportOptions())
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.search(r'class="problem">[^<]*gone\.jsonl', page)


def test_a_damaged_picture_leaves_its_reason_beside_the_answer(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", ["yes"])
    (tmp_path / "data" / "red.png").write_bytes(b"no picture")
    source = ScoredSource(name="a", path=data, num_samples=1)
    root = write_scores(tmp_path / "s", rows_of("a", [(0.3, 4.4)]), num_parts=1, sources=[source])
    write_report(root, tmp_path / "report.html", ReportOptions())
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert ">yes</p>" in page
    assert re.search(r'class="problem">[^<]*red\.png', page)


def test_large_sets_are_looked_at_through_some_and_the_page_says_so(tmp_path: Path) -> None:
    rows = [row(f"{number:04d}", "a", float(number)) for number in range(1000)]
    root = write_scores(tmp_path / "s", rows)
    write_report(root, tmp_path / "report.html", ReportOptions(most_samples=100, num_examples=0))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    shown = re.search(r"Charts show (\d+) of them", page)
    assert shown is not None
    assert 40 < int(shown[1]) < 200
    assert "1,000 samples of 1 sources" in page


def test_unfinished_scores_are_shown_and_said_to_be(tmp_path: Path) -> None:
    root = write_scores(tmp_path / "s", [row("x"), row("y")], complete=False)
    write_report(root, tmp_path / "report.html", ReportOptions(num_examples=0))
    assert "not complete yet" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_errors_name_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nvila prune score"):
        write_report(tmp_path, tmp_path / "report.html", ReportOptions())
    with pytest.raises(ConfigError, match=r"ends in \.html"):
        write_report(tmp_path, tmp_path / "report.pdf", ReportOptions())
    for wrong in ({"num_examples": -1}, {"most_samples": 0}):
        with pytest.raises(ConfigError, match="give"):
            ReportOptions(**wrong)
