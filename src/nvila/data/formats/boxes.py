"""Boxes: ms-swift's `objects`, whose names and boxes stand in the texts, and the dense labels under `boxes`.

In ms-swift's texts `<ref-object>` stands for a name and `<bbox>` for a box.

A box is written into the text as `[left, top, right, bottom]`, a point as `[x, y]`, in thousandths of the picture's
width and height, so that it stays true however the picture is resized. Boxes of the first picture that have a name
each become the sample's dense labels, in pixels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from nvila.data.formats.base import Draft, Record, Turn, Where, mapping_at, text_at
from nvila.data.formats.media import image_part, image_size
from nvila.types import LabelledBox

_MARK = re.compile(r"<ref-object>|<bbox>")
_THOUSANDTHS = 1000


def with_boxes(draft: Draft, objects: Any, where: Where) -> Draft:
    """`draft` with the marks in its texts replaced from `objects`.

    Raises RecordError where marks and entries disagree in number, and for boxes outside of the picture.
    """
    given = mapping_at(objects or {}, "objects", where)
    names = [str(name) for name in _entries(given, "ref", where)]
    boxes = [
        _coordinates(box, f"objects.bbox[{number}]", where) for number, box in enumerate(_entries(given, "bbox", where))
    ]
    _check_count("<ref-object>", draft.turns, names, "objects.ref", where)
    _check_count("<bbox>", draft.turns, boxes, "objects.bbox", where)
    if not names and not boxes:
        return draft
    owners = _owners(given, boxes, len(draft.images), where)
    pixels = _in_pixels(boxes, owners, str(given.get("bbox_type", "real")), draft.images, where)
    entries = {"<ref-object>": iter(names), "<bbox>": iter([text for text, _ in pixels])}
    turns = [_replaced(turn, entries) for turn in draft.turns]
    labels = [
        LabelledBox(label=name, box=(box[0], box[1], box[2], box[3]))
        for name, (_, box), owner in zip(names, pixels, owners, strict=False)
        if len(names) == len(boxes) and owner == 0 and len(box) == 4
    ]
    return Draft(turns=turns, images=draft.images, videos=draft.videos, objects=labels, meta=draft.meta)


def labels_of(record: Record, where: Where) -> list[LabelledBox]:
    """Dense labels under `boxes`: a list of {label, box}, a box being left, top, right, bottom in pixels.

    Lists of another shape under that key are not ours, and give none. Raises RecordError for boxes that cannot be.
    """
    given = record.get("boxes")
    if not isinstance(given, list | tuple) or not all(isinstance(item, Mapping) and "box" in item for item in given):
        return []
    return [_label(item, f"boxes[{number}]", where) for number, item in enumerate(given)]


def _label(item: Mapping[str, Any], key: str, where: Where) -> LabelledBox:
    box = _coordinates(item["box"], f"{key}.box", where)
    if len(box) != 4 or box[0] > box[2] or box[1] > box[3]:
        raise where.error(f"{key}.box is {box!r:.60}; give left, top, right, bottom in pixels")
    label = text_at(item.get("label"), f"{key}.label", where)
    return LabelledBox(label=label, box=(box[0], box[1], box[2], box[3]))


def _entries(given: dict[str, Any], key: str, where: Where) -> list[Any]:
    """The list under `key` of `objects`; empty where there is none."""
    value = given.get(key, ())
    if not isinstance(value, list | tuple):
        raise where.error(f"objects.{key} is a {type(value).__name__}; it must be a list")
    return list(value)


def _replaced(turn: Turn, entries: dict[str, Any]) -> Turn:
    if isinstance(turn.content, str):
        text = _MARK.sub(lambda match: next(entries[match[0]]), turn.content)
        return Turn(role=turn.role, content=text, key=turn.key, learned=turn.learned)
    return turn


def _check_count(mark: str, turns: Sequence[Turn], entries: Sequence[Any], key: str, where: Where) -> None:
    found = sum(turn.content.count(mark) for turn in turns if isinstance(turn.content, str))
    if found != len(entries) and (found or mark == "<bbox>"):
        raise where.error(f"{found} {mark} marks and {len(entries)} entries in {key}; make them equal", kind="count")


def _coordinates(box: Any, key: str, where: Where) -> list[float]:
    is_numeric = isinstance(box, list | tuple) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9 for value in box
    )
    if not is_numeric or len(box) not in (2, 4):
        raise where.error(f"{key} is {box!r:.60}; give 4 numbers for a box or 2 for a point")
    return [float(value) for value in box]


def _owners(given: dict[str, Any], boxes: Sequence[Any], num_images: int, where: Where) -> list[int]:
    """Which picture each box lies in: `image_id`, or the first."""
    owners = _entries(given, "image_id", where) or [0] * len(boxes)
    if len(owners) != len(boxes):
        raise where.error(f"{len(owners)} image_id and {len(boxes)} bbox in objects; make them equal", kind="count")
    for owner in owners:
        if not isinstance(owner, int) or not 0 <= owner < num_images:
            raise where.error(f"objects.image_id names picture {owner!r} of {num_images}; count from 0", kind="count")
    return owners


def _in_pixels(
    boxes: Sequence[list[float]], owners: Sequence[int], kind: str, images: Sequence[Any], where: Where
) -> list[tuple[str, list[float]]]:
    """Each box as text in thousandths, and in pixels."""
    if kind not in ("real", "norm1"):
        raise where.error(f"objects.bbox_type is {kind!r}; known are real (pixels) and norm1 (0 to 1)")
    sizes = {
        owner: image_size(image_part(images[owner], f"images[{owner}]", where), f"images[{owner}]", where)
        for owner in set(owners)
    }
    found = []
    for number, (box, owner) in enumerate(zip(boxes, owners, strict=True)):
        limits = [sizes[owner][axis % 2] for axis in range(len(box))]
        shares = [value / limit if kind == "real" else value for value, limit in zip(box, limits, strict=True)]
        is_inverted = any(start > end for start, end in zip(shares[:2], shares[2:], strict=False))
        if is_inverted or any(not 0 <= share <= 1 for share in shares):
            width, height = sizes[owner]
            raise where.error(
                f"objects.bbox[{number}] is {box}, no box inside its picture of {width} x {height} pixels"
            )
        text = "[" + ", ".join(str(round(share * _THOUSANDTHS)) for share in shares) + "]"
        found.append((text, [share * limit for share, limit in zip(shares, limits, strict=True)]))
    return found
