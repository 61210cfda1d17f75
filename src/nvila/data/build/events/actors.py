"""Who acts in the clips: drawn things (Fluent emoji, flat style), coloured shapes, written words, the background.

A drawn thing's name is its file's name in the package, so that no table of names can disagree with the pictures; only
things that everybody calls by that one name are listed. Sprites are (S, S, 4) uint8 RGBA.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nvila.data.corpus.canvas import NAMED_COLOURS, Colour
from nvila.data.corpus.listing import listed
from nvila.data.corpus.shapes import SHAPES, Shape, draw_shapes
from nvila.errors import DataError

SPRITE_SIZE = 96
LEAST_DISTANCE, LEAST_SHARE = 50.0, 0.6
DRAWN = listed(
    "airplane|ambulance|anchor|ant|avocado|axe|backpack|balloon|banana|banjo|basket|basketball|bat|bathtub|beaver|bed"
    "|beetle|bell|bicycle|bone|broom|bucket|bus|butterfly|cactus|camel|camera|candle|carrot|castle|cat|chair"
    "|chestnut|church|coconut|compass|cookie|cow|crab|crocodile|croissant|crown|cucumber|cupcake|deer|dog"
    "|dolphin|donkey|door|doughnut|dragon|dress|drum|duck|eagle|egg|eggplant|elephant|envelope|eye|factory|feather"
    "|ferris-wheel|fire|fish|flamingo|flashlight|fountain|fox|frog|ghost|giraffe|goat|goose|gorilla"
    "|guitar|hamburger|hammer|hedgehog|helicopter|hippopotamus|horse|hot-dog|house|ice-cream|jellyfish|kangaroo"
    "|key|kite|koala|ladder|laptop|lemon|light-bulb|lion|lizard|lobster|lollipop|magnet|maple-leaf|melon"
    "|microphone|microscope|monkey|mosquito|motorcycle|mouse|mushroom|necktie|octopus|onion|owl|palm-tree|panda"
    "|paperclip|parachute|parrot|peach|peacock|pear|pencil|penguin|pig|pineapple|pizza|polar-bear|potato|pretzel"
    "|rabbit|raccoon|rainbow|rhinoceros|ring|robot|rocket|rooster|rose|sailboat|sandwich|saxophone|scorpion"
    "|seal|shark|shrimp|skateboard|sloth|snail|snake|snowflake|spider|spoon|squid|strawberry|sun|sunflower"
    "|swan|syringe|taco|taxi|teapot|teddy-bear|telescope|television|tent|tiger|toilet|tomato|toothbrush|tornado"
    "|tractor|trophy|trumpet|tulip|turtle|umbrella|unicorn|violin|volcano|watermelon|whale|window|wolf|worm|zebra"
)
SHAPE_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
SHAPE_ACTORS = tuple(f"{color} {shape}" for color in SHAPE_COLOURS for shape in SHAPES)
WORDS = listed(
    "apple|bridge|cloud|danger|early|forest|garden|hello|island|jungle|kitchen|ladder|market|night|ocean|paper|queen"
    "|river|school|table|under|valley|winter|yellow|zero|bread|chance|dream|exit|flower|gold|honey|idea|joy|king|light"
    "|music|north|open|pause|quiet|ready|start|stop|train|union|voice|water|young|zone|finish|welcome|sale|menu"
)
GROUND_COLOURS = ("white", "gray", "blue", "green", "yellow", "pink", "orange", "purple")
PALE: dict[str, Colour] = {
    "white": (248, 248, 246),
    "gray": (160, 160, 160),
    "blue": (120, 165, 235),
    "green": (140, 205, 140),
    "yellow": (248, 236, 140),
    "pink": (250, 190, 215),
    "orange": (250, 190, 120),
    "purple": (190, 150, 225),
}
"""Colours of grounds: light, so that actors stand out, and far enough from each other to be told apart."""


def named_actor(slug: str) -> str:
    """What an actor is called: `teddy-bear` gives `teddy bear`."""
    return slug.replace("-", " ")


def with_article(name: str) -> str:
    """A name with the article of a thing that is mentioned for the first time."""
    return f"{'an' if name[0] in 'aeiou' and not name.startswith('uni') else 'a'} {name}"


def write_sprites(package: Path, dest: Path) -> None:
    """Rasterise every drawn thing into `sprites.npy`. Raises DataError naming a drawing that the package lacks."""
    import resvg_py

    sprites = []
    for slug in DRAWN:
        path = package / "icons" / "flat" / f"{slug}.svg"
        if not path.is_file():
            raise DataError(f"{path} is missing; fetch it with: nvila data fetch --families events")
        text = path.read_text(encoding="utf-8")
        data = bytes(resvg_py.svg_to_bytes(svg_string=text, width=2 * SPRITE_SIZE, skip_system_fonts=True))
        with Image.open(io.BytesIO(data)) as image:
            sprites.append(_fitted(image.convert("RGBA")))
    np.save(dest / "sprites.npy", np.stack(sprites), allow_pickle=False)
    lost = {named_actor(slug): grounds_that_hide(sprite) for slug, sprite in zip(DRAWN, sprites, strict=True)}
    (dest / "hidden_on.json").write_text(json.dumps(lost), encoding="utf-8")


def grounds_that_hide(sprite_SS4: NDArray[np.uint8]) -> list[str]:
    """The colours of grounds that an actor would not stand out from: four tenths of its pixels come near them."""
    ink = sprite_SS4[sprite_SS4[..., 3] > 128][:, :3].astype(np.float32)
    return [
        color
        for color, rgb in PALE.items()
        if np.mean(np.linalg.norm(ink - np.asarray(rgb, dtype=np.float32), axis=1) > LEAST_DISTANCE) < LEAST_SHARE
    ]


def _fitted(image: Image.Image) -> NDArray[np.uint8]:
    """The drawing cut to its ink and centred on a square of the sprites' size."""
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha > 16)).getbbox() or (0, 0, *image.size)
    ink = image.crop(box)
    scale = SPRITE_SIZE / max(ink.size)
    ink = ink.resize((max(1, round(ink.width * scale)), max(1, round(ink.height * scale))), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (SPRITE_SIZE, SPRITE_SIZE))
    canvas.paste(ink, ((SPRITE_SIZE - ink.width) // 2, (SPRITE_SIZE - ink.height) // 2))
    return np.asarray(canvas)


def shape_sprite(name: str, color: str | None = None) -> Image.Image:
    """A shape such as `red star` as RGBA, in its own colour or in another one."""
    own, shape = name.split(" ")
    half = SPRITE_SIZE / 2
    mask = Image.new("RGB", (SPRITE_SIZE, SPRITE_SIZE))
    drawn = Shape(shape=shape, color=own, rgb=(255, 255, 255), x=half, y=half, radius=half - 3)
    alpha = draw_shapes(mask, [drawn]).convert("L")
    image = Image.new("RGBA", (SPRITE_SIZE, SPRITE_SIZE), (*NAMED_COLOURS[color or own], 0))
    image.putalpha(alpha)
    return image
