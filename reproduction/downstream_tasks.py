"""Five small downstream tasks that nvila-mini was not trained on, in kind like those of the paper's FT-5.

    screen   AITZ             which action opens an app             drawn (`downstream_screens`)
    step     ALFRED           an agent's next step                  drawn (`downstream_scenes`)
    road     nuScenes         where a car ahead drives              drawn (`downstream_scenes`)
    slices   PathVQA          plane, level, side, tissue of a brain slice    the corpus's family `slices`
    widget   Widget Caption   the caption of a framed widget        drawn (`downstream_screens`)

A sample is one picture of one tile, one question, one short answer. Of each task there are three files: `train.jsonl`;
`valid.jsonl`, by which a ratio is chosen; `test.jsonl`, by which rows are scored. The last two are of the held-out
side: other layouts, renderings and wordings; of slices, mostly another person's brain. Leaves out answers of more than
a few words, and slices' names of regions, of which most are too rare to be learned from a thousand samples.
"""

from __future__ import annotations

import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from corpus_columns import in_turns, pictures
from downstream_canvas import SIDE, Drawn
from downstream_scenes import draw_spot, draw_step
from downstream_screens import draw_action, draw_caption
from PIL import Image

from nvila.data.corpus.splits import Split
from nvila.errors import DataError
from nvila.utils.atomic import atomic_directory

DRAWN: Mapping[str, Callable[[np.random.Generator, Split], Drawn]] = MappingProxyType(
    {"screen": draw_action, "step": draw_step, "road": draw_spot, "widget": draw_caption}
)
SLICES = "slices"
TASKS: Mapping[str, str] = MappingProxyType(
    {"screen": "AITZ", "step": "ALFRED", "road": "nuScenes", SLICES: "PathVQA", "widget": "Widget Caption"}
)
"""Our tasks and the paper's that they stand for."""
SLICE_ANSWERS = (
    *("axial", "coronal", "sagittal", "left", "right", "white matter", "grey matter"),
    *("front", "middle", "back", "upper", "lower"),
)
FILES: Mapping[str, Split] = MappingProxyType({"train": "train", "valid": "heldout", "test": "heldout"})


def write_tasks(dest: Path, *, corpus: Path, train: int, valid: int, test: int) -> None:
    """Write a folder for each task with its three files and their pictures into the new folder `dest`.

    `corpus`: a built one with the family `slices`. Raises DataError where it has too few of them.
    """
    wanted = {"train": train, "valid": valid, "test": test}
    with atomic_directory(dest) as folder:
        for task in TASKS:
            held_out = in_order(task, "heldout", corpus, valid + test)
            found = {
                "train": in_order(task, "train", corpus, train),
                "valid": held_out[:valid],
                "test": held_out[valid:],
            }
            for name, items in found.items():
                if len(items) != wanted[name]:
                    raise DataError(
                        f"{corpus}: has {len(items)} samples for {task}/{name} and {wanted[name]} are wanted; build "
                        "the full corpus (nvila data build full), or ask for fewer"
                    )
                _write(folder / task, name, items)


def in_order(task: str, split: Split, corpus: Path, count: int) -> list[Drawn]:
    """The first `count` samples of a task's side, always the same; fewer where the corpus has fewer."""
    stream = slices(corpus, split) if task == SLICES else drawn(task, split)
    return list(islice(stream, count))


def drawn(task: str, split: Split) -> Iterator[Drawn]:
    """Drawn samples without end."""
    number = 0
    while True:
        yield DRAWN[task](np.random.default_rng([zlib.crc32(f"{task}/{split}".encode()), number]), split)
        number += 1


def slices(corpus: Path, split: Split) -> Iterator[Drawn]:
    """Slices of the corpus as one tile, a question each, in turns over the answers, so that all are equally frequent
    while there are enough of each. No slice is shown twice."""
    by_answer: dict[str, list[Drawn]] = {answer: [] for answer in SLICE_ANSWERS}
    for picked in pictures(corpus, split, SLICES, frozenset(), larger_than=0):
        known = [pair for pair in zip(picked.questions, picked.answers, strict=True) if pair[1][0] in by_answer]
        if known:
            question, accepted = min(known, key=lambda pair: len(by_answer[pair[1][0]]))
            image = Image.open(io.BytesIO(picked.data)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            by_answer[accepted[0]].append(Drawn(image=image, question=question, answer=accepted[0]))
    yield from in_turns([iter(found) for found in by_answer.values()])


def commonest(path: Path) -> float:
    """Percent of a file's answers that are its most frequent one: what a model that looks at nothing can reach."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    counts = Counter(record["messages"][-1]["content"] for record in records)
    return 100 * max(counts.values()) / len(records)


def _write(folder: Path, name: str, items: list[Drawn]) -> None:
    place = Path("pictures") / name
    (folder / place).mkdir(parents=True)
    lines = []
    for number, item in enumerate(items):
        picture = place / f"{number:05d}.png"
        item.image.save(folder / picture, compress_level=1)
        lines.append(json.dumps(_record(f"{folder.name}-{name}-{number:05d}", picture, item)) + "\n")
    (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def _record(identifier: str, picture: Path, item: Drawn) -> dict[str, Any]:
    """In OpenAI's messages form."""
    return {
        "id": identifier,
        "images": [picture.as_posix()],
        "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": item.question}]},
            {"role": "assistant", "content": item.answer},
        ],
    }
