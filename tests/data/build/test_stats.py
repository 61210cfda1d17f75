"""Figures of a data set: counted by hand here."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nvila.data.build.stats import collect, draw, table
from nvila.processing import NVILAProcessor

SIZES = ((112, 112), (224, 112), (224, 224))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("set")
    records: list[dict[str, object]] = []
    for number, size in enumerate(SIZES):
        Image.new("RGB", size, "white").save(root / f"{number}.png")
        turns = [
            {"role": "user", "content": "<image>What colour?"},
            {"role": "assistant", "content": "white " * number + "white"},
        ]
        records.append({"images": [f"{number}.png"], "messages": turns, "source": "plain" if number else "first"})
    records.append({"images": ["gone.png"], "messages": records[0]["messages"]})
    (root / "set.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    return root / "set.jsonl"


def test_lengths_tiles_and_sources_are_counted(data: Path, tmp_path: Path) -> None:
    stats = collect(str(data))
    processor = NVILAProcessor.from_pretrained("nvila-mini")
    ids = processor.tokenizer(["What colour?", "white"], add_special_tokens=False)["input_ids"]
    assert stats.num_samples == 3
    assert stats.num_unreadable == 1
    assert "gone.png" in stats.first_error
    assert stats.values["prompt_characters"] == [len("What colour?")] * 3
    assert stats.values["answer_characters"] == [5, 11, 17]
    assert stats.values["prompt_tokens"] == [len(ids[0])] * 3
    assert stats.values["answer_tokens"][0] == len(ids[1])
    pixels = [processor.image_processor(Image.new("RGB", size), return_tensors="pt")["pixel_values"] for size in SIZES]
    assert stats.values["tiles"] == [len(tiles) for tiles in pixels]
    assert stats.sources["plain"]["samples"] == 2
    assert stats.sources["first"] == {"samples": 1, "answers": 1, "images": 1, "clips": 0}
    figures = json.loads(json.dumps(stats.as_json()))
    assert sum(figures["measures"]["tiles"]["histogram"]["counts"]) == 3
    assert figures["measures"]["answer_characters"]["mean"] == 11
    shown = table(stats)
    assert "3 samples" in shown
    assert "1 more cannot be read" in shown
    assert [line.split()[:3] for line in shown.splitlines()[-2:]] == [["plain", "2", "66.7%"], ["first", "1", "33.3%"]]


def test_the_plot_draws_every_histogram(data: Path) -> None:
    stats = collect(str(data), num=2)
    assert stats.num_samples + stats.num_unreadable == 2
    plot = np.asarray(Image.open(io.BytesIO(draw(stats))).convert("RGB"))
    panels = [plot[y : y + 240, x : x + 420] for y in range(0, len(plot), 240) for x in (0, 420)]
    assert len(panels) == 8
    bars = [(panel == (60, 110, 180)).all(axis=2).sum() for panel in panels]
    assert all(count > 50 for count in bars[:7]), bars
