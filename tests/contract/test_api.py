"""The public names: the list that is documented, and that each is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import nvila

DOCUMENTED = {
    "CheckpointError",
    "Completion",
    "ConfigError",
    "DataError",
    "Engine",
    "EngineBusyError",
    "EngineConfig",
    "FusionError",
    "ImagePart",
    "LabelledBox",
    "MediaError",
    "Message",
    "NVILAConfig",
    "NVILAError",
    "NVILAForConditionalGeneration",
    "NVILAImageProcessor",
    "NVILALiteConfig",
    "NVILALiteForConditionalGeneration",
    "NVILAModel",
    "NVILAProcessor",
    "NVILAVideoProcessor",
    "PromptError",
    "Sample",
    "SamplingParams",
    "TextPart",
    "VideoPart",
    "__version__",
}


def test_public_names_are_the_documented_ones(root: Path) -> None:
    assert set(nvila.__all__) == DOCUMENTED
    architecture = (root / "docs" / "architecture.md").read_text(encoding="utf-8")
    missing = [name for name in nvila.__all__ if f"`{name}`" not in architecture]
    assert not missing, f"docs/architecture.md lists the public names; it lacks {missing}"


@pytest.mark.parametrize("name", sorted(DOCUMENTED - {"__version__"}))
def test_each_public_name_is_the_class_it_says(name: str) -> None:
    value = getattr(nvila, name)
    assert isinstance(value, type)
    assert value.__name__ == name
    assert value.__doc__


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="NVILAModle"):
        _ = nvila.NVILAModle


def test_version_is_the_installed_one() -> None:
    from importlib.metadata import version

    assert nvila.__version__ == version("nvila")
    assert re.fullmatch(r"\d+\.\d+\.\d+", nvila.__version__)


def test_types_are_shipped(root: Path) -> None:
    assert (root / "src" / "nvila" / "py.typed").is_file()
