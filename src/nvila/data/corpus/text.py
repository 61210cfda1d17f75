"""Rendered text to read: words, strips, lines, paragraphs, signs and receipts, in many fonts and colours.

Held-out samples use held-out words in held-out superfamilies. `difficulty` 0 is a few monospaced faces, 14-20
px, dark on light, no damage; 1 is every font, colour, size and slight rotation. Letters are placed one by one,
so every visible character's ink box is known. Handwriting, curved text and perspective are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from nvila.data.corpus.assets import Assets
from nvila.data.corpus.canvas import (
    Size,
    Turn,
    background,
    chance,
    damage,
    ink_and_paper,
    make_sample,
    number,
    paint,
    pick,
    random_colour,
)
from nvila.data.corpus.faces import Face
from nvila.data.corpus.listing import listed
from nvila.data.corpus.phrasing import phrase
from nvila.data.corpus.splits import Split, word_split
from nvila.errors import DataError
from nvila.types import LabelledBox, Sample

FONT_SIZES = (10, 11, 12, 13, 14, 16, 18, 20, 22, 24, 28, 32, 36, 40)
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
LARGE = (0.25, 0.285)
"""Sizes of large text, as parts of a picture's width: five letters of a monospaced face fit."""
MARKS = ".,!?:;-"
ALL_MARKS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
GOODS = listed(
    "apple|bread|milk|eggs|butter|cheese|coffee|tea|rice|pasta|juice|water|sugar|salt|soap|honey|banana"
    "|lemon|tomato|onion|potato|carrot|pepper|fish|chicken|beef|ham|soup|salad|cake|cookie|candy|yogurt"
    "|cereal|flour|oil|wine|beer|pizza|burger|fries|sauce|jam|nuts|corn|beans|melon|grapes|peach|pear"
    "|plum|pen|paper|tape|glue|batteries|candle|towel|brush|sponge|shampoo|toothpaste|socks|hat|gloves"
    "|book|card"
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of text to be drawn: pen start `left`, `baseline`, in `face`."""

    text: str
    face: Face
    left: int
    baseline: int


def random_word(rng: np.random.Generator, assets: Assets, split: Split, *, max_letters: int = 12) -> str:
    """A word of this side of the split in a random case; in training sometimes a number or meaningless letters."""
    draw = rng.random()
    if split == "train" and draw < 0.12:
        return _random_number(rng)
    if split == "train" and draw < 0.30:
        return _random_letters(rng, min(8, max_letters))
    words = assets.words(split)
    word = pick(rng, words)
    for _ in range(20):
        if len(word) <= max_letters and (len(word) > 1 or split == "heldout"):
            break
        word = pick(rng, words)
    return _random_case(rng, word[:max_letters] if word_split(word[:max_letters]) == split else word)


def _random_letters(rng: np.random.Generator, max_letters: int, *, min_letters: int = 1) -> str:
    while True:
        letters = "".join(LETTERS[i] for i in rng.integers(len(LETTERS), size=number(rng, min_letters, max_letters)))
        if word_split(letters) == "train":
            return letters


def _random_number(rng: np.random.Generator) -> str:
    kind = number(rng, 0, 4)
    if kind == 0:
        return str(number(rng, 0, 99))
    if kind == 1:
        return str(number(rng, 100, 99999))
    if kind == 2:
        return f"{number(rng, 0, 199)}.{number(rng, 0, 99):02d}"
    if kind == 3:
        return f"${number(rng, 1, 999)}"
    return f"{number(rng, 1, 31):02d}/{number(rng, 1, 12):02d}"


def _random_case(rng: np.random.Generator, word: str) -> str:
    draw = rng.random()
    return word if draw < 0.5 else word.capitalize() if draw < 0.75 else word.upper()


def _punctuate(rng: np.random.Generator, word: str, split: Split) -> str:
    if split == "train" and chance(rng, 0.06):
        return word + pick(rng, ALL_MARKS)
    return word + pick(rng, MARKS) if chance(rng, 0.08) else word


def random_phrase(
    rng: np.random.Generator, assets: Assets, split: Split, face: Face, width: int, max_words: int
) -> str:
    """Words with single spaces between, at least one, as many up to `max_words` as fit into `width` pixels."""
    text = _first_word(rng, assets, split, face, width)
    for _ in range(max_words - 1):
        longer = f"{text} {_punctuate(rng, random_word(rng, assets, split, max_letters=9), split)}"
        if face.width(longer) > width:
            break
        text = longer
    return text


def _first_word(rng: np.random.Generator, assets: Assets, split: Split, face: Face, width: int) -> str:
    """A word that fits into `width` pixels; shorter and shorter ones are tried, and the last is taken as it is."""
    for max_letters in (9, 9, 8, 7, 6, 5, 4, 3, 3, 2):
        word = random_word(rng, assets, split, max_letters=max_letters)
        if face.width(word) <= width:
            break
    return word


def choose_face(
    rng: np.random.Generator, assets: Assets, split: Split, difficulty: float, sizes: tuple[int, ...]
) -> Face:
    """A face of a random font in one of `sizes` pixels; at low difficulty often monospaced and 14-20 px."""
    easy = not chance(rng, difficulty)
    font = assets.choose_font(rng, split, easy=easy)
    plain = tuple(size for size in sizes if 14 <= size <= 20)
    return assets.face(font, pick(rng, plain if easy and plain else sizes))


def _sizes(low: int, high: int) -> tuple[int, ...]:
    return tuple(size for size in FONT_SIZES if low <= size <= high)


def _fit(assets: Assets, rng: np.random.Generator, split: Split, difficulty: float, text: str, room: Size) -> Face:
    """A random face of 16 to 40 px (14 to 20 when easy) in which `text` fits into `room`.

    A few fonts are tried; when the text is too long for all of them at the smallest size, it is set in 12 px.
    """
    easy = not chance(rng, difficulty)
    allowed = _sizes(14, 20) if easy else _sizes(16, max(16, min(40, int(room[1] * 0.8))))
    for _ in range(6):
        font = assets.choose_font(rng, split, easy=easy)
        width_at_16 = assets.face(font, 16).width(text)
        sizes = [size for size in allowed if size * width_at_16 <= 15.5 * room[0]]
        if sizes:
            return assets.face(font, pick(rng, sizes))
    return assets.face(font, 12)


def render(
    rng: np.random.Generator, lines: list[Line], size: Size, difficulty: float, *, image: Image.Image | None = None
) -> tuple[Image.Image, list[LabelledBox]]:
    """Draw lines on `image` or on a fresh background; return the picture and every letter's box."""
    smallest = min(line.face.size for line in lines)
    ink, paper = ink_and_paper(rng, difficulty, contrast=110 if smallest < 16 else 85)
    mask_HW = np.zeros((size[1], size[0]), dtype=np.uint8)
    boxes: list[LabelledBox] = []
    for line in lines:
        boxes += line.face.draw(mask_HW, line.text, line.left, line.baseline)
    if chance(rng, 0.2 * difficulty):
        mask_HW, boxes = rotate(mask_HW, boxes, float(rng.uniform(-3, 3)))
    canvas = background(rng, size, paper, plain=1 - 0.5 * difficulty) if image is None else image
    paint(canvas, mask_HW, ink)
    return damage(rng, canvas, amount=difficulty), boxes


def rotate(
    mask_HW: NDArray[np.uint8], boxes: list[LabelledBox], degrees: float
) -> tuple[NDArray[np.uint8], list[LabelledBox]]:
    """Turn a mask and its boxes about the centre, counter-clockwise; boxes become their upright hulls, clipped."""
    height, width = mask_HW.shape
    turned = np.asarray(Image.fromarray(mask_HW).rotate(degrees, Image.Resampling.BILINEAR))
    radians = np.deg2rad(degrees)
    cos, sin = float(np.cos(radians)), float(np.sin(radians))
    moved = []
    for item in boxes:
        x, y = (item.box[0] + item.box[2]) / 2 - width / 2, (item.box[1] + item.box[3]) / 2 - height / 2
        half_w, half_h = (item.box[2] - item.box[0]) / 2, (item.box[3] - item.box[1]) / 2
        cx, cy = cos * x + sin * y + width / 2, -sin * x + cos * y + height / 2
        box = (max(0.0, cx - half_w), max(0.0, cy - half_h), min(width, cx + half_w), min(height, cy + half_h))
        if box[2] > box[0] and box[3] > box[1]:
            moved.append(LabelledBox(label=item.label, box=box))
    return turned, moved


def _place(rng: np.random.Generator, text: str, face: Face, size: Size) -> Line:
    slack_x = max(0, size[0] - face.width(text) - 4)
    slack_y = max(0, size[1] - face.ascent - face.descent)
    return Line(text=text, face=face, left=2 + number(rng, 0, slack_x), baseline=face.ascent + number(rng, 0, slack_y))


def _place_first(text: str, face: Face, size: Size) -> Line:
    """Left in the third quarter of the picture's height, which is one row of visual tokens of a 112 px tile."""
    middle = round(size[1] * 0.625)
    return Line(text=text, face=face, left=2, baseline=middle + (face.ascent - face.descent) // 2)


def make_word(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """One word, 16 px or more where it fits, anywhere; at low difficulty often at the left edge below the middle.

    A decoder that has yet to find out how to read starts sooner when it need not search.
    """
    word = random_word(rng, assets, split, max_letters=max(3, size[0] // 9))
    face = _fit(assets, rng, split, difficulty, word, (size[0] - 6, size[1]))
    line = _place(rng, word, face, size) if chance(rng, difficulty) else _place_first(word, face, size)
    image, boxes = render(rng, [line], size, difficulty)
    turn = Turn(question=phrase(rng, split, "word"), answers=(word,))
    return make_sample(image, turn, task="word", objects=boxes, font_size=face.size)


def make_line(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """One line of a few words."""
    face = choose_face(rng, assets, split, difficulty, _sizes(12, max(12, min(24, size[1] // 2))))
    text = random_phrase(rng, assets, split, face, size[0] - 6, number(rng, 2, 6))
    image, boxes = render(rng, [_place(rng, text, face, size)], size, difficulty)
    turn = Turn(question=phrase(rng, split, "line"), answers=(text,))
    return make_sample(image, turn, task="line", objects=boxes, font_size=face.size)


def make_strip(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """A picture filled with characters in the sizes that words come in, for pre-training the encoder; any size."""
    face = choose_face(rng, assets, split, difficulty, _sizes(14, min(36, size[1])))
    pitch = face.ascent + face.descent
    num_lines = max(1, size[1] // pitch)
    top = number(rng, -1, max(0, size[1] - num_lines * pitch))
    lines = []
    for index in range(num_lines):
        text = _filling_text(rng, assets, split, face, size[0] - 3)
        left = number(rng, 1, max(1, size[0] - face.width(text) - 1))
        lines.append(Line(text=text, face=face, left=left, baseline=top + index * pitch + face.ascent))
    image, boxes = render(rng, lines, size, difficulty)
    turn = Turn(question=phrase(rng, split, "line"), answers=("\n".join(line.text for line in lines),))
    return make_sample(image, turn, task="strip", objects=boxes, font_size=face.size)


def _filling_text(rng: np.random.Generator, assets: Assets, split: Split, face: Face, width: int) -> str:
    """Text cut off where the width ends, but never so that training sees a held-out word at the cut."""
    text = random_word(rng, assets, split)
    while face.width(text) < width:
        text += " " + _punctuate(rng, random_word(rng, assets, split), split)
    while len(text) > 1 and (face.width(text) > width or not _cut_is_fair(text, split)):
        text = text[:-1]
    return text.rstrip()


def _cut_is_fair(text: str, split: Split) -> bool:
    tail = text.rsplit(" ", 1)[-1].strip(ALL_MARKS)
    return split == "heldout" or len(tail) < 2 or word_split(tail) == "train"


def short_word(rng: np.random.Generator, assets: Assets, split: Split) -> str:
    """A word of 3 to 5 lower-case letters; in training half of the time meaningless ones, which no memory helps with.

    Raises DataError when that side has no such word.
    """
    if split == "train" and chance(rng, 0.5):
        return _random_letters(rng, 5, min_letters=3).lower()
    words = assets.words(split)
    for _ in range(1000):
        word = str(pick(rng, words))
        if 3 <= len(word) <= 5 and word.isalpha():
            return word.lower()
    raise DataError(f"{assets.root / 'words.txt'} has no word of 3 to 5 letters for split {split!r}; add words")


def _large_face(rng: np.random.Generator, assets: Assets, size: Size) -> Face:
    """One of training's few easy faces, a quarter of the picture's width or a little more in size."""
    return assets.face(assets.choose_font(rng, "train", easy=True), round(size[0] * pick(rng, LARGE)))


def make_short_word(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """A large short word, dark on light, in the same few faces on both sides: held out is the word alone.

    At difficulty 0 it stands at the left edge below the middle, at 1 anywhere.
    """
    word = short_word(rng, assets, split)
    face = _large_face(rng, assets, size)
    line = _place(rng, word, face, size) if chance(rng, difficulty) else _place_first(word, face, size)
    image, boxes = render(rng, [line], size, 0.0)
    turn = Turn(question=phrase(rng, split, "word"), answers=(word,))
    return make_sample(image, turn, task="short_word", objects=boxes, font_size=face.size)


def make_short_strip(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """A picture filled with the letters of short words as `make_short_word` draws them, for the encoder alone."""
    face = _large_face(rng, assets, size)
    pitch = face.ascent + face.descent
    num_lines = max(1, size[1] // pitch)
    top = number(rng, 0, max(0, size[1] - num_lines * pitch))
    lines = []
    for index in range(num_lines):
        text = short_word(rng, assets, split)
        while face.width(text) < size[0] - 3:
            text += pick(rng, ("", " ")) + short_word(rng, assets, split)
        left = number(rng, -face.size // 2, 3)
        lines.append(Line(text=text, face=face, left=left, baseline=top + index * pitch + face.ascent))
    image, boxes = render(rng, lines, size, 0.0)
    turn = Turn(question=phrase(rng, split, "line"), answers=("\n".join(line.text for line in lines),))
    return make_sample(image, turn, task="short_strip", objects=boxes, font_size=face.size)


def make_paragraph(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """Two to five short lines, all ranged left; the answer keeps the line breaks."""
    face = choose_face(rng, assets, split, difficulty, _sizes(10, max(12, min(20, size[1] // 5))))
    pitch = face.ascent + face.descent + number(rng, 0, 3)
    num_lines = max(1, min(number(rng, 2, 5), (size[1] - 2) // pitch))
    left = number(rng, 2, max(2, size[0] // 10))
    top = number(rng, 0, max(0, size[1] - num_lines * pitch))
    lines = []
    for index in range(num_lines):
        text = random_phrase(rng, assets, split, face, size[0] - left - 3, number(rng, 1, 6))
        lines.append(Line(text=text, face=face, left=left, baseline=top + index * pitch + face.ascent))
    image, boxes = render(rng, lines, size, difficulty)
    turn = Turn(question=phrase(rng, split, "paragraph"), answers=("\n".join(line.text for line in lines),))
    return make_sample(image, turn, task="paragraph", objects=boxes)


def make_sign(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """A board with one to three large words, centred, on something that is not the board."""
    room = (int(size[0] * 0.84), int(size[1] * rng.uniform(0.5, 0.84)))
    num_lines = number(rng, 1, 1 if room[1] < 40 else 2 if room[1] < 75 else 3)
    texts = [_random_sign_word(rng, assets, split) for _ in range(num_lines)]
    longest = max(texts, key=len)
    face = _fit(assets, rng, split, difficulty, longest, (room[0] - 8, int(room[1] / num_lines)))
    ink, paper = ink_and_paper(rng, difficulty)
    image = background(rng, size, random_colour(rng), plain=0.3)
    left, top = (size[0] - room[0]) // 2 + number(rng, -3, 3), number(rng, 2, max(2, size[1] - room[1] - 2))
    board = (left, top, left + room[0], top + room[1])
    draw = ImageDraw.Draw(image)
    outline = ink if chance(rng, 0.6) else None
    draw.rounded_rectangle(board, radius=number(rng, 0, 8), fill=paper, outline=outline, width=number(rng, 1, 2))
    pitch = min(face.ascent + face.descent, room[1] // num_lines)
    first = top + (room[1] - num_lines * pitch) // 2 + (pitch + face.ascent - face.descent) // 2
    mask_HW = np.zeros((size[1], size[0]), dtype=np.uint8)
    boxes: list[LabelledBox] = []
    for index, text in enumerate(texts):
        start = left + (room[0] - face.width(text)) // 2
        boxes += face.draw(mask_HW, text, start, first + index * pitch)
    paint(image, mask_HW, ink)
    image = damage(rng, image, amount=difficulty)
    turn = Turn(question=phrase(rng, split, "sign"), answers=(" ".join(texts),))
    return make_sample(image, turn, task="sign", objects=boxes)


def _random_sign_word(rng: np.random.Generator, assets: Assets, split: Split) -> str:
    word = random_word(rng, assets, split, max_letters=8)
    return word.upper() if chance(rng, 0.6) else word
