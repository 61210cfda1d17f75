"""A tiny folder of corpus assets (Pillow's own font under several names, drawn pictures), and samples of it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nvila.data.corpus import Assets, generate
from nvila.data.corpus.preview import media_of
from nvila.types import Sample

NUM_SUPERFAMILIES = 12
WORDS = """
the of and to in for on with that from this have more about time people good first water long day
way part sound work place live where after back little only round man year show every name very
through form much great think help low line before turn cause same mean differ move right boy old
too does tell sentence set three want air well also play small end put home read hand port large
spell add even land here must big high such follow act why ask men change went light kind off need
house picture try us again animal point mother world near build open today garden bridge stage paper
cup blue heart security
""".split()  # noqa: SIM905 - a list of a hundred one-word strings reads worse
SHADES = {"apple": (200, 30, 30), "banana": (230, 200, 40), "cherry": (150, 10, 60), "flag of France": (20, 60, 170)}


def write_tiny_assets(root: Path) -> None:
    """Everything that `Assets` reads, from what Pillow brings along."""
    stream = ImageFont.load_default(12).path
    assert isinstance(stream, io.BytesIO)
    fonts = []
    for index in range(NUM_SUPERFAMILIES):
        path = root / f"font-{index}.ttf"
        path.write_bytes(stream.getvalue())
        record = {"path": path.name, "family": f"Family {index}", "style": "Regular", "mono": index % 4 == 0}
        fonts.append({**record, "superfamily": f"family-{index}"})
    (root / "fonts.json").write_text(json.dumps(fonts))
    (root / "words.txt").write_text("\n".join(WORDS))
    pixels, records = [], []
    for concept, shade in SHADES.items():
        for style in range(4):
            image = Image.new("RGBA", (96, 96))
            ImageDraw.Draw(image).ellipse((style * 8, 4, 92 - style * 8, 90), fill=(*shade, 255), outline="black")
            pixels.append(np.asarray(image))
            source = f"style-{style}"
            records.append({"concept": concept, "name": f"{source}/{concept}", "source": source, "mirrors": True})
    np.save(root / "pictures.npy", np.stack(pixels))
    (root / "pictures.json").write_text(json.dumps(records))


SIZES = {"strip": (112, 28)}
CLIPS = ("motion", "mover", "order")


def many(assets: Assets, name: str, count: int, split: str = "train", seed: int = 5) -> list[Sample]:
    size = SIZES.get(name, (112, 112))
    return [generate(name, assets, split=split, seed=seed, index=i, size=size) for i in range(count)]  # type: ignore[arg-type]


def pixels(sample: Sample) -> np.ndarray:
    return np.stack([np.asarray(frame) for frame in media_of(sample)])
