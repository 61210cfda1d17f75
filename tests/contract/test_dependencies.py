"""What an install brings: the pinned set in full, torch as it must be, and nothing of CUDA by surprise."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distributions, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

CUDA = re.compile(r"(nvidia-|cuda|cupy|triton|torchvision|torchaudio|torchcodec)")
EXTRAS = ("train", "data", "corpus", "dev")


def pins(root: Path, name: str = "constraints.txt") -> dict[str, SpecifierSet]:
    lines = (line.partition("#")[0].strip() for line in (root / name).read_text(encoding="utf-8").splitlines())
    requirements = [Requirement(line) for line in lines if line]
    found = {canonicalize_name(requirement.name): requirement.specifier for requirement in requirements}
    assert len(found) == len(requirements), f"{name} names a package twice"
    return found


def needed(name: str, extras: tuple[str, ...], seen: set[str]) -> Iterator[str]:
    """Every distribution that `name` needs in this environment, by the installed metadata."""
    if name in seen:
        return
    seen.add(name)
    for line in requires(name) or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            child = canonicalize_name(requirement.name)
            yield child
            yield from needed(child, tuple(requirement.extras), seen)


def test_every_needed_package_is_pinned_at_the_installed_version(root: Path) -> None:
    pinned = pins(root)
    resolved = set(needed("nvila", EXTRAS, set()))
    assert "torch" in resolved
    assert "transformers" in resolved
    assert resolved - set(pinned) == set(), "constraints.txt pins everything that the README's commands install"
    wrong = {name: version(name) for name in resolved if not pinned[name].contains(version(name), prereleases=True)}
    assert not wrong, f"installed versions differ from constraints.txt: {wrong}"


def test_no_cuda_package_in_the_constraints(root: Path) -> None:
    assert [name for name in pins(root) if CUDA.match(name)] == []


def test_no_cuda_package_is_needed_on_a_machine_without_a_gpu() -> None:
    import torch

    if torch.cuda.is_available():
        assert torch.version.cuda is not None
        return
    installed = {canonicalize_name(distribution.metadata["Name"]) for distribution in distributions()}
    assert [name for name in sorted(installed) if CUDA.match(name)] == []


def test_cpu_constraints_can_be_met_by_no_cuda_package(root: Path) -> None:
    barred = pins(root, "constraints-cpu.txt")
    assert {"triton", "nvidia-cublas", "nvidia-cudnn-cu13", "torchvision"} <= set(barred)
    for name, specifier in barred.items():
        assert CUDA.match(name)
        assert not any(specifier.contains(candidate) for candidate in ("0", "0.1", "3.7.1", "13.0.0"))


def test_torch_is_pinned_and_pyproject_admits_older_ones(root: Path) -> None:
    assert pins(root)["torch"] == SpecifierSet("==2.13.0")
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {Requirement(line).name: Requirement(line).specifier for line in project["dependencies"]}
    assert all(candidate in wanted["torch"] for candidate in ("2.11.0", "2.13.0", "2.13.0+cpu"))
    assert "2.10.0" not in wanted["torch"]
    assert all(candidate in wanted["transformers"] for candidate in ("5.16.0", "5.17.0", "5.23.0"))
    assert not any(CUDA.match(canonicalize_name(name)) for name in wanted)


def test_torch_here_is_a_version_that_pyproject_admits() -> None:
    assert version("torch").split("+")[0].split(".")[:1] == ["2"]
    assert sys.version_info >= (3, 11)
