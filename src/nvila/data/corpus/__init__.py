"""The corpus: generated pictures and clips with questions, answers and dense labels.

One file per family of generators, all of one shape: `make(rng, assets, split, size, difficulty) -> Sample`.
`generate` is the entry point: a sample depends on (name, split, seed, index, size, difficulty) and the assets
alone. Sizes are (width, height) in pixels; for clips, of each frame.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from nvila.data.corpus.assets import Assets
from nvila.data.corpus.canvas import Size
from nvila.data.corpus.charts import make_bar, make_bars, make_line_chart, make_pie
from nvila.data.corpus.clips import make_motion, make_mover, make_order
from nvila.data.corpus.pictures import make_naming
from nvila.data.corpus.receipt import make_receipt
from nvila.data.corpus.scenes import (
    make_color,
    make_compare,
    make_count,
    make_place,
    make_position,
    make_scene,
    make_shape,
    make_tally,
)
from nvila.data.corpus.splits import Split
from nvila.data.corpus.text import (
    make_line,
    make_paragraph,
    make_short_strip,
    make_short_word,
    make_sign,
    make_strip,
    make_word,
)
from nvila.data.corpus.vocabulary import dense_labels, tokenizer_words
from nvila.errors import DataError, nearest
from nvila.types import Sample

__all__ = ["GENERATORS", "Assets", "Generator", "Split", "dense_labels", "generate", "tokenizer_words"]

Generator = Callable[[np.random.Generator, Assets, Split, Size, float], Sample]

GENERATORS: dict[str, Generator] = {
    "word": make_word,
    "strip": make_strip,
    "short_word": make_short_word,
    "short_strip": make_short_strip,
    "line": make_line,
    "paragraph": make_paragraph,
    "sign": make_sign,
    "receipt": make_receipt,
    "naming": make_naming,
    "count": make_count,
    "color": make_color,
    "shape": make_shape,
    "position": make_position,
    "place": make_place,
    "compare": make_compare,
    "scene": make_scene,
    "tally": make_tally,
    "bar": make_bar,
    "bars": make_bars,
    "pie": make_pie,
    "line_chart": make_line_chart,
    "motion": make_motion,
    "mover": make_mover,
    "order": make_order,
}


def generate(
    name: str, assets: Assets, *, split: Split, seed: int, index: int, size: Size, difficulty: float = 1.0
) -> Sample:
    """Sample number `index` of generator `name`: the same arguments give the same sample, byte for byte.

    `size`: (width, height) in pixels. `difficulty` 0..1 widens fonts, colours and damage where a generator has a
    curriculum. Raises DataError for an unknown name.
    """
    make = GENERATORS.get(name)
    if make is None:
        raise DataError(f"unknown generator {name!r}{nearest(name, GENERATORS)}; known: {', '.join(GENERATORS)}")
    key = f"{name}/{split}/{seed}/{index}/{size[0]}x{size[1]}"
    digest = hashlib.md5(key.encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))
    return replace(make(rng, assets, split, size, difficulty), id=key)
