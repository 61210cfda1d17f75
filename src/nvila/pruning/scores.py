"""The folder that scores live in: who writes it, who reads it, and what a kill leaves of it.

`scores/<criterion>/` holds `manifest.json` and parts, `part-<shard>-<chunk>.parquet` (five digits each or more). A
chunk is a stretch of so many samples of the data, sources end to end, so that its number says which samples it holds
whatever the number of processes. A part is written under another name and renamed, and never written again: a chunk is
finished where a part of it lies, whichever shard it came from. Everything else in the folder is no reader's business.

Each row is a sample: `id`, `source`, `status`, `num_tokens`, `score` and the criterion's own columns.
Leaves out making scores (`nvila.pruning.score`) and choosing by them (`nvila.pruning.select`).
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nvila.errors import ConfigError, DataError, nearest
from nvila.utils.atomic import atomic_write_bytes, atomic_write_text

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
OK = "ok"
BROKEN = ("broken_media", "unreadable")
"""Statuses of samples that no training can read either; too many of them stop a scoring."""
STATUSES = (OK, "no_answer", "no_media", "too_long", *BROKEN, "not_finite")
"""`ok`: has a score. `no_answer`: nothing to score; `no_media`: no picture or clip, where the criterion is about them;
`too_long`: over the limit of tokens; `broken_media`: a picture or clip is missing or damaged; `unreadable`: the record
is malformed, or a processor refuses it; `not_finite`: a model gave no finite number."""

BASE_FIELDS = (
    pa.field("id", pa.string()),
    pa.field("source", pa.string()),
    pa.field("status", pa.string()),
    pa.field("num_tokens", pa.int32()),
    pa.field("score", pa.float64()),
)
"""`num_tokens`: tokens of the answers, 0 where they were not counted. `score`: higher is kept; null unless `ok`."""

OWN_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "deltaloss": ("log_p_large", "log_p_small", "delta", "delta_mean"),
    "image_gain": ("log_p_with", "log_p_without", "gain", "gain_mean"),
    "random": (),
}
"""Float64 columns of the criteria that are scored here; other criteria bring their own schema."""

_PART = re.compile(r"part-(\d{5,})-(\d{5,})\.parquet")


@dataclass(frozen=True, kw_only=True)
class ScoredSource:
    """A data set that was scored, and how to open it again (`nvila.data.formats.open_source`)."""

    name: str
    path: str
    num_samples: int
    format: str | None = None
    media_root: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScoringModel:
    """A model that scored: its part (`large`, `small`, `model`), its name as given, and what its weights look like."""

    role: str
    name: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder of scores is about. `options` holds plain JSON values; `complete` when no chunk is missing."""

    criterion: str
    sources: tuple[ScoredSource, ...]
    models: tuple[ScoringModel, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = False
    format_version: int = FORMAT_VERSION

    @property
    def num_samples(self) -> int:
        """Samples of all sources."""
        return sum(source.num_samples for source in self.sources)


def schema(own: str | Iterable[pa.Field]) -> pa.Schema:
    """The columns of a part: the common ones, then those of the criterion named (`OWN_COLUMNS`) or the fields given."""
    extra = [pa.field(name, pa.float64()) for name in OWN_COLUMNS[own]] if isinstance(own, str) else list(own)
    return pa.schema([*BASE_FIELDS, *extra])


def part_path(folder: Path, shard: int, chunk: int) -> Path:
    """Where shard `shard` writes chunk `chunk`."""
    return folder / f"part-{shard:05d}-{chunk:05d}.parquet"


def write_part(folder: Path, shard: int, chunk: int, table: pa.Table) -> Path:
    """Put a finished chunk into the folder, whole or not at all. Raises OSError as the system gives it."""
    path = part_path(folder, shard, chunk)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    atomic_write_bytes(path, buffer.getvalue())
    return path


def finished_parts(folder: Path) -> dict[int, Path]:
    """The part of each finished chunk, by the chunk's number, rising.

    Raises DataError where two shards left the same chunk, which would count its samples twice.
    """
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _PART.fullmatch(path.name)
        if match is None:
            continue
        earlier = found.setdefault(int(match[2]), path)
        if earlier != path:
            raise DataError(f"{folder}: {earlier.name} and {path.name} hold the same samples; remove one of them")
    return dict(sorted(found.items()))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Put the manifest into the folder, which is made."""
    atomic_write_text(folder / MANIFEST, json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """What the folder is about. Raises DataError where it has no manifest, a damaged one, or one of a later format."""
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version = data.pop("format_version")
        if version != FORMAT_VERSION:
            raise DataError(
                f"{path}: has format_version {version}, but this release reads {FORMAT_VERSION}; "
                "score again, or use the release that wrote it"
            )
        sources = tuple(ScoredSource(**source) for source in data.pop("sources"))
        models = tuple(ScoringModel(**model) for model in data.pop("models"))
        return Manifest(sources=sources, models=models, **data)
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing; give a folder that `nvila prune score` wrote") from error
    except DataError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise DataError(f"{path}: is no manifest of scores ({error!r:.120}); score again into a new folder") from error


def agree(folder: Path, wanted: Manifest) -> None:
    """Start the folder, or go on with it: writes the manifest where there is none.

    Models may have moved: they are told apart by their fingerprints. Raises ConfigError where the folder holds scores
    of something else, naming the first thing that differs.
    """
    if not (folder / MANIFEST).exists():
        write_manifest(folder, wanted)
        return
    there = dataclasses.replace(read_manifest(folder), complete=wanted.complete)
    before, now = (_told(one) for one in (there, wanted))
    path, old, new = next(_differences(before, now, ""), ("", None, None))
    if path:
        raise ConfigError(
            f"{folder} holds scores with {path} = {old!r:.100}, but {new!r:.100} is asked for; "
            "give another --out, or remove that folder"
        )


def mark_complete(folder: Path) -> None:
    """Say in the manifest that every chunk is there."""
    write_manifest(folder, dataclasses.replace(read_manifest(folder), complete=True))


def find_scores(root: Path) -> dict[str, Path]:
    """The folder of each criterion below `root`, by its name; `root` may be one criterion's folder itself.

    Raises DataError where there is none.
    """
    if (root / MANIFEST).is_file():
        return {read_manifest(root).criterion: root}
    below = sorted(path.parent for path in root.glob(f"*/{MANIFEST}"))
    if not below:
        raise DataError(f"{root}: holds no scores; write some with: nvila prune score DATA --out {root}")
    return {read_manifest(folder).criterion: folder for folder in below}


def find_criterion(root: Path, criterion: str) -> Path:
    """The folder of one criterion below `root`. Raises DataError naming those that are there."""
    found = find_scores(root)
    if criterion not in found:
        there = ", ".join(sorted(found))
        raise DataError(
            f"{root}: holds no scores by {criterion!r}{nearest(criterion, found)}; there are: {there}; "
            f"make them with: nvila prune score DATA --criterion {criterion} --out {root}"
        )
    return found[criterion]


def table_of(rows: Sequence[Mapping[str, Any]], columns: pa.Schema) -> pa.Table:
    """Rows by column name as a table; a column that a row does not have is null there."""
    return pa.table({name: [row.get(name) for row in rows] for name in columns.names}, schema=columns)


def _told(manifest: Manifest) -> dict[str, Any]:
    """What must agree, as JSON holds it."""
    told: dict[str, Any] = json.loads(json.dumps(asdict(manifest)))
    for model in told["models"]:
        del model["name"]
    return told


def _differences(before: Any, now: Any, path: str) -> Any:
    """(path, before, now) of every plain value that differs; lists of other lengths differ as a whole."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, pair in enumerate(zip(before, now, strict=True)):
            yield from _differences(*pair, f"{path}[{index}]")
    elif before != now:
        yield path, before, now
