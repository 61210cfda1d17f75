"""What is asked for when samples are scored by features. Defaults of the command line are read from here.

Two criteria. `cluster` is the paper's baseline (section 2.2.1): k-means on SigLIP features of the pictures, an even
draw per centroid. `coverage` is ours to justify: of the published ways to cover a data set it follows MAGIC
(arXiv 2605.26004), because it needs forward passes alone (no gradients as ICONS and TIVE, no training of a selector as
Self-Filter, CoIDO and XMAS), has the best published result at 20 %, and half of it, the image gain, is a criterion of
its own here. What it does differently: MAGIC tells skills apart by the names of the neurons that fire most; here the
decoder's states where the answer is predicted are clustered, as COINCIDE (arXiv 2406.10995) does, since some
neurons fire most whatever the sample (the default-on ones of arXiv 2603.10985).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nvila.errors import ConfigError
from nvila.pruning.score.options import DataOptions, RunOptions, Shard

CRITERIA = ("cluster", "coverage")
SAMPLES_PER_CLUSTER = 64
"""What the number of clusters follows from where none is given; COINCIDE's is 66 on LLaVA's 665 thousand samples."""
MOST_CLUSTERS = 4096


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """One scoring by features. Raises ConfigError for an unknown criterion and values out of range."""

    data: DataOptions
    criterion: str = "cluster"
    model: str = "nvila-mini"
    """cluster: an NVILA, whose vision tower is taken, or a SigLIP folder or hub id. coverage: the small model, any that
    can be scored with."""
    clusters: int | None = None
    """Clusters of each source; None: one for every `SAMPLES_PER_CLUSTER` samples, at most `MOST_CLUSTERS`."""
    seed: int = 0
    batch_images: int = 32
    """Pictures and frames that go through the vision tower at a time."""
    run: RunOptions = field(default_factory=RunOptions)
    shard: Shard = field(default_factory=Shard)

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise ConfigError(f"criterion is {self.criterion!r}; by features there are {' and '.join(CRITERIA)}")
        for name in ("clusters", "batch_images"):
            value = vars(self)[name]
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; give a whole number from 1")

    def num_clusters(self, num_samples: int) -> int:
        """Clusters of a source with so many features."""
        usual = max(min(num_samples, 8), min(MOST_CLUSTERS, num_samples // SAMPLES_PER_CLUSTER))
        return min(num_samples, usual if self.clusters is None else self.clusters)
