"""What a built corpus says of itself: sources with versions and licences, splits, counts, and every shard's hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from nvila import __version__
from nvila.data.build.plan import SPLITS, Plan
from nvila.data.build.shards import ShardRecord
from nvila.data.corpus.splits import Split

LIBRARIES = ("av", "numpy", "pillow")
"""Whoever has other versions of these may get other bytes."""

NumUnits = Mapping[tuple[str, Split], int]
"""Units of each family and split."""


def libraries() -> dict[str, str]:
    """The versions that bytes depend on."""
    return {"nvila": __version__, **{name: version(name) for name in LIBRARIES}}


def make_manifest(
    plan: Plan,
    *,
    seed: int,
    records: Sequence[ShardRecord],
    num_units: NumUnits,
    prepared: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The manifest of a finished corpus, as plain data. `prepared`: what each family's material was made from."""
    ordered = sorted(records, key=lambda record: record.path)
    families: dict[str, Any] = {}
    for name, share in plan.families.items():
        mine = [record for record in ordered if record.family == name]
        families[name] = {
            "packages": prepared[name]["packages"],
            "licences_inside": prepared[name]["licences_inside"],
            "skip_units": list(share.skip_units),
            "units": {split: num_units[name, split] for split in SPLITS},
            **{split: _counts([record for record in mine if record.split == split]) for split in SPLITS},
        }
    shards = [
        {key: value for key, value in asdict(record).items() if not key.endswith("_digests")} for record in ordered
    ]
    return {
        "seed": seed,
        "shard_size": plan.shard_size,
        "libraries": libraries(),
        "total": _counts(ordered),
        "families": families,
        "shards": shards,
    }


def corpus_table(manifest: Mapping[str, Any]) -> str:
    """The counts of a manifest as text, one line a family and the sum."""
    lines = [
        f"{'family':12s} {'units':>14s} {'samples':>9s} {'questions':>10s} {'images':>8s} {'clips':>7s} {'MB':>8s}"
    ]
    for name, family in manifest["families"].items():
        both = {key: family["train"][key] + family["heldout"][key] for key in family["train"]}
        units = f"{family['units']['train']}+{family['units']['heldout']}"
        lines.append(_row(name, units, both))
    return "\n".join([*lines, _row("all", "", manifest["total"])])


def _row(name: str, units: str, counts: Mapping[str, int]) -> str:
    return (
        f"{name:12s} {units:>14s} {counts['samples']:9,d} {counts['questions']:10,d} {counts['distinct_images']:8,d} "
        f"{counts['distinct_clips']:7,d} {counts['bytes'] / 1e6:8.1f}"
    )


def _counts(records: Sequence[ShardRecord]) -> dict[str, int]:
    """Sums over shards; media are also counted without repetition."""
    sums = {
        key: sum(asdict(record)[key] for record in records)
        for key in ("samples", "questions", "images", "clips", "bytes")
    }
    return {
        **sums,
        "distinct_images": len({digest for record in records for digest in record.image_digests}),
        "distinct_clips": len({digest for record in records for digest in record.clip_digests}),
    }
