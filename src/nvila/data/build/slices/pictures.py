"""One sample of a slice: choose the view, mark a place or outline a region, and ask two to five questions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nvila.data.build.maps.atlas import label_boxes
from nvila.data.build.slices import questions
from nvila.data.build.slices import view as views
from nvila.data.build.slices.questions import Asked, Shown
from nvila.data.build.slices.view import View
from nvila.data.build.slices.volumes import GREY, WHITE, Head
from nvila.data.corpus.canvas import chance, damage, make_sample, number, pick
from nvila.types import LabelledBox, Sample

MAX_TURNS = 5
LEAST_BOX_MM2 = 80.0


def make_slice_sample(
    rng: np.random.Generator, head: Head, arrays: dict[str, NDArray[np.uint8]], plane: str, index: int, unit: str
) -> Sample:
    """A slice with its questions.

    `meta`: unit, plane, the slice's place in mm, whether it is mirrored, the map from pixels to voxels (`matrix`), the
    marked pixel or None, and the kinds of the questions. `objects`: boxes of the visible regions, where an atlas is.
    """
    view = views.choose_view(rng, head, plane, index)
    shown = _shown(view, arrays)
    image = views.develop(
        rng, views.look(view, arrays["t1"], smooth=True), views.look(view, arrays["brain"], smooth=False)
    )
    image = damage(rng, image, amount=0.5)
    if plane != "sagittal" and chance(rng, 0.4):
        views.write_sides(image, view)
    asked: list[Asked | None] = [
        questions.ask_plane(rng, view),
        questions.ask_level(rng, view),
        questions.ask_facing(rng, view),
    ]
    marked: tuple[int, int] | None = None
    outlined = [label for label in shown.visible() if shown.areas[label] > 400]
    if outlined and chance(rng, 0.35):
        label = pick(rng, outlined)
        mark = views.write_outline(rng, image, shown.atlas_HW == label)
        asked.append(questions.ask_region(rng, shown, label, mark))
    else:
        marked, found = _ask_marked(rng, shown, image)
        asked += found
    if head.regions:
        asked += [questions.ask_visible(rng, shown), questions.ask_larger(rng, shown), questions.ask_box(rng, shown)]
    kept = [item for item in asked if item is not None]
    chosen = [kept[int(at)] for at in rng.permutation(len(kept))[: number(rng, 3, MAX_TURNS)]]
    return make_sample(
        image,
        *(item.turn for item in chosen),
        task="slices",
        objects=_boxes(shown),
        unit=unit,
        plane=plane,
        mm=view.mm,
        is_mirrored=view.is_mirrored,
        matrix=list(view.matrix),
        marked=None if marked is None else list(marked),
        kinds=[item.kind for item in chosen],
    )


def _shown(view: View, arrays: dict[str, NDArray[np.uint8]]) -> Shown:
    tissue = views.look(view, arrays["tissue"], smooth=False)
    atlas = views.look(view, arrays["atlas"], smooth=False) if view.head.regions else np.zeros_like(tissue)
    areas = np.bincount(atlas.ravel(), minlength=256)
    return Shown(view=view, atlas_HW=atlas, tissue_HW=tissue, areas=areas, boxes=label_boxes(atlas))


def _ask_marked(
    rng: np.random.Generator, shown: Shown, image: Image.Image
) -> tuple[tuple[int, int] | None, list[Asked | None]]:
    """Mark a place, sure in its tissue or deep in a region, and ask about it."""
    label, tissue, at = 0, 0, None
    visible = shown.visible()
    if visible and chance(rng, 0.5):
        label = pick(rng, visible)
        at = questions.deep_point(rng, shown.atlas_HW == label)
    for kind in (GREY, WHITE) if chance(rng, 0.5) else (WHITE, GREY):
        if at is None:
            label, tissue = 0, kind
            at = questions.deep_point(rng, shown.tissue_HW == kind)
    if at is None:
        return None, []
    mark = views.write_mark(rng, image, at)
    asked = [questions.ask_hemisphere(rng, shown.view, at, mark)]
    if label:
        asked.append(questions.ask_region(rng, shown, label, mark))
    else:
        asked.append(questions.ask_tissue(rng, tissue, mark))
    return at, asked


def _boxes(shown: Shown) -> list[LabelledBox]:
    found = []
    for label in shown.visible(LEAST_BOX_MM2):
        left, top, right, bottom = map(float, shown.boxes[label])
        name, side = shown.head.regions[label]
        found.append(LabelledBox(label=f"{side} {name}".strip(), box=(left, top, right, bottom)))
    return found
