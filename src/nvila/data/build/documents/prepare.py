"""Turning unpacked packages into material: small PDFs of the chosen pages, their lines, and an index by unit.

`pdf/NNNN.pdf` holds the chosen pages of one source file, `pages.jsonl` one page a line, and `index.json` the units
(each a list of byte offsets into `pages.jsonl`), their licences, and how many pages were refused for which reason.
A unit is a documentation folder; folders that share much of their text (a package and its successor) are one unit,
so that no split can leak into another.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nvila.data.build.documents.extract import PageText, read_page
from nvila.data.build.documents.layout import Line
from nvila.errors import DataError

PAGES_PER_UNIT = 24
SHARED_TEXT = 0.1
"""Units that share more than this share of the smaller one's long lines are one unit."""
_LONG_LINE = 40
_DOC_ROOT = "texlive-doc"


def prepare(fetched: Path, dest: Path, packages: Sequence[str]) -> None:
    """Write the material of all PDFs under `fetched / package` into the empty folder `dest`.

    Raises DataError when a package's folder is missing or no page can be used.
    """
    folders = _units(fetched, packages)
    licences = {name: text for package in packages for name, text in _licences(fetched / package).items()}
    (dest / "pdf").mkdir()
    counts: Counter[str] = Counter()
    pages: list[dict[str, Any]] = []
    for unit, files in sorted(folders.items()):
        licence = licences.get(unit.rsplit("/", 1)[-1], "see the package's copyright file")
        for record in _read_unit(files, dest / "pdf", counts):
            pages.append({"unit": unit, "licence": licence, **record})
    if not pages:
        raise DataError(f"{fetched}: no usable PDF page in {', '.join(packages)} ({dict(counts)}); fetch them again")
    _write(dest, pages, merge_units(pages), counts)


def _units(fetched: Path, packages: Sequence[str]) -> dict[str, list[Path]]:
    """The PDFs of every documentation folder, by `kind/name`."""
    units: dict[str, list[Path]] = {}
    for package in packages:
        root = fetched / package
        if not root.is_dir():
            raise DataError(f"{root}: the package is not there; run nvila data fetch")
        for path in sorted(root.rglob("*.pdf")):
            parts = path.relative_to(root).parts
            start = parts.index(_DOC_ROOT) + 1 if _DOC_ROOT in parts else len(parts) - 2
            units.setdefault("/".join(parts[max(0, start) : start + 2]), []).append(path)
    return units


def _licences(root: Path) -> dict[str, str]:
    """TeX package name -> licence, from the list that the Debian package carries."""
    found: dict[str, str] = {}
    for path in root.rglob("Licenses.gz"):
        for line in gzip.decompress(path.read_bytes()).decode("utf-8", "replace").splitlines():
            name, colon, licence = line.partition(": ")
            if colon and "/" not in name:
                found[name] = licence.strip()
    return found


def _read_unit(files: Sequence[Path], dest: Path, counts: Counter[str]) -> Iterator[dict[str, Any]]:
    import pypdfium2 as pdfium

    share = max(2, PAGES_PER_UNIT // len(files))
    budget = PAGES_PER_UNIT
    for path in files:
        if budget <= 0:
            return
        try:
            document = pdfium.PdfDocument(path)
        except pdfium.PdfiumError:
            counts["unreadable file"] += 1
            continue
        records = list(_read_document(document, min(share, budget), counts))
        if records:
            name = f"{len(list(dest.iterdir())):04d}.pdf"
            _save_pages(document, [record["page"] for record in records], dest / name)
            yield from ({**record, "pdf": name, "page": place} for place, record in enumerate(records))
        budget -= len(records)
        document.close()


def _read_document(document: Any, most: int, counts: Counter[str]) -> Iterator[dict[str, Any]]:
    """Up to `most` usable pages, evenly spread."""
    total = len(document)
    chosen = sorted({round(step * (total - 1) / max(1, most - 1)) for step in range(most)}) if total > 1 else [0]
    read: dict[int, PageText] = {}
    for index in chosen:
        page = document[index]
        text = read_page(page)
        page.close()
        counts["used" if isinstance(text, PageText) else text] += 1
        if isinstance(text, PageText):
            read[index] = text
    numbers = printed_numbers(read)
    for index, text in read.items():
        yield {"page": index, "size": text.size, "number": numbers.get(index), "lines": _pack(text.lines)}


def printed_numbers(pages: dict[int, PageText]) -> dict[int, str]:
    """The printed page number of every page where it is sure.

    Sure is: a line of digits alone in the top or bottom eighth, whose distance to the page's index is the same on at
    least three pages and on most of the pages that have such a line.
    """
    candidates = {index: _margin_numbers(text) for index, text in pages.items()}
    shifts = Counter(value - index for index, values in candidates.items() for value in values)
    if not shifts:
        return {}
    shift, votes = shifts.most_common(1)[0]
    having = sum(bool(values) for values in candidates.values())
    if votes < 3 or votes < 0.6 * having:
        return {}
    return {index: str(index + shift) for index, values in candidates.items() if values == [index + shift]}


def _margin_numbers(text: PageText) -> list[int]:
    height = text.size[1]
    margins = (line for line in text.lines if line.box[3] < height / 8 or line.box[1] > height * 7 / 8)
    return [int(line.text) for line in margins if line.text.isdecimal() and len(line.text) <= 3]


def _pack(lines: Sequence[Line]) -> list[Any]:
    return [[line.size, int(line.sane), [[word.text, *word.box] for word in line.words]] for line in lines]


def _save_pages(document: Any, indices: list[int], path: Path) -> None:
    import pypdfium2 as pdfium

    chosen = pdfium.PdfDocument.new()
    chosen.import_pages(document, indices)
    chosen.save(path)
    chosen.close()


def merge_units(pages: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Unit -> the unit that stands for it: the first by name of those that share more than `SHARED_TEXT`."""
    texts: dict[str, set[str]] = {}
    for page in pages:
        lines = (" ".join(word[0] for word in words) for _, _, words in page["lines"])
        texts.setdefault(page["unit"], set()).update(line for line in lines if len(line) >= _LONG_LINE)
    stands = {unit: unit for unit in texts}

    def head(unit: str) -> str:
        while stands[unit] != unit:
            unit = stands[unit]
        return unit

    names = sorted(texts)
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            shared = len(texts[first] & texts[second])
            if shared > SHARED_TEXT * max(1, min(len(texts[first]), len(texts[second]))):
                low, high = sorted((head(first), head(second)))
                stands[high] = low
    return {unit: head(unit) for unit in names}


def _write(dest: Path, pages: Sequence[dict[str, Any]], heads: dict[str, str], counts: Counter[str]) -> None:
    offsets: dict[str, list[int]] = {}
    with (dest / "pages.jsonl").open("wb") as file:
        for page in pages:
            offsets.setdefault(heads[page["unit"]], []).append(file.tell())
            file.write(json.dumps(page, ensure_ascii=False, separators=(",", ":")).encode("utf-8") + b"\n")
    index = {"units": dict(sorted(offsets.items())), "counts": dict(sorted(counts.items()))}
    (dest / "index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
