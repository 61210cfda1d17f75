"""From data and a model to `scores/cluster` or `scores/coverage`: features, clusters of each source, the draw.

The same command goes on after a stop: features are kept a chunk at a time in `<criterion>/features`. Clusters need all
features, so with shards the process that finds them complete writes the scores.

Top K by score is the method's draw for every K, for each source and for all together: clusters are those of one source.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nvila.errors import DataError
from nvila.pruning.features.clusters import cluster_labels
from nvila.pruning.features.draw import coverage_turns, even_turns
from nvila.pruning.features.options import FeatureOptions
from nvila.pruning.features.skills import SkillsExtractor
from nvila.pruning.features.store import Extractor, StoredFeatures, extract, read_part
from nvila.pruning.features.towers import LooksExtractor
from nvila.pruning.score.criteria import random_score
from nvila.pruning.score.data import Corpus
from nvila.pruning.score.models import device_of, fingerprint
from nvila.pruning.scores import (
    Manifest,
    ScoringModel,
    agree,
    find_criterion,
    finished_parts,
    mark_complete,
    read_manifest,
    schema,
    write_part,
)
from nvila.utils.device import choose_dtype

OWN_FIELDS: Mapping[str, tuple[pa.Field, ...]] = {
    "cluster": (pa.field("cluster", pa.int32()), pa.field("place", pa.int32())),
    "coverage": (pa.field("cluster", pa.int32()), pa.field("place", pa.int32()), pa.field("gain_mean", pa.float64())),
}
"""`cluster`: the number of the sample's cluster in its source. `place`: how many of it come before the sample."""

F64 = NDArray[np.float64]
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class FeatureReport:
    """What a scoring by features came to. `by_status` is empty while other shards are still to come."""

    folder: Path
    num_samples: int
    seconds: float
    by_status: Mapping[str, int]
    is_complete: bool


def score_by_features(
    out: Path, options: FeatureOptions, *, on_progress: OnProgress = lambda name, done, total: None
) -> FeatureReport:
    """Compute this shard's features, and once all are there, the scores in `out/<criterion>`.

    Raises ConfigError where that folder holds other scores or a package is missing, DataError where too many samples
    are broken, or where coverage finds no image gain of the same data below `out`.
    """
    start = time.monotonic()
    corpus = Corpus(options.data)
    folder = out / options.criterion
    if options.criterion == "coverage":
        _gain_folder(out, corpus)  # before the long work
    agree(folder, _manifest(corpus, options))
    chunks = range(options.shard.index, corpus.num_chunks, options.shard.count)
    total = sum(len(corpus.chunk(chunk)) for chunk in chunks)
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        on_progress("features", done, total)

    extract(
        corpus,
        lambda: _extractor(options),
        chunks,
        folder / "features",
        shard=options.shard.index,
        max_broken=options.run.max_broken,
        on_samples=tell,
    )
    is_complete = len(finished_parts(folder / "features")) == corpus.num_chunks
    by_status = _write_scores(out, folder, corpus, options, on_progress) if is_complete else {}
    return FeatureReport(
        folder=folder,
        num_samples=len(corpus),
        seconds=time.monotonic() - start,
        by_status=by_status,
        is_complete=is_complete,
    )


def _extractor(options: FeatureOptions) -> Extractor:
    if options.criterion == "cluster":
        return LooksExtractor(options.model, options.run, batch_images=options.batch_images)
    return SkillsExtractor(options.model, options.run)


def _manifest(corpus: Corpus, options: FeatureOptions) -> Manifest:
    run = options.run
    told: dict[str, Any] = {"chunk_samples": corpus.chunk_samples, "clusters": options.clusters, "seed": options.seed}
    told["num_frames"] = run.num_frames
    if options.criterion == "coverage":
        told |= {"max_tokens": run.max_tokens, "max_tiles": run.max_tiles}
    told["dtype"] = str(choose_dtype(run.dtype, device_of(run))).removeprefix("torch.")
    model = ScoringModel(role="model", name=options.model, fingerprint=fingerprint(options.model))
    return Manifest(criterion=options.criterion, sources=corpus.sources, models=(model,), options=told)


def _write_scores(
    out: Path, folder: Path, corpus: Corpus, options: FeatureOptions, on_progress: OnProgress
) -> dict[str, int]:
    """The parts of scores from finished features; returns how many samples have each status."""
    stored = StoredFeatures.open(folder / "features")
    keys = np.concatenate([_keys(path, options.seed) for path in stored.parts.values()])
    gain = _gains(out, corpus, stored) if options.criterion == "coverage" else np.full(len(keys), np.nan)
    cluster, place = np.full(len(keys), -1, np.int32), np.full(len(keys), -1, np.int32)
    scores = np.full(len(keys), np.nan)
    num_done = 0
    for source in corpus.sources:
        on_progress("clusters", num_done, len(corpus))
        num_done += source.num_samples
        own = (stored.sources == source.name) & stored.is_ok
        if not own.any():
            continue
        count = options.num_clusters(int(own.sum()))
        labels = cluster_labels(stored, own, num_clusters=count, keys=keys, seed=options.seed)[own]
        is_even = options.criterion == "cluster"
        found, places = even_turns(labels, keys[own]) if is_even else coverage_turns(labels, gain[own], keys[own])
        cluster[own], place[own], scores[own] = labels, places, -found
    statuses: Counter[str] = Counter()
    done = finished_parts(folder)
    for number, (chunk, path) in enumerate(stored.parts.items()):
        inside = slice(stored.borders[number], stored.borders[number + 1])
        told = {"cluster": cluster[inside], "place": place[inside], "gain_mean": gain[inside]}
        table = _score_table(read_part(path), scores[inside], told, options.criterion)
        statuses.update(table["status"].to_pylist())
        if chunk not in done:
            write_part(folder, 0, chunk, table)
    mark_complete(folder)
    return dict(statuses.most_common())


def _score_table(rows: pa.Table, scores: F64, told: Mapping[str, Any], criterion: str) -> pa.Table:
    columns = schema(OWN_FIELDS[criterion])
    missing = np.isnan(scores)
    own = {
        field.name: pa.array(told[field.name], field.type, mask=missing | np.isnan(told[field.name]))
        for field in OWN_FIELDS[criterion]
    }
    common = {name: rows[name] for name in ("id", "source", "status", "num_tokens")}
    return pa.table({**common, "score": pa.array(scores, mask=missing), **own}, schema=columns)


def _keys(path: Path, seed: int) -> F64:
    """A random number for each sample of a part that follows from its id and the seed alone."""
    return np.array([random_score(identifier, seed) for identifier in read_part(path, ("id",))["id"].to_pylist()])


def _gain_folder(out: Path, corpus: Corpus) -> Path:
    """The finished image gain of the same data. Raises DataError with the command that makes it."""
    folder = find_criterion(out, "image_gain")
    manifest = read_manifest(folder)
    if not manifest.complete:
        raise DataError(
            f"{folder}: is not complete; run `nvila prune score ... --criterion image_gain` to its end first"
        )
    if manifest.sources != corpus.sources:
        raise DataError(f"{folder}: is of other data than those given; score the image gain of the same data first")
    return folder


def _gains(out: Path, corpus: Corpus, stored: StoredFeatures) -> F64:
    """(N,) the gain per token (or byte) of each sample, nan where it has none, in the order of the features."""
    folder = _gain_folder(out, corpus)
    gains: list[F64] = []
    theirs, ours = _ids(finished_parts(folder).values()), _ids(stored.parts.values())
    for path in finished_parts(folder).values():
        table = read_part(path, ("gain_mean",))
        gains.append(table["gain_mean"].cast(pa.float64()).to_numpy())
    for number, (one, other) in enumerate(zip(theirs, ours, strict=True)):
        if one != other:
            raise DataError(
                f"{folder}: sample {number} is {one!r:.80}, here {other!r:.80}; the data changed: score again"
            )
    return np.concatenate(gains)


def _ids(paths: Any) -> Iterator[str]:
    for path in paths:
        yield from read_part(path, ("id",))["id"].to_pylist()
