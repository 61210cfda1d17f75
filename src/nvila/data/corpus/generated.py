"""A generator as a data set of a mixture: samples are drawn when they are read, so it never repeats itself."""

from __future__ import annotations

from collections.abc import Sequence

from nvila.data.corpus import GENERATORS, generate
from nvila.data.corpus.assets import Assets
from nvila.data.corpus.canvas import Size
from nvila.errors import ConfigError, nearest
from nvila.types import Sample

NUM_SAMPLES = 10_000_000
TILE: Size = (112, 112)


class GeneratedSource:
    """NUM_SAMPLES samples of generator `task`, of the training side, at full difficulty.

    Sample i has size i modulo the number of `sizes`, and depends on i and the assets alone.
    """

    def __init__(self, task: str, *, name: str, sizes: Sequence[Size] = (), assets: str | None = None) -> None:
        """`assets`: their folder, None for the default one. Raises ConfigError for an unknown task, DataError for
        missing assets."""
        if task not in GENERATORS:
            raise ConfigError(
                f"source {name!r}: no generator is called {task!r}{nearest(task, GENERATORS)}; "
                f"known: {', '.join(GENERATORS)}"
            )
        self.name = name
        self._task = task
        self._sizes = tuple(sizes) or (TILE,)
        self._assets = Assets.load(assets)

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < NUM_SAMPLES:
            raise IndexError(f"{self.name}: sample {index} of {NUM_SAMPLES}")
        size = self._sizes[index % len(self._sizes)]
        return generate(self._task, self._assets, split="train", seed=0, index=index, size=size)

    def place(self, index: int) -> str:
        """The generator and the sample's number."""
        return f"generator {self._task}, sample {index}"
