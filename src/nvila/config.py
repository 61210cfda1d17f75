"""Recipes and settings files: TOML into frozen keyword-only dataclasses, `--set` overrides, and back to TOML.

Any dataclass can be a target; its field types are the schema. Understood types are bool, int, float, str, Literal,
`X | None`, `tuple[X, ...]`, `tuple[X, Y]`, `dict[str, X]` and other dataclasses. A whole number is taken where a float
is asked for; nothing else is converted.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from nvila.errors import ConfigError, nearest

T = TypeVar("T")


def load(cls: type[T], path: str | Path, overrides: Iterable[str] = ()) -> T:
    """The TOML file at `path` as a `cls`, after the overrides `section.key=value` (the value in TOML's notation).

    Elements of lists are addressed by number: `stage.0.seconds=60`. Raises ConfigError for a missing or malformed file,
    an unknown or missing key, or a value of a wrong type, naming the key, both types and the value.
    """
    source = Path(path)
    try:
        values = tomllib.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the recipe {source}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source} is not valid TOML: {error}") from error
    for override in overrides:
        _apply(values, override)
    return build(cls, values, where=str(source))


def build(cls: type[T], values: dict[str, Any], *, where: str = "configuration") -> T:
    """`values` (as TOML gives them) as a `cls`; raises ConfigError like `load`."""
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(key, fields)}; known: {', '.join(fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"{where}: the key {name!r} is missing; it must be given ({_name(hints[name])})")
    converted = {key: _convert(hints[key], value, f"{where}: {key}") for key, value in values.items()}
    try:
        return cls(**converted)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def overridden(config: T, overrides: Iterable[str]) -> T:
    """`config` with the overrides `section.key=value`, checked anew. Raises ConfigError as `load`."""
    values = tomllib.loads(dump(config))
    for override in overrides:
        _apply(values, override)
    return build(type(config), values, where="--set")


def dump(config: Any) -> str:
    """`config`, a dataclass that `build` can make, as TOML text with every value resolved; None values are left out."""
    return "\n".join(_table(dataclasses.asdict(config), ())).strip() + "\n"


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise ConfigError(f"override {override!r} is not of the form section.key=value")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    target: Any = values
    for step in path[:-1]:
        target = _descend(target, step, override)
    if isinstance(target, list):
        target[_index(target, path[-1], override)] = value
    elif isinstance(target, dict):
        target[path[-1]] = value
    else:
        raise ConfigError(f"override {override!r}: {'.'.join(path[:-1])} is a value ({target!r}), not a section")


def _descend(target: Any, step: str, override: str) -> Any:
    if isinstance(target, list):
        return target[_index(target, step, override)]
    if isinstance(target, dict):
        return target.setdefault(step, {})
    raise ConfigError(f"override {override!r}: {step!r} lies below a value ({target!r}), not a section")


def _index(target: list[Any], step: str, override: str) -> int:
    if not step.isdigit() or int(step) >= len(target):
        raise ConfigError(f"override {override!r}: {step!r} is not a place in a list of {len(target)}")
    return int(step)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for kind in arguments if kind is not type(None)]
        return _convert(kinds[0], value, where)
    if origin is typing.Literal:
        if value not in arguments:
            known = [str(argument) for argument in arguments]
            raise ConfigError(f"{where} is {value!r}, not one of {', '.join(known)}{nearest(str(value), known)}")
        return value
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise _wrong_type(where, "a section", value)
        return build(typing.cast("type[Any]", hint), value, where=where)
    if origin is tuple:
        return _convert_tuple(arguments, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong_type(where, "a section", value)
        return {key: _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise _wrong_type(where, _name(hint), value)
    return value


def _convert_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _wrong_type(where, "a list", value)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_convert(arguments[0], item, f"{where}.{index}") for index, item in enumerate(value))
    if len(value) != len(arguments):
        raise ConfigError(f"{where} holds {len(value)} values, but must hold {len(arguments)}")
    pairs = zip(arguments, value, strict=True)
    return tuple(_convert(kind, item, f"{where}.{index}") for index, (kind, item) in enumerate(pairs))


def _wrong_type(where: str, wanted: str, value: Any) -> ConfigError:
    return ConfigError(f"{where} must be {wanted}; found {value!r}, which is {_name(type(value))}")


def _name(hint: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", list: "a list"}
    if hint is dict:
        return "a section"
    return names.get(hint, str(hint)) if isinstance(hint, type) else str(hint)


def _table(values: dict[str, Any], path: tuple[str, ...]) -> list[str]:
    lines, sections = [], []
    for key, value in values.items():
        if isinstance(value, dict):
            sections += ["", f"[{'.'.join((*path, key))}]", *_table(value, (*path, key))]
        elif isinstance(value, list | tuple) and value and all(isinstance(item, dict) for item in value):
            for item in value:
                sections += ["", f"[[{'.'.join((*path, key))}]]", *_table(item, (*path, key))]
        elif value is not None:
            lines.append(f"{key} = {_value(value)}")
    return lines + sections


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
        return f'"{escaped}"'
    return repr(value)
