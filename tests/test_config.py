"""Recipes as TOML: what is accepted, what is refused and with which words, overrides, and the way back to TOML."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from nvila.config import build, dump, load
from nvila.data.mixture import MixtureConfig
from nvila.errors import ConfigError
from nvila.train.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    sizes: tuple[tuple[int, int], ...] = ((1, 2),)
    kind: Literal["small", "large"] = "small"


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    count: int = 3
    quick: bool = False
    limit: float | None = None
    inner: Inner = field(default_factory=Inner)
    parts: tuple[Inner, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ConfigError(f"count is {self.count}; it must not be negative")


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_values_of_every_kind_arrive(tmp_path: Path) -> None:
    text = """
    name = "x"
    quick = true
    limit = 2
    weights = { a = 1, b = 0.5 }
    [inner]
    sizes = [[3, 4], [5, 6]]
    kind = "large"
    [[parts]]
    rate = 1
    """
    assert load(Outer, write(tmp_path, text)) == Outer(
        name="x",
        quick=True,
        limit=2.0,
        weights={"a": 1.0, "b": 0.5},
        inner=Inner(sizes=((3, 4), (5, 6)), kind="large"),
        parts=(Inner(rate=1.0),),
    )


def test_overrides_reach_sections_and_list_elements(tmp_path: Path) -> None:
    path = write(tmp_path, 'name = "x"\n[[parts]]\nrate = 1.0\n')
    config = load(Outer, path, ["inner.rate=2", "parts.0.kind=large", "name=y", "inner.sizes=[[7, 8]]"])
    assert (config.name, config.inner.rate, config.parts[0].kind) == ("y", 2.0, "large")
    assert config.inner.sizes == ((7, 8),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('name = "x"\ncuont = 3', ["'cuont'", "did you mean 'count'"]),
        ("count = 3", ["'name'", "missing"]),
        ('name = "x"\ncount = 3.5', ["count", "a whole number", "3.5", "a number"]),
        ('name = "x"\ncount = true', ["count", "a whole number", "True", "true or false"]),
        ("name = 3", ["name", "a string", "3"]),
        ('name = "x"\ninner = 4', ["inner", "a section", "4"]),
        ('name = "x"\n[inner]\nsizes = [[1, 2, 3]]', ["inner: sizes.0", "3 values", "must hold 2"]),
        ('name = "x"\n[inner]\nkind = "larg"', ["'larg'", "small, large", "did you mean 'large'"]),
        ('name = "x"\ncount = -1', ["count is -1"]),
        ("name = ", ["not valid TOML"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(Outer, write(tmp_path, text))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("name", ["section.key=value"]),
        ("parts.1.rate=2", ["'1'", "list of 1"]),
        ("name.length=2", ["name", "not a section"]),
        ("inner.rat=2", ["'rat'", "did you mean 'rate'"]),
    ],
)
def test_wrong_overrides_are_refused(tmp_path: Path, override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(Outer, write(tmp_path, 'name = "x"\n[[parts]]\n'), [override])
    for word in words:
        assert word in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        load(Outer, tmp_path / "nowhere.toml")


def test_the_dump_reads_back_equal() -> None:
    config = Outer(name='a "b"\\\n', limit=1e-5, parts=(Inner(), Inner(kind="large")), weights={"a": 2.0})
    assert build(Outer, tomllib.loads(dump(config))) == config


def test_every_shipped_recipe_loads_and_survives_the_dump(root: Path) -> None:
    paths = sorted((root / "recipes").rglob("*.toml"))
    kinds = {path: Recipe if "stage" in tomllib.loads(path.read_text("utf-8")) else MixtureConfig for path in paths}
    assert set(kinds.values()) == {Recipe, MixtureConfig}
    for path, kind in kinds.items():
        recipe = load(kind, path)
        assert build(kind, tomllib.loads(dump(recipe))) == recipe
