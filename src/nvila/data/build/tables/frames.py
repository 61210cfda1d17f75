"""Reads pickled pandas data frames as inert data, without unpickling: nothing in the file can run.

A pickle is a list of opcodes. `pickletools` parses them, and this file follows the few that data need: what would be
a name to import stays a pair of strings, what would be a call or an object stays a `Made` record. Columns are then
read from the records by the shape that pandas 2 writes (a block manager of numpy arrays with their column places).
Anything else (datetimes, extension arrays, other opcodes) makes the column, or the file, unreadable.
"""

from __future__ import annotations

import lzma
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nvila.errors import DataError

MAX_BYTES = 3_000_000
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_ARGUMENTS = frozenset(
    (
        "BININT",
        "BININT1",
        "BININT2",
        "BINFLOAT",
        "LONG1",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "SHORT_BINBYTES",
        "BINBYTES",
        "BYTEARRAY8",
    )
)
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}


@dataclass
class Made:
    """What a pickle would have made by calling `name` with `arguments` and giving it `state`; nothing is called."""

    name: Any
    arguments: tuple[Any, ...]
    state: Any = None


_MARK = object()


def read_inert(content: bytes) -> Any:
    """The data in a pickle, with `Made` in place of objects. Raises DataError for opcodes that data do not need."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for opcode, argument, _ in pickletools.genops(content):
            _follow(opcode.name, argument, stack, memo)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"a pickled table cannot be read as data: {type(error).__name__}: {error}") from error
    return stack[-1] if stack else None


def _follow(name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    if name == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif name in _ARGUMENTS:
        stack.append(argument)
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name in _EMPTY:
        stack.append(_EMPTY[name]())
    elif name == "MARK":
        stack.append(_MARK)
    elif name.startswith("TUPLE"):
        items = _pop_marked(stack) if name == "TUPLE" else [stack.pop() for _ in range(int(name[5:]))][::-1]
        stack.append(tuple(items))
    elif name in ("APPENDS", "APPEND"):
        items = _pop_marked(stack) if name == "APPENDS" else [stack.pop()]
        stack[-1].extend(items)
    elif name in ("SETITEMS", "SETITEM"):
        items = _pop_marked(stack) if name == "SETITEMS" else [stack.pop() for _ in range(2)][::-1]
        stack[-1].update(zip(items[::2], items[1::2], strict=True))
    elif name in ("STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD"):
        _make(name, stack)
    elif name not in ("PROTO", "FRAME", "STOP"):
        raise DataError(f"a pickled table uses the opcode {name}, which plain data do not need; leave the file out")


def _pop_marked(stack: list[Any]) -> list[Any]:
    items: list[Any] = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _make(name: str, stack: list[Any]) -> None:
    top = stack.pop()
    if name == "STACK_GLOBAL":
        stack.append((stack.pop(), top))
    elif name == "BUILD":
        stack[-1].state = top
    else:
        stack.append(Made(stack.pop(), top))


def read_frame(path: Path) -> dict[str, list[Any]] | None:
    """Column name -> values of an xz-compressed pickled data frame; None when it is over `MAX_BYTES` or not readable.

    Values are str, int, float, bool or None.
    """
    content = lzma.LZMADecompressor().decompress(path.read_bytes(), MAX_BYTES)
    if len(content) >= MAX_BYTES:
        return None
    try:
        manager = read_inert(content).state["_mgr"]
        blocks, axes = manager.arguments
        names = _values(axes[0].arguments[1]["data"])
        columns: dict[str, list[Any]] = {}
        for block in blocks:
            for place, values in _block_columns(block):
                columns[str(names[place])] = values
        return {str(name): columns[str(name)] for name in names if str(name) in columns}
    except (DataError, AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None


def _block_columns(block: Made) -> list[tuple[int, list[Any]]]:
    array, places, _ = block.arguments
    columns = _array(array)
    if isinstance(places, Made) and places.name == ("builtins", "slice"):
        indices = range(*places.arguments)
    else:
        indices = _array(places).tolist()
    return [(int(index), row.tolist()) for index, row in zip(indices, columns, strict=True)]


def _values(array: Any) -> list[Any]:
    return _array(array).tolist()


def _array(made: Made) -> Any:
    """A numpy array from the record of one: from a buffer, or from the list that an object array holds."""
    if made.name[1] == "_frombuffer":
        buffer, dtype, shape, order = made.arguments
        return np.frombuffer(bytes(buffer), dtype=_dtype(dtype)).reshape(shape, order=order)
    _, shape, dtype, fortran, data = made.state
    if isinstance(data, list):
        return np.array([*data, None], dtype=object)[:-1].reshape(shape, order="F" if fortran else "C")
    return np.frombuffer(bytes(data), dtype=_dtype(dtype)).reshape(shape, order="F" if fortran else "C")


def _dtype(made: Made) -> np.dtype[Any]:
    kind = str(made.arguments[0])
    if kind[0] not in "iufb":
        raise ValueError(f"columns of type {kind} are not read")
    return np.dtype(f"{'>' if made.state[1] == '>' else '<'}{kind}")
