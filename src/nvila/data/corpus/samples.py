"""The three demo inputs shipped in the package: a sign, a picture and a clip, made from held-out material.

`python -m nvila.data.corpus.samples DEST` makes them anew from the corpus assets. The sign's word and font and
the picture's rendering are ones that training never shows.
"""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from nvila.data.corpus.assets import Assets
from nvila.data.corpus.canvas import Size, paint
from nvila.data.corpus.shapes import Shape, draw_shapes
from nvila.data.corpus.splits import word_split
from nvila.errors import DataError

SIGN_WORD = "OPEN"
PICTURE_CONCEPT = "penguin"
CLIP_SIZE: Size = (224, 224)
NUM_CLIP_FRAMES = 16
FRAMES_PER_SECOND = 8


def write_samples(dest: Path, assets: Assets) -> None:
    """Write `sign.png`, `picture.png` and `clip.mp4` to `dest`. Raises DataError where an asset is not held out."""
    draw_sign(assets).save(dest / "sign.png", optimize=True)
    draw_picture(assets).save(dest / "picture.png", optimize=True)
    write_clip(dest / "clip.mp4")


def draw_sign(assets: Assets, size: Size = (224, 112)) -> Image.Image:
    """A green board with white letters, in the held-out superfamily `noto`."""
    if word_split(SIGN_WORD) != "heldout":
        raise DataError(f"sign word {SIGN_WORD!r} is not held out; choose another")
    groups = [group for group in assets.superfamilies("heldout") if group[0].superfamily == "noto"]
    if not groups:
        raise DataError("the held-out superfamily 'noto' is not among the assets; make them with: nvila data assets")
    font = next(font for font in groups[0] if "Bold" in font.style and "Italic" not in font.style)
    image = Image.new("RGB", size, (205, 222, 235))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((6, 10, size[0] - 7, size[1] - 11), radius=8, fill=(20, 105, 60), outline="white", width=3)
    mask_HW = np.zeros((size[1], size[0]), dtype=np.uint8)
    face = next(face for px in range(40, 8, -2) if (face := assets.face(font, px)).width(SIGN_WORD) <= size[0] - 44)
    left = (size[0] - face.width(SIGN_WORD)) / 2
    face.draw(mask_HW, SIGN_WORD, left, size[1] // 2 + round(0.36 * face.size))
    paint(image, mask_HW, (255, 255, 255))
    return image


def draw_picture(assets: Assets, side: int = 112) -> Image.Image:
    """The held-out rendering of a known concept on a light ground."""
    groups = [group for group in assets.renderings("heldout") if group[0].concept == PICTURE_CONCEPT]
    if not groups:
        raise DataError(f"the assets hold no held-out rendering of {PICTURE_CONCEPT!r}")
    drawing = Image.fromarray(np.asarray(assets.pixels(groups[0][0])))
    image = Image.new("RGB", (side, side), (236, 242, 250))
    offset = (side - drawing.width) // 2
    image.paste(drawing, (offset, offset), drawing)
    return image


def write_clip(path: Path) -> None:
    """A red circle that moves from left to right on a pale ground, `NUM_CLIP_FRAMES` frames of MPEG-4."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=FRAMES_PER_SECOND)
        stream.width, stream.height = CLIP_SIZE
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 200_000
        stream.time_base = Fraction(1, FRAMES_PER_SECOND)
        ground = Image.new("RGB", CLIP_SIZE, (238, 240, 232))
        for x in np.linspace(40, CLIP_SIZE[0] - 40, NUM_CLIP_FRAMES):
            circle = Shape(shape="circle", color="red", rgb=(220, 30, 35), x=float(x), y=112, radius=28)
            frame = av.VideoFrame.from_image(draw_shapes(ground, [circle]))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


if __name__ == "__main__":
    write_samples(Path(sys.argv[1]), Assets.load())
