"""A corpus of three sub-data-sets with what real ones have too much of: near-duplicates of easy samples, wrong answers.

Each sub-data-set (`natural`, `charts`, `text`, the columns of Table 1) holds samples of four kinds:

    fresh      drawn anew, right, and as hard as the generators make them
    easy       drawn anew, right, and easy, each the origin of many near-duplicates
    duplicate  an easy one again, moved by a few pixels and a little lighter or darker
    wrong      drawn anew, with the answer to another question of the same task and sort

One picture of one tile, one question, one answer each; questions for yes or no, which a coin answers, are left out.
What kind a sample is stands in `kinds.json`, which no criterion reads. The weak source of the paper's second
experiment is made alike, with fewer fresh samples and more wrong ones.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from corpus_columns import is_asked
from PIL import Image

from nvila.data.corpus import Assets, generate
from nvila.data.corpus.splits import Split
from nvila.types import ImagePart, Sample, TextPart
from nvila.utils.atomic import atomic_directory

Kind = Literal["fresh", "easy", "duplicate", "wrong"]

FRESH: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "natural": ("naming", "tally", "position"),
        "charts": ("bars", "line_chart", "pie"),
        "text": ("word", "short_word"),
    }
)
"""The generators of each sub-data-set, in turns; those of the held-out questions too."""
EASY: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"natural": ("color", "shape"), "charts": ("line_chart",), "text": ("short_word",)}
)
"""The generators of easy samples: a model of half of nvila-mini's layers learns these first."""
WEAK = "weak"
"""The source of the second experiment: the generators of all three, in turns."""

MOVED, LIGHTER = 3, 0.06
"""How far a near-duplicate may be off: pixels, and a part of its brightness."""
_SEEDS: Mapping[str, int] = MappingProxyType({"natural": 1, "charts": 1, "text": 1, WEAK: 2})
"""Of the generators; 0 is what models are prepared with."""


@dataclass(frozen=True, kw_only=True)
class Portions:
    """Parts of a sub-data-set; what is left is `fresh`. `copies`: near-duplicates of each easy sample."""

    duplicates: float = 0.5
    wrong: float = 0.15
    copies: int = 30

    def counts(self, samples: int) -> dict[Kind, int]:
        """Samples of each kind."""
        repeated, wrong = round(self.duplicates * samples), round(self.wrong * samples)
        easy = -(-repeated // (self.copies + 1))
        return {"fresh": samples - repeated - wrong, "easy": easy, "duplicate": repeated - easy, "wrong": wrong}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A picture (RGB), a question about it, and the answers that are accepted, the taught one first."""

    task: str
    image: Image.Image
    question: str
    accepted: tuple[str, ...]
    kind: Kind = "fresh"


def write_corpus(
    dest: Path, *, samples: int, portions: Portions, weak_samples: int, weak: Portions, held_out: int, assets: Assets
) -> None:
    """Write the sub-data-sets, the weak source, `heldout.jsonl`, two mixtures and `kinds.json` into the folder `dest`.

    `samples` of each sub-data-set, `weak_samples` of the weak source, `held_out` questions of each column.
    """
    with atomic_directory(dest) as folder:
        kinds = {}
        for name in FRESH:
            kinds[name] = _write_source(folder, name, sub_data_set(name, samples, portions, assets))
        kinds[WEAK] = _write_source(folder, WEAK, sub_data_set(WEAK, weak_samples, weak, assets))
        lines = []
        for column, tasks in FRESH.items():
            stream = drawn(tasks, assets, split="heldout", seed=0)
            for number in range(held_out):
                asked = next(stream)
                lines.append({"column": column, **_record(f"{column}-{number}", asked, folder, "heldout")})
        _write_lines(folder / "heldout.jsonl", lines)
        (folder / "kinds.json").write_text(json.dumps(kinds), encoding="utf-8")
        (folder / "corpus.toml").write_text(mixture_text("corpus", dict.fromkeys(FRESH), dest), "utf-8")
        (folder / f"{WEAK}.toml").write_text(mixture_text(WEAK, {WEAK: None}, dest), "utf-8")


def mixture_text(name: str, sources: Mapping[str, Path | None], data: Path) -> str:
    """A mixture of sources in the folder `data`, each with a keep-list or all of it, as TOML."""
    lines = [f"name = {json.dumps(name)}"]
    for source, keep in sources.items():
        path = json.dumps(str(data / f"{source}.jsonl"))
        lines += ["", "[[source]]", f'name = "{source}"', f"path = {path}", 'format = "openai"']
        lines += [] if keep is None else [f"keep = {json.dumps(str(keep))}"]
    return "\n".join(lines) + "\n"


def read_kinds(data: Path) -> dict[str, dict[str, Kind]]:
    """Of each source the kind of each sample by its id."""
    found: dict[str, dict[str, Kind]] = json.loads((data / "kinds.json").read_text(encoding="utf-8"))
    return found


def count_kinds(kinds: Mapping[str, Mapping[str, Kind]], sources: Sequence[str]) -> dict[str, int]:
    """How many samples of each kind these sources have together."""
    return dict(Counter(kind for source in sources for kind in kinds[source].values()))


def sub_data_set(name: str, samples: int, portions: Portions, assets: Assets) -> list[Asked]:
    """The samples of a sub-data-set or of the weak source, in a random order that is always the same."""
    seed = _SEEDS[name]
    tasks, easy_tasks = (sides[name] if name in sides else _joined(sides) for sides in (FRESH, EASY))
    counts = portions.counts(samples)
    rng = np.random.default_rng(seed)
    stream = drawn(tasks, assets, split="train", seed=seed)
    found = [next(stream) for _ in range(counts["fresh"])]
    found += [next(answered_wrongly(stream)) for _ in range(counts["wrong"])]
    easy_stream = drawn(easy_tasks, assets, split="train", seed=seed + 100, difficulty=0.0)
    easy = [replace(next(easy_stream), kind="easy") for _ in range(counts["easy"])]
    found += easy
    for number in range(counts["duplicate"]):
        origin = easy[number % len(easy)]
        found.append(replace(origin, image=altered(origin.image, rng), kind="duplicate"))
    return [found[place] for place in rng.permutation(len(found))]


def drawn(tasks: Sequence[str], assets: Assets, *, split: Split, seed: int, difficulty: float = 1.0) -> Iterator[Asked]:
    """Samples of these generators in turns, without end: of each picture the first question that is asked."""
    for index in count():
        task = tasks[index % len(tasks)]
        sample = generate(task, assets, split=split, seed=seed, index=index, size=(112, 112), difficulty=difficulty)
        asked = _first_asked(task, sample)
        if asked is not None:
            yield asked


def answered_wrongly(stream: Iterator[Asked]) -> Iterator[Asked]:
    """Samples of `stream` with the answer of the one before of the same task and sort (numbers, words), if wrong."""
    before: dict[tuple[str, bool], deque[str]] = {}
    for asked in stream:
        taught = asked.accepted[0]
        others = before.setdefault((asked.task, taught.isdecimal()), deque(maxlen=1))
        other = others[0] if others else taught
        others.append(taught)
        if other.lower() not in {answer.lower() for answer in asked.accepted}:
            yield replace(asked, accepted=(other,), kind="wrong")


def altered(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The picture moved by up to MOVED pixels each way, its border stretched, and a little lighter or darker."""
    right, down = (int(value) for value in rng.integers(-MOVED, MOVED + 1, size=2))
    pixels = np.pad(np.asarray(image, np.float32), ((MOVED, MOVED), (MOVED, MOVED), (0, 0)), mode="edge")
    top, left = MOVED + down, MOVED + right
    moved = pixels[top : top + image.height, left : left + image.width]
    factor = 1.0 + float(rng.uniform(-LIGHTER, LIGHTER))
    return Image.fromarray(np.clip(moved * factor, 0, 255).round().astype(np.uint8))


def _joined(sides: Mapping[str, Sequence[str]]) -> list[str]:
    """One task of each sub-data-set after the other, six times, so that all have equal shares."""
    return [tasks[turn % len(tasks)] for turn in range(6) for tasks in sides.values()]


def _first_asked(task: str, sample: Sample) -> Asked | None:
    images = [part.image for message in sample.messages for part in message.content if isinstance(part, ImagePart)]
    (image,) = images
    assert isinstance(image, Image.Image), "generators draw their pictures"
    questions = [message for message in sample.messages if message.role == "user"]
    for message, accepted in zip(questions, sample.meta["accepted"], strict=True):
        if is_asked(accepted):
            text = "".join(part.text for part in message.content if isinstance(part, TextPart))
            return Asked(task=task, image=image.convert("RGB"), question=text, accepted=tuple(accepted))
    return None


def _write_source(folder: Path, name: str, found: Sequence[Asked]) -> dict[str, Kind]:
    """Writes `name`.jsonl and its pictures; returns the kinds by id. Ids tell nothing about kinds."""
    kinds: dict[str, Kind] = {}
    lines = []
    for number, asked in enumerate(found):
        identifier = hashlib.blake2b(f"{name}/{number}".encode(), digest_size=6).hexdigest()
        kinds[identifier] = asked.kind
        lines.append(_record(identifier, asked, folder, name))
    _write_lines(folder / f"{name}.jsonl", lines)
    return kinds


def _record(identifier: str, asked: Asked, folder: Path, side: str) -> dict[str, Any]:
    place = Path("pictures") / side / f"{identifier}.png"
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    asked.image.save(folder / place, compress_level=1)
    return {
        "id": identifier,
        "images": [place.as_posix()],
        "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": asked.question}]},
            {"role": "assistant", "content": asked.accepted[0]},
        ],
        "answers": [list(asked.accepted)],
    }


def _write_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
