"""Writing so that a kill at any moment leaves either the old file or the new one, never a half.

Everything is written under a temporary name in the same directory (so that the rename stays inside one file
system), flushed to the disk, and renamed. Leaves out locking: two writers of one name are the caller's affair, and
the last rename wins.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nvila.errors import NVILAError


def atomic_write_bytes(path: str | Path, content: bytes) -> None:
    """Put `content` at `path`, making the folders above it.

    Raises OSError as the operating system gives it (a full disk, no permission); `path` is then as it was before.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _give_usual_permissions(Path(name), 0o666)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def atomic_write_text(path: str | Path, content: str) -> None:
    """Put `content` at `path` in UTF-8 with the line ends it has. Raises as `atomic_write_bytes`."""
    atomic_write_bytes(path, content.encode("utf-8"))


@contextmanager
def atomic_directory(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give an empty folder to fill; it becomes `path` when the block ends, and vanishes when the block raises.

    With `overwrite`, a folder already at `path` is replaced (there is a moment without either; never one with a
    half). Raises NVILAError when something is at `path` and `overwrite` is off, or when a file is there.
    """
    target = Path(path)
    if target.exists() and (not overwrite or not target.is_dir()):
        kind = "folder" if target.is_dir() else "file"
        raise NVILAError(f"{target}: a {kind} is already there; choose another name or remove it first")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        yield work
        _give_usual_permissions(work, 0o777)
        for file in work.rglob("*"):
            if file.is_file():
                _flush_to_disk(file)
        _move_into_place(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _move_into_place(work: Path, target: Path) -> None:
    if not target.exists():
        os.rename(work, target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
    os.replace(target, old)
    try:
        os.rename(work, target)
    except BaseException:
        os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _flush_to_disk(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _give_usual_permissions(path: Path, mode: int) -> None:
    """Temporary names are made private; what users find is what `open` would have made."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(mode & ~mask)
