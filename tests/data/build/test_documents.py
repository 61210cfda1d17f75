"""The family `documents` on tiny PDFs written by hand: what is asked must agree with what was written into them."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.data.build.reading import draw, image_of, text_of

from nvila.errors import DataError
from nvila.types import Sample

pytest.importorskip("pypdfium2")

from nvila.data.build.documents import FAMILY, PageMaterial
from nvila.data.build.documents.extract import PageText
from nvila.data.build.documents.layout import Line, Word
from nvila.data.build.documents.prepare import merge_units, prepare, printed_numbers

WIDTH, HEIGHT = 612, 792
Placed = tuple[float, float, float, str]
"""Left, baseline (y upwards), font size, text."""


def write_pdf(path: Path, pages: list[list[Placed]], *, white: bool = False, rotate: int = 0) -> None:
    """A PDF of Helvetica lines, byte by byte."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    objects.append("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>")
    kids = []
    for lines in pages:
        shown = (f"BT /F1 {size} Tf {x} {y} Td ({_escaped(text)}) Tj ET" for x, y, size, text in lines)
        stream = ("1 1 1 rg\n" if white else "") + "\n".join(shown)
        kids.append(f"{len(objects) + 1} 0 R")
        box = f"/MediaBox [0 0 {WIDTH} {HEIGHT}] /Rotate {rotate}"
        resources = "/Resources << /Font << /F1 3 0 R >> >>"
        objects.append(f"<< /Type /Page /Parent 2 0 R {box} {resources} /Contents {len(objects) + 2} 0 R >>")
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    content, offsets = "%PDF-1.4\n", []
    for place, text in enumerate(objects, 1):
        offsets.append(len(content))
        content += f"{place} 0 obj\n{text}\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    trailer = f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{len(content)}\n%%EOF\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((content + f"xref\n0 {size}\n0000000000 65535 f \n{table}" + trailer).encode("latin-1"))


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")


def _word(rng: np.random.Generator, unit: str) -> str:
    return unit + "".join("abdegiklmnoprstu"[int(letter)] for letter in rng.integers(16, size=int(rng.integers(3, 8))))


def make_pages(seed: int, unit: str, count: int = 4) -> list[list[Placed]]:
    """Pages of a heading, a contents list, body lines of the unit's own words, a "Key: value" line, and a number."""
    rng = np.random.default_rng(seed)
    pages: list[list[Placed]] = []
    for page in range(count):
        lines: list[Placed] = [(72, 700, 20, f"{_word(rng, unit).capitalize()} {_word(rng, unit)}")]
        for entry in range(4):
            dots = ". " * int(rng.integers(12, 30))
            lines.append(
                (72, 670 - 14 * entry, 11, f"{entry + 1}.{page} {_word(rng, unit)} {dots}{11 + 7 * entry + page}")
            )
        lines.append((72, 590, 11, f"Keeper {unit}: {_word(rng, unit)} {_word(rng, unit)}"))
        for row in range(20):
            words = " ".join(_word(rng, unit) for _ in range(6))
            lines.append((72, 560 - 14 * row, 11, f"{words}."))
        lines.append((300, 40, 11, str(31 + page)))
        pages.append(lines)
    return pages


UNITS = ("ab", "ce", "di", "fo", "gu", "ha")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Material prepared from six folders, and the truth by folder."""
    root = tmp_path_factory.mktemp("documents")
    truth = {f"latex/{unit}": make_pages(place, unit) for place, unit in enumerate(UNITS)}
    for unit, pages in truth.items():
        write_pdf(root / "fetched/docs/usr/share/doc/texlive-doc" / unit / "manual.pdf", pages)
    (root / "material").mkdir()
    prepare(root / "fetched", root / "material", ["docs"])
    return SimpleNamespace(material=PageMaterial(root / "material"), truth=truth)


def _turns(sample: Sample) -> list[tuple[str, str]]:
    questions, answers = sample.messages[::2], sample.messages[1::2]
    return [(text_of(asked), text_of(told)) for asked, told in zip(questions, answers, strict=True)]


def _in_pixels(sample: Sample, x: float, y: float) -> tuple[float, float]:
    """A point of the PDF (y upwards) in pixels of the sample's picture."""
    width, height = sample.meta["page_pixels"]
    left, top, _, _ = sample.meta["window"]
    return x / WIDTH * width - left, (HEIGHT - y) / HEIGHT * height - top


def _lines_in(sample: Sample, lines: list[Placed], box: tuple[float, ...]) -> list[str]:
    """The lines whose first letter's foot lies in a pixel box, from top to bottom."""
    found = []
    for x, y, size, text in lines:
        across, down = _in_pixels(sample, x + size * 0.3, y + size * 0.25)
        if box[0] - 1 <= across <= box[2] + 1 and box[1] - 1 <= down <= box[3] + 1:
            found.append(text)
    return found


def _pixel_box(sample: Sample, text: str) -> tuple[float, ...]:
    found = re.search(r"\[(\d+), (\d+), (\d+), (\d+)\]", text)
    assert found, text
    height, width, _ = image_of(sample).shape
    sides = (width, height, width, height)
    return tuple(int(part) / 1000 * side for part, side in zip(found.groups(), sides, strict=True))


def _quoted(question: str) -> str:
    found = re.search(r'"(.+?)(?: \.\.\.|:)?"', question)
    assert found, question
    return found[1]


def _check(sample: Sample, lines: list[Placed], kind: str, question: str, answer: str) -> None:
    texts = [text for *_, text in lines]
    split = [text.split() for text in texts]
    if kind == "read_box":
        assert " ".join(_lines_in(sample, lines, _pixel_box(sample, question))) == answer
    elif kind in ("read_marked", "count_lines"):
        found = [_lines_in(sample, lines, item.box) for item in sample.objects]
        wanted = [" ".join(each) if kind == "read_marked" else str(len(each)) for each in found]
        assert answer in wanted
    elif kind in ("next_word", "previous_word"):
        step = 1 if kind == "next_word" else -1
        word = _quoted(question)
        ((row, place),) = [(row, row.index(word)) for row in split if word in row]
        assert row[place + step].rstrip(".:") == answer
    elif kind in ("first_word", "last_word"):
        (line,) = _lines_in(sample, lines, _pixel_box(sample, question))
        assert line.split()[0 if kind == "first_word" else -1].rstrip(".:") == answer
    elif kind == "next_line":
        (place,) = [place for place, text in enumerate(texts) if text.startswith(_quoted(question))]
        assert texts[place + 1] == answer
    elif kind == "find":
        phrase = _quoted(question)
        (line,) = [line for line in lines if phrase in line[3]]
        box = _pixel_box(sample, answer)
        middle = _in_pixels(sample, line[0], line[1] + line[2] * 0.25)[1]
        assert box[1] <= middle <= box[3]
        assert (box[0] <= _in_pixels(sample, line[0], 0)[0] + 3) == line[3].startswith(phrase)
    elif kind == "heading":
        assert answer == texts[0]
    elif kind == "page_number":
        assert answer == texts[-1]
    elif kind == "mention":
        assert answer == ("yes" if any(_quoted(question) in text for text in texts) else "no")
    elif kind == "contents":
        _check_contents(texts, question, answer)
    else:
        assert kind == "key_value"
        assert f"{_quoted(question)}: {answer}" in texts


def _check_contents(texts: list[str], question: str, answer: str) -> None:
    entries = [re.sub(r"[. ]{6,}", "|", text).split("|") for text in texts if " . . . . " in text]
    for heading, page in entries:
        section, title = heading.split(" ", 1)
        if f'"{title}"' in question:
            assert answer in (page, section)
            assert (answer == section) == (("number" in question and "page" not in question) or "section" in question)
            return
        if re.search(rf"\b{page}\b", question):
            assert answer == title
            return
    raise AssertionError(question)


def test_answers_agree_with_what_was_written(written: SimpleNamespace) -> None:
    seen: set[str] = set()
    for seed in range(110):
        sample = draw(written.material, seed)
        lines = written.truth[sample.meta["unit"]][sample.meta["page"]]
        turns = _turns(sample)
        assert 2 <= len(turns) <= 5
        for kind, (question, answer) in zip(sample.meta["kinds"], turns, strict=True):
            _check(sample, lines, kind, question, answer)
            seen.add(kind)
    assert len(seen) == 14


def test_boxes_lie_on_ink_and_pictures_have_a_sensible_size(written: SimpleNamespace) -> None:
    for seed in range(60):
        sample = draw(written.material, seed)
        pixels = image_of(sample)
        assert min(pixels.shape[:2]) >= 112
        assert max(pixels.shape[:2]) <= 1344
        for item in sample.objects:
            left, top, right, bottom = (round(side) for side in item.box)
            patch = pixels[max(0, top) : bottom, max(0, left) : right]
            assert int(patch.max()) - int(patch.min()) > 80, item


def test_the_same_seed_gives_the_same_picture_and_text(written: SimpleNamespace) -> None:
    for seed in range(8):
        first, second = draw(written.material, seed), draw(written.material, seed)
        assert _turns(first) == _turns(second)
        assert np.array_equal(image_of(first), image_of(second))


def test_words_that_are_not_there_come_from_the_same_side_only(written: SimpleNamespace) -> None:
    units = written.material.units
    side, absent = units[:2], 0
    for seed in range(120):
        sample = written.material.make(np.random.default_rng(seed), side[seed % 2], side)
        for kind, (question, answer) in zip(sample.meta["kinds"], _turns(sample), strict=True):
            if kind == "mention" and answer == "no":
                absent += 1
                assert _quoted(question).lower().startswith((UNITS[0], UNITS[1], "keeper"))
    assert absent > 5


def test_every_unit_has_one_side() -> None:
    sides = {unit: FAMILY.side(unit) for unit in (f"latex/package{place}" for place in range(400))}
    assert 15 < sum(side == "heldout" for side in sides.values()) < 75
    assert all(FAMILY.side(unit) == side for unit, side in sides.items())


def _page(unit: str, texts: list[str]) -> dict[str, object]:
    return {"unit": unit, "lines": [[10, 1, [[text, 0, 0, 1, 1]]] for text in texts]}


def test_folders_that_share_text_are_one_unit() -> None:
    long = [f"{place} a line that is long enough to be counted as text" for place in range(10)]
    other = [f"{place} quite another line that nobody else has in a document" for place in range(10)]
    pages = [_page("b/new", long[:6]), _page("a/old", long[4:]), _page("c/alone", other)]
    assert merge_units(pages) == {"a/old": "a/old", "b/new": "a/old", "c/alone": "c/alone"}


def test_unusable_pages_are_refused_and_counted(tmp_path: Path) -> None:
    root = tmp_path / "fetched/docs/texlive-doc/latex/odd"
    pages = make_pages(0, "ab", 1)
    write_pdf(root / "good.pdf", pages)
    write_pdf(root / "hidden.pdf", pages, white=True)
    write_pdf(root / "turned.pdf", pages, rotate=90)
    write_pdf(root / "empty.pdf", [[(72, 700, 11, "little")]])
    (root / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    dest = tmp_path / "material"
    dest.mkdir()
    prepare(tmp_path / "fetched", dest, ["docs"])
    index = (dest / "index.json").read_text()
    for reason in ("used", "no ink", "rotated", "too little text", "unreadable file"):
        assert f'"{reason}": 1' in index


def test_a_page_number_is_only_believed_when_it_counts_on() -> None:
    def page(number: str) -> PageText:
        return PageText((600, 800), (Line((Word(number, (300, 770, 310, 780)),), 10),))

    assert printed_numbers({0: page("5"), 1: page("6"), 4: page("9")}) == {0: "5", 1: "6", 4: "9"}
    assert printed_numbers({0: page("5"), 1: page("9"), 4: page("2")}) == {}


def test_missing_material_and_packages_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"index\.json"):
        FAMILY.open(tmp_path)
    with pytest.raises(DataError, match="texlive-latex-recommended-doc"):
        FAMILY.prepare(tmp_path, tmp_path)
