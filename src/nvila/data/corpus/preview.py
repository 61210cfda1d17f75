"""A contact sheet of generated samples with their questions and answers, to look at before training on them.

`python -m nvila.data.corpus.preview --names word,count --out sheet.png` draws; clips show all frames in a row.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from nvila.data.corpus import GENERATORS, Assets, generate
from nvila.data.corpus.canvas import Size
from nvila.types import ImagePart, Sample, TextPart, VideoPart

CAPTION_HEIGHT = 52


def media_of(sample: Sample) -> list[Image.Image]:
    """The picture, or the frames of the clip, of a generated sample."""
    part = sample.messages[0].content[0]
    if isinstance(part, VideoPart) and part.video is not None:
        return list(part.video)
    assert isinstance(part, ImagePart)
    assert part.image is not None, "generated samples hold decoded media"
    return [part.image]


def cell_of(sample: Sample, *, boxes: bool = False) -> Image.Image:
    """One picture (or a row of frames) with the question and the answer below it."""
    frames = media_of(sample)
    width, height = sum(frame.width + 2 for frame in frames), frames[0].height
    cell = Image.new("RGB", (max(width, 150), height + CAPTION_HEIGHT), "white")
    for index, frame in enumerate(frames):
        cell.paste(frame, (index * (frame.width + 2), 0))
    draw = ImageDraw.Draw(cell)
    for item in sample.objects if boxes else ():
        draw.rectangle(item.box, outline="red")
    question = sample.messages[0].content[1]
    assert isinstance(question, TextPart)
    caption = [*textwrap.wrap(question.text, max(24, cell.width // 6)), f"> {sample.meta['answer']!r}"[:60]]
    draw.multiline_text((2, height + 1), "\n".join(caption), fill="black", font=ImageFont.load_default(10), spacing=1)
    return cell


def contact_sheet(cells: list[Image.Image], columns: int) -> Image.Image:
    """All cells in a grid, as many columns as asked for."""
    width, height = max(cell.width for cell in cells) + 4, max(cell.height for cell in cells) + 4
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "lightgray")
    for index, cell in enumerate(cells):
        sheet.paste(cell, (index % columns * width, index // columns * height))
    return sheet


def main(arguments: list[str] | None = None) -> None:
    """Command line of the contact sheet."""
    parser = argparse.ArgumentParser(description="Draw a contact sheet of generated samples.")
    parser.add_argument("--names", default=",".join(GENERATORS))
    parser.add_argument("--assets", default=None)
    parser.add_argument("--split", choices=("train", "heldout"), default="train")
    parser.add_argument("--size", default="112x112")
    parser.add_argument("--num", type=int, default=8)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--difficulty", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--boxes", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("corpus.png"))
    options = parser.parse_args(arguments)
    width, height = (int(side) for side in options.size.split("x"))
    size: Size = (width, height)
    assets = Assets.load(options.assets)
    cells = []
    for name in options.names.split(","):
        for index in range(options.num):
            sample = generate(
                name,
                assets,
                split=options.split,
                seed=options.seed,
                index=index,
                size=size,
                difficulty=options.difficulty,
            )
            cells.append(cell_of(sample, boxes=options.boxes))
    contact_sheet(cells, options.columns).save(options.out)


if __name__ == "__main__":
    main()
