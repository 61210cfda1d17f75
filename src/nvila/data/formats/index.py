"""What is made once for a data file and kept: byte offsets, tables. In the user's cache, never in the data's folder.

An entry's name follows from the file's identity (path, size, time), so a changed file has another entry and a stale
one is never read. Entries are folders that appear whole or not at all. Arrays are mapped, not loaded: ten million
offsets cost address space, not memory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nvila.errors import NVILAError
from nvila.utils.atomic import atomic_directory

Arrays = Mapping[str, npt.NDArray[Any]]
_VERSION = "1"
"""Changes with the layout of the entries."""

_LOADED_BYTES = 4096
"""Arrays up to this size are read instead of mapped; a map takes a page at least."""


def index_folder() -> Path:
    """`$NVILA_INDEX`, or `~/.cache/nvila/index`."""
    return Path(os.environ.get("NVILA_INDEX") or Path.home() / ".cache" / "nvila" / "index")


def cached_folder(identity: Sequence[str], fill: Callable[[Path], None]) -> Path:
    """The entry for `identity`, made by `fill` (which is given an empty folder) if it is not there yet.

    Two processes may make the same entry at once; the first to finish wins. Raises what `fill` raises, and OSError.
    """
    digest = hashlib.blake2b("\0".join((_VERSION, *identity)).encode("utf-8", "surrogatepass"), digest_size=16)
    folder = index_folder() / digest.hexdigest()
    if folder.is_dir():
        return folder
    try:
        with atomic_directory(folder) as work:
            fill(work)
    except (NVILAError, OSError):
        if not folder.is_dir():
            raise
    return folder


class CachedArrays:
    """Named arrays in the cache, mapped on first use. Pickles as its identity alone, not as the arrays."""

    def __init__(self, identity: Sequence[str], build: Callable[[], Arrays]) -> None:
        """Opens the entry for `identity`, building it if needed. Raises what `build` raises."""
        self._folder = cached_folder(identity, lambda work: _write(work, build()))
        self._arrays: dict[str, npt.NDArray[Any]] = {}

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        if name not in self._arrays:
            path = self._folder / f"{name}.npy"
            is_large = path.stat().st_size > _LOADED_BYTES
            self._arrays[name] = np.load(path, mmap_mode="r" if is_large else None, allow_pickle=False)
        return self._arrays[name]

    def __getstate__(self) -> dict[str, Any]:
        return {"_folder": self._folder, "_arrays": {}}


def _write(folder: Path, arrays: Arrays) -> None:
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
