"""What a mixture file says: its sources, how much of each an epoch holds, and what is known of them.

Leaves out opening anything: `Mixture.open` does. Reading a file is `nvila.config.load(MixtureConfig, path)`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from nvila import config as config_files
from nvila.errors import ConfigError
from nvila.utils.paths import absolute

MAX_SOURCES = 2**16


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One data set of a mixture.

    At most one of `weight`, `repeat` and `cap` is given; with none of them an epoch holds every sample once.
    Relative paths lie below the mixture's `root`. The last five keys describe and change nothing.
    """

    name: str
    path: str
    """A file, a folder, a glob of files, or an fsspec URL; the name of a generator where that is the format."""
    format: str | None = None
    """A name in `nvila.data.formats.FORMATS`; None recognises it from the records. "generator" draws samples of
    `nvila.data.corpus` when they are read, and needs `weight` or `cap`."""
    media_root: str | None = None
    """Folder that the records' media paths are relative to; of a generator, its assets (default: where
    `nvila data assets` puts them)."""
    sizes: tuple[tuple[int, int], ...] = ()
    """(width, height) in pixels of what a generator draws, in turn; one tile of 112 pixels when empty."""
    weight: float | None = None
    """Share of what the sources without a weight leave of the epoch, relative to the other weights."""
    repeat: float | None = None
    """How often an epoch holds each sample; 0.5 takes another half each time, 1.5 all and another half."""
    cap: int | None = None
    """The most samples an epoch holds; the next epoch goes on where this one stopped."""
    keep: str | None = None
    """A list of sample ids, all others left out: a text file with one a line, or Parquet with a column `id`."""
    drop: str | None = None
    """A list of sample ids to leave out, in the same forms."""
    max_tiles: int | None = None
    """Upper limit of tiles for each picture; a lower one of the sample's own stays."""
    system_prompt: str | None = None
    """The system message of every sample, in place of its own; an empty text takes it away."""
    home: str | None = None
    """Where it is published."""
    licence: str | None = None
    num_samples: int | None = None
    """How many samples its publisher counts."""
    group: str | None = None
    """Its heading in the table that the mixture follows."""
    note: str | None = None

    def __post_init__(self) -> None:
        amounts = {"weight": self.weight, "repeat": self.repeat, "cap": self.cap}
        given = [f"{key} = {value}" for key, value in amounts.items() if value is not None]
        if len(given) > 1:
            raise ConfigError(f"source {self.name!r}: {' and '.join(given)} exclude each other; keep one of them")
        if self.format == "generator" and self.weight is None and self.cap is None:
            raise ConfigError(f"source {self.name!r}: a generator never ends; give it a weight or a cap")
        if self.sizes and self.format != "generator":
            raise ConfigError(f"source {self.name!r}: sizes are for generators; its format is {self.format!r}")
        for key, value in {**amounts, "max_tiles": self.max_tiles}.items():
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"source {self.name!r}: {key} is {value}; it must be above 0 and finite")


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """A mixture: its sources and the rules for all of them."""

    name: str
    source: tuple[SourceConfig, ...]
    root: str = ""
    """Folder or URL below which relative paths lie; empty means the working folder."""
    samples_per_epoch: int | None = None
    """Samples of an epoch where sources have weights; None counts every sample of the weighted sources once."""
    max_broken_share: float = 0.05
    """Share of unreadable samples of one source that stops the stream when it is exceeded."""
    note: str | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.source) <= MAX_SOURCES:
            raise ConfigError(f"a mixture has 1 to {MAX_SOURCES} [[source]] sections; this one has {len(self.source)}")
        names = [source.name for source in self.source]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"the source name {twice[0]!r} is given twice; names must differ")
        if not 0.0 <= self.max_broken_share < 1.0:
            raise ConfigError(f"max_broken_share is {self.max_broken_share}; it must be at least 0 and below 1")
        if self.samples_per_epoch is not None and self.samples_per_epoch < 1:
            raise ConfigError(f"samples_per_epoch is {self.samples_per_epoch}; it must be at least 1")


def data_config(path: str, *, format: str | None = None, media_root: str | None = None) -> MixtureConfig:
    """A data set, or a mixture's file, as a mixture whose paths do not depend on the working folder.

    Raises ConfigError for a mixture that cannot be read, or options that it has places of its own for.
    """
    if path.endswith(".toml"):
        if format is not None or media_root is not None:
            raise ConfigError(f"{path}: a mixture names format and media_root of each source; give them there")
        config = config_files.load(MixtureConfig, path)
        return replace(config, root=absolute(config.root or "."))
    stem = Path(path.rstrip("/")).stem or "data"
    root = None if media_root is None else absolute(media_root)
    source = SourceConfig(name=stem, path=absolute(path), format=format, media_root=root)
    return MixtureConfig(name=stem, source=(source,))
