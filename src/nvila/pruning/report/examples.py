"""The samples that a report shows: found again in their sources by id, pictures made small.

Nothing here stops a report: a source that is gone or a damaged picture leaves its reason in the picture's place.
Finding a sample by its id reads its source once; mixtures with keep-lists do the same and share the cache.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from nvila.data.formats import SampleSource, open_source
from nvila.data.mixture import SourceConfig, hash_id
from nvila.data.mixture.ids import hashes_of
from nvila.errors import NVILAError
from nvila.processing.media import load_image, load_video
from nvila.pruning.report.data import Looked
from nvila.pruning.scores import ScoredSource
from nvila.types import ImagePart, Message, Sample, TextPart, VideoPart

PICTURE_SIDE = 320
"""Longest side in pixels; frames of clips have half of it."""
NUM_FRAMES = 4
MOST_PICTURES = 4
MOST_LETTERS = 700


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A sample as it is shown. `pictures`: JPEG data URIs with width and height in pixels. `turns`: (role, text)."""

    id: str
    source: str
    pictures: tuple[tuple[str, int, int], ...] = ()
    turns: tuple[tuple[str, str], ...] = ()
    problem: str = ""


def show(
    looked: Looked, wanted: Sequence[int], *, on_progress: Callable[[str], None] = lambda text: None
) -> dict[int, Shown]:
    """The samples with these numbers in `looked`."""
    by_source: dict[str, list[int]] = {}
    for index in wanted:
        by_source.setdefault(looked.sources[looked.source[index]], []).append(index)
    known = {source.name: source for source in looked.manifest.sources}
    found: dict[int, Shown] = {}
    for name, indices in by_source.items():
        on_progress(f"finding examples in {name}")
        ids = {index: looked.ids[index] for index in indices}
        found |= _of_source(name, known.get(name), ids)
    return found


def _of_source(name: str, scored: ScoredSource | None, ids: Mapping[int, str]) -> dict[int, Shown]:
    if scored is None:
        return {index: Shown(id=id, source=name, problem="the manifest of the scores does not list this source")
                for index, id in ids.items()}  # fmt: skip
    try:
        source = open_source(scored.path, name=name, format=scored.format, media_root=scored.media_root)
        config = SourceConfig(name=name, path=scored.path, format=scored.format, media_root=scored.media_root)
        hashes = np.asarray(hashes_of(source, config, path=scored.path))
    except (NVILAError, OSError) as error:
        return {index: Shown(id=id, source=name, problem=str(error)) for index, id in ids.items()}
    return {index: _found(source, id, np.flatnonzero(hashes == np.uint64(hash_id(id)))) for index, id in ids.items()}


def _found(source: SampleSource, id: str, places: Sequence[int] | np.ndarray) -> Shown:
    if not len(places):
        return Shown(id=id, source=source.name, problem="is not in its source any more: the data changed since scoring")
    try:
        sample = source[int(places[0])]
    except (NVILAError, OSError) as error:
        return Shown(id=id, source=source.name, problem=str(error))
    turns = tuple((message.role, _text(message)) for message in sample.messages)
    try:
        return Shown(id=id, source=source.name, pictures=tuple(_pictures(sample)), turns=turns)
    except (NVILAError, OSError) as error:
        return Shown(id=id, source=source.name, turns=turns, problem=str(error))


def _text(message: Message) -> str:
    text = "".join(part.text for part in message.content if isinstance(part, TextPart)).strip()
    return text if len(text) <= MOST_LETTERS else text[:MOST_LETTERS] + " …"


def _pictures(sample: Sample) -> list[tuple[str, int, int]]:
    found: list[tuple[str, int, int]] = []
    for part in (part for message in sample.messages for part in message.content):
        if len(found) >= MOST_PICTURES:
            break
        if isinstance(part, ImagePart):
            given = next(value for value in (part.image, part.path, part.url) if value is not None)
            found.append(_small(load_image(given), PICTURE_SIDE))
        elif isinstance(part, VideoPart):
            clip = next(value for value in (part.video, part.path, part.url) if value is not None)
            found += [_small(frame, PICTURE_SIDE // 2) for frame in load_video(clip, num_frames=NUM_FRAMES)]
    return found[:MOST_PICTURES]


def _small(image: Image.Image, side: int) -> tuple[str, int, int]:
    """A JPEG data URI of the picture within `side` pixels, with its size."""
    copy = image.copy()
    copy.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    copy.save(stream, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}", copy.width, copy.height
