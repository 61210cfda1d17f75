"""A generator as a data set of a mixture."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from nvila import config
from nvila.data.corpus import Assets
from nvila.data.corpus.generated import NUM_SAMPLES, GeneratedSource
from nvila.data.mixture import Mixture, MixtureConfig, MixtureStream, SourceConfig, as_is
from nvila.errors import ConfigError
from nvila.types import ImagePart


def picture_sizes(source: GeneratedSource, count: int) -> list[tuple[int, int]]:
    pictures = [source[index].messages[0].content[0] for index in range(count)]
    assert all(isinstance(picture, ImagePart) for picture in pictures)
    return [picture.image.size for picture in pictures]  # type: ignore[union-attr]


def test_samples_follow_from_their_number(assets: Assets) -> None:
    source = GeneratedSource("word", name="words", sizes=[(112, 112), (224, 112)], assets=str(assets.root))
    assert len(source) == NUM_SAMPLES
    assert picture_sizes(source, 3) == [(112, 112), (224, 112), (112, 112)]
    assert source[5].id == source[5].id != source[6].id
    assert "/train/" in source[5].id
    assert source.place(5) == "generator word, sample 5"
    with pytest.raises(IndexError, match="sample 10000000 of 10000000"):
        source[NUM_SAMPLES]


def test_a_mixture_draws_from_it(assets: Assets, tmp_path: Path) -> None:
    file = tmp_path / "mixture.toml"
    file.write_text(
        f"""
        name = "drawn"
        samples_per_epoch = 8
        [[source]]
        name = "words"
        path = "word"
        format = "generator"
        media_root = "{assets.root}"
        sizes = [[112, 112], [224, 112]]
        weight = 3.0
        [[source]]
        name = "names"
        path = "naming"
        format = "generator"
        media_root = "{assets.root}"
        weight = 1.0
        """,
        encoding="utf-8",
    )
    mixture = Mixture.open(config.load(MixtureConfig, file))
    assert mixture.counts == (6, 2)
    samples = list(islice(MixtureStream(mixture, as_is, seed=1), 16))
    assert [sample.id.split("/")[0] for sample in samples].count("word") == 12
    assert len({sample.id for sample in samples}) == 16


def test_what_is_wrong_is_named(assets: Assets) -> None:
    with pytest.raises(ConfigError, match=r"source 'w': no generator is called 'wrod' \(did you mean 'word'\?\)"):
        GeneratedSource("wrod", name="w", assets=str(assets.root))
    with pytest.raises(ConfigError, match="a generator never ends; give it a weight or a cap"):
        SourceConfig(name="w", path="word", format="generator")
    with pytest.raises(ConfigError, match="sizes are for generators; its format is None"):
        SourceConfig(name="w", path="w.jsonl", sizes=((112, 112),))
