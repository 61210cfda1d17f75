"""KGeography's maps turned into label pictures: every pixel belongs to a division, to water, or to something outside.

A map comes as a palette PNG and a .kgm file (XML) that names the colours. Border lines are given to the nearest
region, so that regions touch and their neighbours can be read off the pixels. For every region the index holds its
area, box, centroid, and an anchor: the pixel deepest inside, with its depth (city-block pixels). Leaves out the flags,
and one map ("waters_world-class") whose parts overlap in meaning.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nvila.errors import DataError

MAX_REGIONS = 255
SKIPPED_MAPS = frozenset({"waters_world-class"})
WITH_INSETS = re.compile(
    "^(chile|colombia|denmark_counties|ecuador|great-britain_counties|japan|portugal.*|spain.*|usa|world_continents)$"
)
"""Maps with parts drawn out of place, or with north not upwards: no question about directions."""
_LINE = re.compile(r"frontier|border|coast|line", re.IGNORECASE)
_WATER = re.compile(r"\b(water|sea|ocean|lake|lago|lac|gulf|bay|river|reservoir|lagoon)s?\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Region:
    """One colour of a map. `place`: division, water, outside, or line (which holds no pixels).

    `box` is (left, top, right, bottom), `anchor` and `centre` are (x, y), all in pixels of the label picture;
    `depth` is how far the anchor is from the nearest other region.
    """

    name: str
    capital: str
    place: str
    color: tuple[int, int, int]
    area: int
    box: tuple[int, int, int, int]
    centre: tuple[float, float]
    anchor: tuple[int, int]
    depth: int


@dataclass(frozen=True, kw_only=True)
class MapSheet:
    """One map: its unit name, the title of what it shows, what its divisions are called, and the regions by label."""

    unit: str
    title: str
    kinds: str
    has_capitals: bool
    has_north_up: bool
    size: tuple[int, int]
    regions: tuple[Region, ...]


def read_kgm(path: Path) -> tuple[ElementTree.Element, Path]:
    """The root of a .kgm file and its picture. Raises DataError for a file that is no such XML or lacks its PNG."""
    text = path.read_text(encoding="utf-8")
    if "<!ENTITY" in text:
        raise DataError(f"{path} defines XML entities, which a map never needs; fetch the package anew")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"{path} is no XML ({error}); fetch the package anew") from error
    picture = path.parent / (root.findtext("mapFile") or "")
    if not picture.is_file():
        raise DataError(f"{path} names the picture {picture.name!r}, which is not there; fetch the package anew")
    return root, picture


def convert_map(path: Path) -> tuple[MapSheet, NDArray[np.uint8]]:
    """The sheet of a .kgm file and its labels: (H, W) uint8, indices into `regions`."""
    root, picture = read_kgm(path)
    entries = [_entry(division) for division in root.findall("division")]
    if len(entries) > MAX_REGIONS:
        raise DataError(f"{path} has {len(entries)} divisions; at most {MAX_REGIONS} are handled")
    with Image.open(picture) as image:
        labels = _labels_of(np.asarray(image.convert("RGB")), [entry["color"] for entry in entries])
    places = [_place(entry["name"], entry["ignore"]) for entry in entries]
    filled = fill_lines(labels, [index for index, place in enumerate(places) if place == "line"])
    depth = depths(filled)
    regions = tuple(
        _region(entry, place, filled == index, depth)
        for index, (entry, place) in enumerate(zip(entries, places, strict=True))
    )
    sheet = MapSheet(
        unit=path.stem,
        title=clean_title(root.findtext("name") or path.stem),
        kinds=(root.findtext("divisionsName") or "Divisions").strip(),
        has_capitals=root.find("divisionToCapitalPattern") is None,
        has_north_up=WITH_INSETS.match(path.stem) is None,
        size=(filled.shape[1], filled.shape[0]),
        regions=regions,
    )
    return sheet, filled


def _entry(division: ElementTree.Element) -> dict[str, Any]:
    colour = division.find("color")
    assert colour is not None, "every division of the format has a colour"
    rgb = tuple(int(colour.findtext(channel) or 0) for channel in ("red", "green", "blue"))
    return {
        "name": re.sub(r"(\w)\(", r"\1 (", (division.findtext("name") or "").strip()),
        "capital": (division.findtext("capital") or "").strip(),
        "ignore": (division.findtext("ignore") or "").strip(),
        "color": rgb,
    }


def _place(name: str, ignore: str) -> str:
    """What an entry is; those that are not asked for by their capital are divisions all the same."""
    if ignore and _LINE.search(name):
        return "line"
    if ignore and _WATER.search(name):
        return "water"
    return "outside" if ignore == "yes" else "division"


def _labels_of(pixels_HW3: NDArray[np.uint8], colours: list[tuple[int, int, int]]) -> NDArray[np.int16]:
    """Indices of the listed colours, the nearest one for a colour that is not listed: (H, W) int16."""
    codes = pixels_HW3.astype(np.int32) @ np.asarray([65536, 256, 1], dtype=np.int32)
    present, inverse = np.unique(codes, return_inverse=True)
    listed = np.asarray(colours, dtype=np.int32)
    shown = np.stack([present >> 16, (present >> 8) & 255, present & 255], axis=-1)
    nearest = np.abs(shown[:, None, :] - listed[None]).sum(axis=-1).argmin(axis=1)
    return nearest[inverse].reshape(codes.shape).astype(np.int16)


def fill_lines(labels_HW: NDArray[np.int16], lines: list[int]) -> NDArray[np.uint8]:
    """Gives every pixel of a line to the region nearest to it, one ring of pixels a step."""
    filled = labels_HW.copy()
    filled[np.isin(labels_HW, lines)] = -1
    while (filled < 0).any():
        before = int((filled < 0).sum())
        for source, target in _shifts():
            gaining = (filled[target] < 0) & (filled[source] >= 0)
            filled[target][gaining] = filled[source][gaining]
        if int((filled < 0).sum()) == before:
            raise DataError("a map consists of lines only; fetch the package anew")
    return filled.astype(np.uint8)


def _shifts() -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    every, low, high = slice(None), slice(None, -1), slice(1, None)
    yield (low, every), (high, every)
    yield (every, low), (every, high)
    yield (high, every), (low, every)
    yield (every, high), (every, low)


def depths(labels_HW: NDArray[np.uint8], limit: int = 80) -> NDArray[np.uint8]:
    """City-block distance of every pixel to the nearest pixel of another region or the edge, at most `limit`."""
    inner = np.ones(labels_HW.shape, dtype=bool)
    inner[[0, -1]] = False
    inner[:, [0, -1]] = False
    for source, target in _shifts():
        inner[target] &= labels_HW[target] == labels_HW[source]
    depth = np.ones(labels_HW.shape, dtype=np.uint8)
    for _ in range(limit):
        if not inner.any():
            break
        depth += inner
        shrunk = inner.copy()
        for source, target in _shifts():
            shrunk[target] &= inner[source]
        inner = shrunk
    return depth


def _region(entry: dict[str, Any], place: str, mask_HW: NDArray[np.bool_], depth_HW: NDArray[np.uint8]) -> Region:
    ys, xs = np.nonzero(mask_HW)
    common = {"name": entry["name"], "capital": entry["capital"], "place": place, "color": entry["color"]}
    if not len(xs):
        return Region(**common, area=0, box=(0, 0, 0, 0), centre=(0.0, 0.0), anchor=(0, 0), depth=0)
    deepest = int(depth_HW[ys, xs].argmax())
    return Region(
        **common,
        area=len(xs),
        box=(int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1),
        centre=(round(float(xs.mean()), 1), round(float(ys.mean()), 1)),
        anchor=(int(xs[deepest]), int(ys[deepest])),
        depth=int(depth_HW[ys[deepest], xs[deepest]]),
    )


def clean_title(name: str) -> str:
    """The name of what a map shows, without how it is divided: `Hungary (Counties)` gives `Hungary`."""
    short = re.sub(r"\s*\(.*\)", "", name)
    short = re.sub(r"\s+(by\s+)?(Districts|Provinces|Regions|Counties)\b.*", "", short)
    return re.sub(r"\b(Great|New|Sri)-", r"\1 ", short).strip()


def contacts(labels_HW: NDArray[np.uint8], reach: int = 1) -> dict[tuple[int, int], int]:
    """How many pixels of one region have another `reach` pixels to the right or below, for every such pair a < b."""
    counts = np.zeros(65536, dtype=np.int64)
    for first, second in (
        (labels_HW[:, :-reach], labels_HW[:, reach:]),
        (labels_HW[:-reach], labels_HW[reach:]),
    ):
        differ = first != second
        low = np.minimum(first[differ], second[differ]).astype(np.int32)
        high = np.maximum(first[differ], second[differ]).astype(np.int32)
        counts += np.bincount(low * 256 + high, minlength=65536)
    return {(int(code) // 256, int(code) % 256): int(counts[code]) for code in np.nonzero(counts)[0]}


def label_boxes(labels_HW: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(left, top, right, bottom) in pixels of every label, (256, 4); zeros for a label that is not there."""
    height, width = labels_HW.shape
    wide = labels_HW.astype(np.int64)
    by_row = np.bincount((wide + 256 * np.arange(height)[:, None]).ravel(), minlength=256 * height) > 0
    by_column = np.bincount((wide + 256 * np.arange(width)).ravel(), minlength=256 * width) > 0
    rows, columns = by_row.reshape(height, 256), by_column.reshape(width, 256)
    boxes = np.stack(
        [columns.argmax(0), rows.argmax(0), width - columns[::-1].argmax(0), height - rows[::-1].argmax(0)], axis=1
    )
    boxes[np.bincount(labels_HW.ravel(), minlength=256) == 0] = 0
    return boxes


def write_atlas(folder: Path, dest: Path) -> None:
    """Convert every map of `folder` into `dest`: `atlas.json` and one PNG of labels a map."""
    paths = [path for path in sorted(folder.glob("*.kgm")) if path.stem not in SKIPPED_MAPS]
    if not paths:
        raise DataError(f"{folder} holds 0 .kgm files; fetch the package kgeography-data: nvila data fetch")
    sheets = []
    for path in paths:
        sheet, labels = convert_map(path)
        Image.fromarray(labels).save(dest / f"{sheet.unit}.png")
        sheets.append(asdict(sheet))
    (dest / "atlas.json").write_text(json.dumps(sheets, ensure_ascii=False), encoding="utf-8")


def _region_from(record: dict[str, Any]) -> Region:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
    return Region(**fields)


def read_atlas(folder: Path) -> dict[str, MapSheet]:
    """All sheets of a material folder by unit."""
    sheets = {}
    for record in json.loads((folder / "atlas.json").read_text(encoding="utf-8")):
        regions = tuple(_region_from(region) for region in record.pop("regions"))
        sheets[record["unit"]] = MapSheet(**{**record, "size": tuple(record["size"])}, regions=regions)
    return sheets
