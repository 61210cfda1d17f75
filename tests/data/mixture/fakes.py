"""Sources made in the test: samples without media, some of them broken, and mixtures of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nvila.data.mixture import Mixture, MixtureConfig, SourceConfig
from nvila.errors import DataError
from nvila.types import ImagePart, Message, Sample, TextPart


@dataclass(frozen=True)
class FakeSource:
    """`size` samples with the ids "name/0", "name/1", ...; those whose index is in `broken` raise DataError."""

    name: str
    size: int
    broken: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        if index in self.broken:
            raise DataError(f"{self.place(index)}: key 'answer' is missing")
        question = Message(role="user", content=(ImagePart(path="a.png"), TextPart(text="What?")))
        answer = Message(role="assistant", content=(TextPart(text=f"{index}"),))
        return Sample(id=f"{self.name}/{index}", source=self.name, messages=(question, answer))

    def place(self, index: int) -> str:
        return f"{self.name}.jsonl:{index + 1}"


def identify(sample: Sample) -> str:
    """A transform that can be compared and sent between processes."""
    return sample.id


def make_mixture(
    sources: list[FakeSource], options: dict[str, dict[str, Any]] | None = None, **settings: Any
) -> Mixture:
    """A mixture of `sources`, each with its `options[name]`."""
    configs = tuple(
        SourceConfig(name=source.name, path=f"{source.name}.jsonl", **(options or {}).get(source.name, {}))
        for source in sources
    )
    return Mixture(MixtureConfig(name="test", source=configs, **settings), sources)


def small_mixture() -> Mixture:
    """Three sources, 53 samples an epoch: 20 once, 7 one and a half times, 40 with at most 22 an epoch."""
    sources = [FakeSource("a", 20), FakeSource("b", 7), FakeSource("c", 40)]
    return make_mixture(sources, {"b": {"repeat": 1.5}, "c": {"cap": 22}})
