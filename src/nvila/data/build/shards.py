"""One shard: a tar of samples by WebDataset's convention, `key.json` beside `key.jpg`, `key.png` or `key.mp4`.

A record is in OpenAI's messages form, so that `nvila.data.formats` and other readers know it: parts
`{"type": "image"}` and `{"type": "video"}` stand where the media of `images` and `videos` go. Beside that it has
`answers` (for each question the accepted ones, the taught one first), `boxes` (dense labels of the first picture or
frame, in pixels) and `meta`. A shard appears whole or not at all; bytes depend on the samples alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nvila.data.build.family import Family, Material
from nvila.data.build.media import encode_clip, encode_picture
from nvila.data.corpus.splits import Split
from nvila.errors import DataError
from nvila.types import ImagePart, Message, Sample, TextPart, VideoPart


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """Samples `start` to `stop` (not included) of a family and split, which become shard `number`."""

    family: str
    split: Split
    number: int
    start: int
    stop: int

    @property
    def path(self) -> str:
        """Where the shard lies below the corpus."""
        return f"{self.split}/{self.family}-{self.number:06d}.tar"


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """What a finished shard holds. `digests` are of the encoded pictures and clips, 16 hexadecimal digits each."""

    path: str
    family: str
    split: Split
    samples: int
    questions: int
    images: int
    clips: int
    bytes: int
    sha256: str
    image_digests: tuple[str, ...]
    clip_digests: tuple[str, ...]

    def as_json(self) -> str:
        """The record as one JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ShardRecord:
        """What `as_json` wrote."""
        values = json.loads(text)
        lists = {key: tuple(values[key]) for key in ("image_digests", "clip_digests")}
        return cls(**{**values, **lists})


@dataclass(frozen=True, kw_only=True)
class Made:
    """A sample as it is written: its JSON record, and the extension and file of each of its media in their order."""

    record: dict[str, Any]
    media: list[tuple[str, bytes]]


@dataclass(frozen=True, kw_only=True)
class Units:
    """The units of one family and split: all of them, in the order in which samples are made of them."""

    names: tuple[str, ...]
    order: tuple[int, ...]

    @classmethod
    def of(cls, family: Family, names: Sequence[str], split: Split, seed: int) -> Units:
        """A seeded shuffle of `names`. Raises DataError where there is none."""
        if not names:
            raise DataError(f"family {family.name!r} has 0 units on the side {split}; plan 0 samples for it")
        shuffled = generator(family.name, split, seed, "units").permutation(len(names))
        return cls(names=tuple(names), order=tuple(int(place) for place in shuffled))

    def unit(self, index: int) -> str:
        """What sample `index` is about."""
        return self.names[self.order[index % len(self.order)]]


def generator(family: str, split: Split, seed: int, index: int | str) -> np.random.Generator:
    """The only source of randomness of a sample."""
    digest = hashlib.md5(f"{family}/{split}/{seed}/{index}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


class ShardWriter:
    """Makes shards of one family and split below the folder `out`."""

    def __init__(self, family: Family, material: Material, units: Units, *, seed: int, out: Path) -> None:
        self._family = family
        self._material = material
        self._units = units
        self._seed = seed
        self._out = out

    def write(self, task: ShardTask, on_sample: Callable[[], None]) -> ShardRecord:
        """Make the samples of `task` and put them into its tar. Raises DataError naming the unit that gave none."""
        target = self._out / task.path
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.part")
        tally = _Tally()
        with partial.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for index in range(task.start, task.stop):
                    tally.add(tar, self._sample(task, index), f"{task.family}-{task.split}-{index:07d}")
                    on_sample()
            file.flush()
            os.fsync(file.fileno())
        with partial.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.replace(partial, target)
        return ShardRecord(
            path=task.path,
            family=task.family,
            split=task.split,
            samples=task.stop - task.start,
            questions=tally.num_questions,
            images=len(tally.image_digests),
            clips=len(tally.clip_digests),
            bytes=target.stat().st_size,
            sha256=digest,
            image_digests=tuple(tally.image_digests),
            clip_digests=tuple(tally.clip_digests),
        )

    def _sample(self, task: ShardTask, index: int) -> Made:
        unit = self._units.unit(index)
        rng = generator(task.family, task.split, self._seed, index)
        place = f"family {task.family!r}, unit {unit!r}, {task.split} sample {index}"
        try:
            made = as_record(self._material.make(rng, unit, self._units.names))
        except DataError as error:
            raise DataError(f"{place}: {error}") from error
        except Exception as error:
            error.add_note(place)
            raise
        head = {"id": f"{task.family}/{task.split}/{self._seed}/{index}", "source": task.family, "split": task.split}
        return Made(record={**head, "unit": unit, **made.record}, media=made.media)


class _Tally:
    """Puts samples into a tar and counts what is in them."""

    def __init__(self) -> None:
        self.num_questions = 0
        self.image_digests: list[str] = []
        self.clip_digests: list[str] = []

    def add(self, tar: tarfile.TarFile, made: Made, key: str) -> None:
        record, media = made.record, made.media
        files: list[tuple[str, bytes]] = []
        names: dict[str, list[str]] = {}
        for number, (extension, data) in enumerate(media):
            is_clip = extension == "mp4"
            name = f"{key}.{extension}" if len(media) == 1 else f"{key}.{number}.{extension}"
            names.setdefault("videos" if is_clip else "images", []).append(name)
            digests = self.clip_digests if is_clip else self.image_digests
            digests.append(hashlib.blake2b(data, digest_size=8).hexdigest())
            files.append((name, data))
        self.num_questions += len(record["answers"])
        text = json.dumps({**record, **names}, ensure_ascii=False, default=_plain)
        for name, data in ((f"{key}.json", text.encode("utf-8")), *files):
            _put(tar, name, data)


def as_record(sample: Sample) -> Made:
    """The record of a sample made by a family, without its id and the names of its media."""
    media: list[tuple[str, bytes]] = []
    messages = [{"role": message.role, "content": _content(message, sample, media)} for message in sample.messages]
    boxes = [{"label": item.label, "box": [round(float(side), 2) for side in item.box]} for item in sample.objects]
    record = {"task": sample.meta.get("task", sample.source), "messages": messages, "answers": accepted_answers(sample)}
    told = ("answer", "answers", "accepted", "question", "task")
    meta = {key: value for key, value in sample.meta.items() if key not in told}
    return Made(record={**record, "boxes": boxes, "meta": meta}, media=media)


def accepted_answers(sample: Sample) -> list[list[str]]:
    """For each question what is accepted, the taught answer first.

    Families tell it in `meta`: `accepted` for all questions, or `answers` for the first one. Where nothing is told the
    taught answer is the only one.
    """
    taught = [_text(message) for message in sample.messages if message.role == "assistant"]
    told: list[list[str]] = sample.meta.get("accepted") or [sample.meta.get("answers", taught[:1])]
    every = [[answer] for answer in taught]
    every[: len(told)] = [list(dict.fromkeys([answer, *more])) for answer, more in zip(taught, told, strict=False)]
    return every


def _content(message: Message, sample: Sample, media: list[tuple[str, bytes]]) -> Any:
    if message.role == "assistant":
        return _text(message)
    parts: list[dict[str, str]] = []
    for part in message.content:
        match part:
            case TextPart():
                parts.append({"type": "text", "text": part.text})
            case ImagePart():
                assert part.image is not None, "families make decoded pictures"
                media.append(encode_picture(part.image))
                parts.append({"type": "image"})
            case VideoPart():
                assert part.video is not None, "families make lists of frames"
                assert "fps" in sample.meta, "the meta of a clip says its fps"
                media.append(("mp4", encode_clip(part.video, sample.meta["fps"])))
                parts.append({"type": "video"})
    return parts


def _text(message: Message) -> str:
    return "".join(part.text for part in message.content if isinstance(part, TextPart))


def _put(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """A member without owner or time: those of `TarInfo` are 0."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as JSON has them."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"meta holds a {type(value).__name__}, which JSON cannot; give text, numbers, lists")
