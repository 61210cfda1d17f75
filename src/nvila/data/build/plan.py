"""Plans: how many samples of which family a corpus holds. TOML files, some of which come with the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from nvila.config import load
from nvila.data.corpus.splits import Split
from nvila.errors import ConfigError, nearest

SPLITS: tuple[Split, ...] = ("train", "heldout")
_FOLDER = Path(__file__).parent / "plans"


@dataclass(frozen=True, kw_only=True)
class Share:
    """Samples of one family on each side. `skip_units` are patterns (`*/naming/*`) of units that are left out."""

    train: int
    heldout: int = 0
    skip_units: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for split in SPLITS:
            if self.on(split) < 0:
                raise ConfigError(f"{split} is {self.on(split)}; give 0 or more samples")

    def on(self, split: Split) -> int:
        """Samples on one side."""
        return self.train if split == "train" else self.heldout

    def keeps(self, unit: str) -> bool:
        """Whether samples may be about `unit`."""
        return not any(fnmatchcase(unit, pattern) for pattern in self.skip_units)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a corpus holds: a share for each family, and how many samples go into one shard."""

    families: dict[str, Share]
    shard_size: int = 500

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise ConfigError(f"shard_size is {self.shard_size}; give 1 or more samples a shard")
        if not self.families:
            raise ConfigError("the plan names 0 families; give at least one")

    def only(self, names: Sequence[str]) -> Plan:
        """The plan for some of its families. Raises ConfigError for one that it does not have."""
        for name in names:
            if name not in self.families:
                known = ", ".join(self.families)
                raise ConfigError(f"the plan has no family {name!r}{nearest(name, self.families)}; it has: {known}")
        return replace(self, families={name: self.families[name] for name in names})

    def scaled(self, scale: float, splits: Sequence[Split] = SPLITS) -> Plan:
        """`scale` times as many samples (never 0 of some) on `splits`, none elsewhere. Raises ConfigError."""
        if not 0 < scale <= 1000:
            raise ConfigError(f"scale is {scale}; give a number above 0, up to 1000")

        def count(share: Share, split: Split) -> int:
            planned = share.on(split)
            return max(1, round(scale * planned)) if planned and split in splits else 0

        families = {
            name: replace(share, train=count(share, "train"), heldout=count(share, "heldout"))
            for name, share in self.families.items()
        }
        return replace(self, families=families)


def plan_names() -> tuple[str, ...]:
    """The plans that come with the package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def load_plan(name: str) -> Plan:
    """The plan of that name, or the one in that .toml file. Raises ConfigError."""
    if name.endswith(".toml"):
        return load(Plan, name)
    if name not in plan_names():
        raise ConfigError(
            f"unknown corpus {name!r}{nearest(name, plan_names())}; give {', '.join(plan_names())}, or a .toml file"
        )
    return load(Plan, _FOLDER / f"{name}.toml")
