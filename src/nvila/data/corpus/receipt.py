"""Receipts: a shop's name, goods with prices and the total, and questions about them.

Prices are whole cents and add up to the total. Long names, quantities, taxes and currencies are left out.
"""

from __future__ import annotations

import numpy as np

from nvila.data.corpus.assets import Assets
from nvila.data.corpus.canvas import Size, Turn, chance, make_sample, number, pick
from nvila.data.corpus.faces import Face
from nvila.data.corpus.phrasing import phrase
from nvila.data.corpus.splits import Split, word_split
from nvila.data.corpus.text import GOODS, Line, choose_face, render
from nvila.types import Sample


def make_receipt(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """A receipt that fills the picture; asks for the total, the price of something, or the number of items."""
    sizes = tuple(px for px in (10, 11, 12, 13, 14, 16, 18) if px <= max(11, size[1] // 9))
    face = choose_face(rng, assets, split, difficulty, sizes)
    pitch = face.ascent + face.descent
    num_items = number(rng, 2, max(2, min(7, size[1] // pitch - 2)))
    goods = _goods(rng, assets, split, num_items)
    cents = [number(rng, 25, 1999) if chance(rng, 0.7) else 50 * number(rng, 1, 40) for _ in goods]
    total = _price(sum(cents))
    rows = [*zip(goods, map(_price, cents), strict=True), ("Total" if chance(rng, 0.7) else "TOTAL", total)]
    lines = _rows_to_lines(rng, rows, face, size, pitch)
    image, boxes = render(rng, lines, size, min(difficulty, 0.5))
    kind = pick(rng, ("total", "price", "items"))
    if kind == "total":
        question, answer = phrase(rng, split, "receipt_total"), total
    elif kind == "items":
        question, answer = phrase(rng, split, "receipt_items"), str(len(goods))
    else:
        index = number(rng, 0, len(goods) - 1)
        question, answer = phrase(rng, split, "receipt_price", item=goods[index]), _price(cents[index])
    turn = Turn(question=question, answers=(answer,) if kind == "items" else (answer, f"${answer}"))
    return make_sample(image, turn, task="receipt", objects=boxes, items=goods, cents=cents, kind=kind)


def _goods(rng: np.random.Generator, assets: Assets, split: Split, count: int) -> list[str]:
    known = [name for name in GOODS if word_split(name) == split and len(name) <= 7]
    words = [word for word in assets.words(split)[:3000] if 3 <= len(word) <= 7] or list(assets.words(split))
    chosen: list[str] = []
    while len(chosen) < count:
        name = pick(rng, known) if known and chance(rng, 0.6) else pick(rng, words)
        if name not in chosen or len(known) + len(words) < 2 * count:
            chosen.append(name)
    return chosen


def _price(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


def _rows_to_lines(
    rng: np.random.Generator, rows: list[tuple[str, str]], face: Face, size: Size, pitch: int
) -> list[Line]:
    top = number(rng, 0, max(0, size[1] - len(rows) * pitch))
    right = size[0] - number(rng, 2, 6)
    left = number(rng, 2, 6)
    lines = []
    for index, (name, price) in enumerate(rows):
        baseline = top + index * pitch + face.ascent
        lines.append(Line(text=name, face=face, left=left, baseline=baseline))
        lines.append(Line(text=price, face=face, left=right - face.width(price), baseline=baseline))
    return lines
