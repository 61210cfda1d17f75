"""Making the assets: concepts meet over differently named sources, pictures are cut to their ink, tools are named."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFont

from nvila.data.corpus import fetch
from nvila.data.corpus.rasterise import PICTURE_SIZE, write_pictures
from nvila.errors import DataError

RED_CIRCLE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 40"><circle cx="12" cy="12" r="8" fill="red"/></svg>'
)
ICON = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><path d="M4 4h16v8H4z"/></svg>'


@pytest.fixture
def npm(tmp_path: Path) -> dict[str, Path]:
    """Unpacked art packages that know an apple, a guide dog, and a company's apple."""
    files = {
        "openmoji/data/openmoji.json": json.dumps(
            [
                {"emoji": "A", "hexcode": "1F34E", "annotation": "red apple", **_GROUP},
                {"emoji": "B", "hexcode": "1F9AE", "annotation": "guide dog", **_GROUP},
            ]
        ),
        "openmoji/color/svg/1F34E.svg": RED_CIRCLE,
        "openmoji/color/svg/1F9AE.svg": RED_CIRCLE,
        "@twemoji/svg/1f34e.svg": RED_CIRCLE,
        "fluentui-emoji/icons/flat/red-apple.svg": RED_CIRCLE,
        "@mdi/svg/svg/apple.svg": ICON,
        "@tabler/icons/icons/outline/apple.svg": ICON,
        "flag-icons/flags/4x3/fr.svg": ICON,
        "healthicons/public/icons/svg/filled/x/y.svg": ICON,
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    names = ("openmoji", "@twemoji/svg", "fluentui-emoji", "@mdi/svg", "@tabler/icons", "flag-icons", "healthicons")
    return {name: tmp_path / name for name in names}


_GROUP = {"skintone": "", "group": "food-drink", "subgroups": "food-fruit"}


def test_renderings_of_a_concept_meet_and_fill_the_square(npm: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("resvg_py", reason="drawing SVG needs the extra 'corpus'")
    stream = ImageFont.load_default(12).path
    assert isinstance(stream, io.BytesIO)
    (tmp_path / "NotoColorEmoji.ttf").write_bytes(stream.getvalue())
    assert write_pictures(npm, tmp_path, tmp_path) == (5, 1)
    records = json.loads((tmp_path / "pictures.json").read_text())
    assert {record["concept"] for record in records} == {"apple"}, "a lone flag has too few renderings"
    sources = [record["source"] for record in records]
    assert sources == ["openmoji", "noto-emoji", "twemoji", "fluent-flat", "tabler"], "a company's mark stays out"
    pixels = np.load(tmp_path / "pictures.npy")
    assert pixels.shape == (5, PICTURE_SIZE, PICTURE_SIZE, 4)
    circle = pixels[0]
    rows, columns = np.nonzero(circle[..., 3] > 16)
    assert (rows.min(), columns.min()) <= (1, 1), "cut to the ink"
    assert (rows.max(), columns.max()) >= (94, 94)
    assert tuple(circle[48, 48]) == (255, 0, 0, 255)


def test_a_missing_tool_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="needs 'apt-get' on this machine"):
        fetch.fetch_assets(tmp_path / "assets")
    assert not (tmp_path / "assets").exists()
    assert not list(tmp_path.glob(".assets*")), "nothing half-made is left"


def test_capitals_only_and_gappy_fonts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    face = ImageFont.load_default(24)
    assert isinstance(face, ImageFont.FreeTypeFont)
    assert fetch._readable(face)
    draw = face.getmask
    monkeypatch.setattr(face, "getmask", lambda text, **options: draw(text.upper(), **options))
    assert not fetch._readable(face), "small letters look like capitals"
    monkeypatch.setattr(face, "getmask", lambda text, **options: draw("\uffff" if text == "~" else text, **options))
    assert not fetch._readable(face), "a character is missing"


def test_words_are_known_frequent_first_and_none_is_rude(tmp_path: Path) -> None:
    msgpack = pytest.importorskip("msgpack", reason="reading word frequencies needs the extra 'corpus'")
    dictionary, wheel = tmp_path / "dictionary", tmp_path / "wheel"
    (dictionary / "usr/share/dict").mkdir(parents=True)
    (dictionary / "usr/share/dict/american-english").write_text("apple\ndarn\ndarned\nBerlin\nthe\n")
    (wheel / "wordfreq/data").mkdir(parents=True)
    bins = [{"format": "cB"}, ["the"], [], ["darned", "apple", "xyzzy"], ["berlin", "darn"]]
    (wheel / "wordfreq/data/large_en.msgpack.gz").write_bytes(gzip.compress(msgpack.packb(bins)))
    assert fetch._write_words(dictionary, wheel, tmp_path, rude=["darn"]) == 2
    assert (tmp_path / "words.txt").read_text().split() == ["the", "apple"]
