"""A contact sheet of samples with their questions and answers, to look at before training on them.

Clips show all frames in a row. `nvila data preview` draws what a generator makes, `nvila data show` any data set.
"""

from __future__ import annotations

import textwrap

from PIL import Image, ImageDraw, ImageFont

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
