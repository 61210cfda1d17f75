"""How tests of formats show samples and write records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nvila.types import ImagePart, Part, Sample, TextPart, VideoPart


def shape_of(sample: Sample) -> list[tuple[str, list[str]]]:
    """The turns as (role, parts), a part being its text, `image:a.png` or `video:a.mp4`."""
    return [(message.role, [_shown(part) for part in message.content]) for message in sample.messages]


def _shown(part: Part) -> str:
    if isinstance(part, TextPart):
        return part.text
    kind = "image" if isinstance(part, ImagePart) else "video"
    assert isinstance(part, ImagePart | VideoPart)
    return f"{kind}:{part.path or part.url or 'pixels'}"


def write_lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path
