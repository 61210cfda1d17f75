"""What tests of the families read off samples and shards."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from nvila.types import ImagePart, Message, Sample, TextPart


def records(corpus: Path, split: str = "train") -> list[dict[str, Any]]:
    """The records of all shards of one side."""
    found = []
    for shard in sorted((corpus / split).glob("*.tar")):
        with tarfile.open(shard) as tar:
            found += [json.load(tar.extractfile(name)) for name in tar.getnames() if name.endswith(".json")]  # type: ignore[arg-type]
    return found


def text_of(message: Message) -> str:
    """The first text of a message."""
    return next(part.text for part in message.content if isinstance(part, TextPart))


def image_of(sample: Sample) -> np.ndarray:
    """The pixels of the picture that a sample begins with."""
    part = sample.messages[0].content[0]
    assert isinstance(part, ImagePart)
    return np.asarray(part.image)


def draw(material: Any, seed: int) -> Sample:
    """A sample of a material, about its unit number `seed`."""
    units = material.units
    sample: Sample = material.make(np.random.default_rng(seed), units[seed % len(units)], units)
    return sample
