"""Draws scans of business forms with questions about them, in LLaVA's form: data for docs/examples/documents.md.

    python examples/make_forms.py FOLDER [--train 300] [--heldout 60]

writes `FOLDER/train.json`, `FOLDER/heldout.json` and the scans in `FOLDER/scans`. A number is that of the scans; each
is a conversation of three questions in any order. Needs nothing but Pillow. The firms are made up.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFilter, ImageFont

KINDS = {"INVOICE": "invoice", "RECEIPT": "receipt", "ORDER": "order", "OFFER": "offer", "REMINDER": "reminder"}
FIRMS = ("Ash & Co", "Birch Ltd", "Cedar Inc", "Elm Works", "Fir Trade", "Hazel Bros", "Larch AG", "Maple Shop")
GOODS = ("paper", "chairs", "lamps", "cables", "desks", "pens", "boxes", "cups", "tools", "paint")
CURRENCIES = ("EUR", "USD", "GBP")
SIZE = (224, 224)
"""Pixels of a scan: two tiles by two of nvila-mini."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """What stands on a form."""

    title: str
    firm: str
    items: tuple[tuple[str, int], ...]
    currency: str
    is_paid: bool

    def questions(self) -> dict[str, str]:
        """Questions, and their answers."""
        return {
            "What kind of document is this?": KINDS[self.title],
            "Is it paid?": "yes" if self.is_paid else "no",
            "What currency is it in?": self.currency,
        }


def make_form(rng: random.Random) -> Form:
    """A form with one or two items, paid for or not."""
    items = tuple((goods, rng.randint(5, 95)) for goods in rng.sample(GOODS, rng.randint(1, 2)))
    return Form(
        title=rng.choice(list(KINDS)),
        firm=rng.choice(FIRMS),
        items=items,
        currency=rng.choice(CURRENCIES),
        is_paid=rng.random() < 0.5,
    )


def make_turns(form: Form, rng: random.Random) -> list[dict[str, str]]:
    """All questions and answers in any order, the scan before the first."""
    asked = list(form.questions().items())
    rng.shuffle(asked)
    turns = [{"from": who, "value": text} for pair in asked for who, text in zip(("human", "gpt"), pair, strict=True)]
    turns[0]["value"] = f"<image>\n{turns[0]['value']}"
    return turns


def draw_form(form: Form, rng: random.Random) -> Image.Image:
    """The form as a scanner sees it: (224, 224) pixels, a little turned, grey and blurred."""
    page = Image.new("RGB", SIZE, (rng.randint(235, 255),) * 3)
    draw = ImageDraw.Draw(page)
    ink = (rng.randint(0, 60),) * 3
    left, top = rng.randint(10, 24), rng.randint(6, 14)
    draw.text((left, top), form.title, ink, _font(rng.randint(25, 30)))
    draw.text((left, top + 36), form.firm, ink, _font(17))
    line = top + 64
    for goods, price in form.items:
        draw.text((left, line), goods, ink, _font(16))
        draw.text((200, line), f"{price}.00", ink, _font(16), anchor="ra")
        line += 24
    draw.line((left, line + 4, 204, line + 4), ink, 2)
    total = sum(price for _, price in form.items)
    draw.text((left, line + 12), "Total", ink, _font(18))
    draw.text((200, line + 12), f"{form.currency} {total}", ink, _font(18), anchor="ra")
    if form.is_paid:
        _stamp(page, rng)
    turned = page.rotate(rng.uniform(-2, 2), Image.Resampling.BICUBIC, fillcolor=(225,) * 3)
    return turned.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.6)))


def _stamp(page: Image.Image, rng: random.Random) -> None:
    """PAID in a frame, near the foot of the page."""
    stamp = Image.new("RGBA", (110, 44))
    draw = ImageDraw.Draw(stamp)
    colour = rng.choice(((170, 30, 40, 255), (30, 50, 150, 255), (20, 110, 60, 255)))
    draw.rectangle((2, 2, 107, 41), outline=colour, width=3)
    draw.text((55, 22), "PAID", colour, _font(30), anchor="mm")
    stamp = stamp.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC, expand=True)
    page.paste(stamp, (rng.randint(10, 90), rng.randint(160, 172)), stamp)


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def write_part(folder: Path, name: str, count: int) -> None:
    """`folder/NAME.json`, with so many scans; the same for the same name and number."""
    (folder / "scans").mkdir(parents=True, exist_ok=True)
    rng = random.Random(name)
    records = []
    for number in range(count):
        form = make_form(rng)
        scan = f"scans/{name}-{number:04}.png"
        draw_form(form, rng).save(folder / scan)
        records.append({"id": f"{name}-{number}", "image": scan, "conversations": make_turns(form, rng)})
    (folder / f"{name}.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=300, help="scans to learn from")
    parser.add_argument("--heldout", type=int, default=60, help="scans to score on")
    given = parser.parse_args(arguments)
    write_part(given.folder, "train", given.train)
    write_part(given.folder, "heldout", given.heldout)


if __name__ == "__main__":
    main()
