"""Packages from Debian, npm and PyPI as plain archives: fetched with the machine's own clients, unpacked, never run.

Nothing is installed: an archive is downloaded into a folder, where it is found again, and its files are laid out in
another. Python packages are taken as wheels only, because a source archive would run its own code to say what it is.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from nvila.errors import DataError

_AT_ONCE = 25
"""Debian packages that are asked for in one command."""


def download_debian(names: Sequence[str], folder: Path) -> dict[str, Path]:
    """The .deb archive of each package, by name; those that lie in `folder` already are not fetched again.

    Raises DataError naming the command that failed, or `apt-get` where it is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in names if not list(folder.glob(f"{name}_*.deb"))]
    for start in range(0, len(missing), _AT_ONCE):
        run_client(["apt-get", "download", *missing[start : start + _AT_ONCE]], folder)
    return {name: _downloaded(folder, f"{name}_*.deb") for name in names}


def download_npm(name: str, version: str, folder: Path) -> Path:
    """The .tgz archive of one version of an npm package. Raises DataError as `download_debian`."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    if not archive.exists():
        run_client(["npm", "pack", f"{name}@{version}"], folder)
    return _downloaded(folder, archive.name)


def download_wheel(name: str, version: str, folder: Path) -> Path:
    """The wheel of one version of a Python package. Raises DataError as `download_debian`."""
    folder.mkdir(parents=True, exist_ok=True)
    pattern = f"{re.sub('[-_.]+', '_', name)}-{version}-*.whl"
    if not list(folder.glob(pattern)):
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        run_client([*pip, f"{name}=={version}"], folder)
    return _downloaded(folder, pattern)


def unpack(archive: Path, dest: Path) -> None:
    """Lay out the files of a .deb, .tgz (npm) or .whl in the folder `dest`, which is made.

    Of an npm archive it is the content of its only folder. Raises DataError for a damaged archive.
    """
    dest.mkdir(parents=True, exist_ok=True)
    try:
        if archive.suffix == ".deb":
            run_client(["dpkg-deb", "-x", str(archive.resolve()), str(dest)], dest)
        elif archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(dest)
        else:
            _unpack_npm(archive, dest)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError) as error:
        raise DataError(f"{archive}: cannot be unpacked: {error}; remove it to fetch it again") from error


def debian_version(archive: Path) -> str:
    """The version in a .deb's name: `fonts-go_0~20170330-1_all.deb` has `0~20170330-1`."""
    return archive.name.split("_")[1].replace("%3a", ":")


def debian_copyright(unpacked: Path, name: str) -> str:
    """The copyright file of an unpacked Debian package. Raises DataError where it has none."""
    path = unpacked / "usr/share/doc" / name / "copyright"
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; fetch the package {name} again") from error


def licences_in(copyright_text: str) -> tuple[str, ...]:
    """The short names of licences that a Debian copyright file lists, sorted; none where it has no such form."""
    return tuple(sorted(set(re.findall(r"^License:[ \t]*(\S.*)$", copyright_text, re.MULTILINE))))


def run_client(command: Sequence[str], folder: Path) -> None:
    """Run a package client in `folder`. Raises DataError where it is not installed, or with its last line of output."""
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise DataError(f"making the corpus assets needs {command[0]!r} on this machine; install it") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout).strip().splitlines()[-1:] or ["no output"]
        raise DataError(f"{' '.join(command[:3])} ... failed with status {error.returncode}: {last[0]}") from error


def _downloaded(folder: Path, pattern: str) -> Path:
    """The newest archive of that name. Raises DataError where the client left none."""
    found = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)
    if not found:
        raise DataError(f"{folder}: holds no {pattern} after the download; fetch the package by hand into it")
    return found[-1]


def _unpack_npm(archive: Path, dest: Path) -> None:
    """npm archives hold one folder, mostly called `package`."""
    work = dest / ".unpacking"
    shutil.unpack_archive(archive, work, format="gztar", filter="data")
    (inner,) = work.iterdir()
    for path in inner.iterdir():
        path.rename(dest / path.name)
    shutil.rmtree(work)
