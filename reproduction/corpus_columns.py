"""Pictures of a built corpus as training data and held-out questions in three columns: natural, charts, text.

A corpus is what `nvila data build` makes: shards below `train/` and `heldout/`, no unit on both sides. Pictures that
fit into one tile are left out, because scales mean nothing for them; so are questions that ask for boxes, that yes or
no answers (half of them are right by chance), and answers longer than a line.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from PIL import Image

from nvila.data.corpus.splits import Split
from nvila.errors import DataError
from nvila.utils.atomic import atomic_directory

T = TypeVar("T")

COLUMNS: Mapping[str, Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "natural": {
            "stamps": frozenset(),
            "cutouts": frozenset(),
            "furniture": frozenset(),
            "photos": frozenset(),
            "drawn": frozenset({"naming"}),
        },
        "charts": {"tables": frozenset(), "drawn": frozenset({"bar", "bars", "pie", "line_chart"})},
        "text": {
            "documents": frozenset(),
            "drawn": frozenset({"line", "paragraph", "strip", "receipt", "sign", "word"}),
        },
    }
)
"""The families of each column and, where a family has several tasks, which of them; an empty set means all."""

MAX_ANSWER = 48
"""Characters of the longest answer that is asked for."""
MAX_TURNS = 5
"""Questions about a picture in training, all that it has; a held-out picture has one."""


@dataclass(frozen=True, kw_only=True)
class Picked:
    """One picture of the corpus: the file's name and bytes, its questions, and what each accepts."""

    id: str
    name: str
    data: bytes
    questions: tuple[str, ...]
    answers: tuple[tuple[str, ...], ...]


def write_columns(
    corpus: Path, dest: Path, *, train: int, held_out: int, larger_than: int, families: Collection[str] = ()
) -> None:
    """Write `train.jsonl` (all columns), `heldout.jsonl` and their pictures into the new folder `dest`.

    `train` pictures over all columns, `held_out` of each column, fewer where the corpus has fewer; all have a side of
    more than `larger_than` pixels; `families` leaves out all others, unless it is empty. A record is in OpenAI's
    messages form, with `column` and `answers` beside it. Raises DataError where a column has no picture at all.
    """
    with atomic_directory(dest) as folder:
        counts: dict[Split, int] = {"train": -(-train // len(COLUMNS)), "heldout": held_out}
        for split, wanted in counts.items():
            turns = MAX_TURNS if split == "train" else 1
            lines = []
            for column in COLUMNS:
                found = pick(corpus, split, column, wanted, larger_than=larger_than, families=families)
                for picked in found:
                    place = Path("pictures") / split / picked.name
                    (folder / place).parent.mkdir(parents=True, exist_ok=True)
                    (folder / place).write_bytes(picked.data)
                    lines.append(json.dumps(_record(picked, column, place, turns), ensure_ascii=False))
            (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def pick(
    corpus: Path, split: Split, column: str, count: int, *, larger_than: int, families: Collection[str] = ()
) -> list[Picked]:
    """`count` pictures of a column: drawn ones, which nvila-mini knows, in turns with the other families, which it does
    not, so that half are drawn while there are enough of both, and the others have equal shares."""
    streams = {
        family: pictures(corpus, split, family, tasks, larger_than=larger_than)
        for family, tasks in COLUMNS[column].items()
        if not families or family in families
    }
    drawn = streams.pop("drawn", iter(()))
    found = list(islice(in_turns([drawn, in_turns(list(streams.values()))]), count))
    if not found:
        raise DataError(
            f"{corpus}: has no {split} picture for the column {column!r} ({', '.join(COLUMNS[column])}) with a side "
            f"above {larger_than} pixels; build the full corpus: nvila data build full --out {corpus}"
        )
    return found


def pictures(corpus: Path, split: Split, family: str, tasks: frozenset[str], *, larger_than: int) -> Iterator[Picked]:
    """The pictures of one family that are asked about, in the corpus's order; none where it has no such shards."""
    for shard in sorted((corpus / split).glob(f"{family}-*.tar")):
        with tarfile.open(shard) as tar:
            record: dict[str, Any] = {}
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None, f"{shard} holds {member.name}, which is no file"
                if member.name.endswith(".json"):
                    record = json.load(file)
                elif record.get("images") == [member.name] and (not tasks or record["task"] in tasks):
                    picked = _picked(record, member.name, file.read(), larger_than)
                    if picked is not None:
                        yield picked


def is_asked(accepted: Sequence[str]) -> bool:
    """Whether a question with these answers is used: one line, no box, and nothing that a coin could answer."""
    taught = accepted[0]
    return (
        0 < len(taught) <= MAX_ANSWER
        and "\n" not in taught
        and not taught.startswith("[")
        and taught.lower().rstrip(".") not in ("yes", "no")
    )


def count_columns(path: Path) -> dict[str, int]:
    """How many records of each column a file that `write_columns` made has."""
    return dict(Counter(json.loads(line)["column"] for line in path.read_text(encoding="utf-8").splitlines()))


def _picked(record: Mapping[str, Any], name: str, data: bytes, larger_than: int) -> Picked | None:
    """None where the picture fits into a tile, or no question about it is asked."""
    with Image.open(io.BytesIO(data)) as image:
        if max(image.size) <= larger_than:
            return None
    questions = [_text(turn["content"]) for turn in record["messages"] if turn["role"] == "user"]
    asked = [pair for pair in zip(questions, record["answers"], strict=True) if is_asked(pair[1])]
    if not asked:
        return None
    return Picked(
        id=record["id"],
        name=name,
        data=data,
        questions=tuple(question for question, _ in asked),
        answers=tuple(tuple(accepted) for _, accepted in asked),
    )


def _record(picked: Picked, column: str, place: Path, turns: int) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    for question, accepted in islice(zip(picked.questions, picked.answers, strict=True), turns):
        parts = [{"type": "text", "text": question}]
        messages.append({"role": "user", "content": parts if messages else [{"type": "image"}, *parts]})
        messages.append({"role": "assistant", "content": accepted[0]})
    return {
        "id": picked.id,
        "column": column,
        "images": [place.as_posix()],
        "messages": messages,
        "answers": [list(accepted) for accepted in picked.answers[:turns]],
    }


def _text(content: Any) -> str:
    """The text of a user's turn."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def in_turns(streams: Sequence[Iterator[T]]) -> Iterator[T]:
    """One of each stream after the other; a stream that has ended is left out."""
    waiting = list(streams)
    while waiting:
        for stream in list(waiting):
            picked = next(stream, None)
            if picked is None:
                waiting.remove(stream)
            else:
                yield picked
