"""Every family by name. A family's module, and whatever libraries it draws with, is imported only when it is used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import cast

from nvila.data.build.family import Family
from nvila.errors import ConfigError, DataError, nearest

_NAMES = (
    "cutouts",
    "documents",
    "drawn",
    "events",
    "furniture",
    "maps",
    "photos",
    "slices",
    "stamps",
    "tables",
)

FAMILIES: Mapping[str, str] = MappingProxyType({name: f"nvila.data.build.{name}" for name in _NAMES})
"""The module of each family, which holds it as `FAMILY`."""


def family_named(name: str) -> Family:
    """The family called `name`.

    Raises ConfigError for an unknown name, DataError naming a library that the family needs and that is not installed.
    """
    if name not in FAMILIES:
        raise ConfigError(f"unknown family {name!r}{nearest(name, FAMILIES)}; known: {', '.join(FAMILIES)}")
    try:
        module = import_module(FAMILIES[name])
    except ModuleNotFoundError as error:
        if error.name == FAMILIES[name]:
            raise DataError(f"family {name!r} is not part of this version of nvila; leave it out") from error
        raise DataError(
            f"family {name!r} needs {error.name}, which is not installed; run: pip install 'nvila[corpus]'"
        ) from error
    return cast(Family, module.__dict__["FAMILY"])


def families_named(names: Iterable[str]) -> dict[str, Family]:
    """The families of these names, in their order. Raises as `family_named`."""
    return {name: family_named(name) for name in names}
