"""From packages to material: download what families are made from, lay it out, and let each family prepare it once.

Everything lies below one folder: `downloads/` (archives as they came), `fetched/NAME` (a package's files), and
`material/FAMILY` (what the builder opens, with `prepared.json`: the packages and versions it was made from). Material
is made anew only when its packages or this program have another version. Nothing downloaded is run.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvila import __version__
from nvila.data.build.family import Family, Package
from nvila.errors import DataError
from nvila.utils.atomic import atomic_directory
from nvila.utils.packages import (
    debian_copyright,
    debian_version,
    download_debian,
    download_npm,
    download_wheel,
    licences_in,
    unpack,
)

PREPARED = "prepared.json"
_MARK = ".archive"
"""Names the archive that a folder of `fetched` was laid out from."""


@dataclass(frozen=True)
class BuildFolder:
    """The folder that archives, unpacked packages and material lie in."""

    root: Path

    @classmethod
    def default(cls) -> BuildFolder:
        """`$NVILA_BUILD`, or `~/.cache/nvila/build`."""
        return cls(Path(os.environ.get("NVILA_BUILD") or Path.home() / ".cache" / "nvila" / "build"))

    @property
    def downloads(self) -> Path:
        """Archives, by origin."""
        return self.root / "downloads"

    @property
    def fetched(self) -> Path:
        """Unpacked packages, by name."""
        return self.root / "fetched"

    def material(self, family: str) -> Path:
        """What a family has prepared."""
        return self.root / "material" / family

    def prepared(self, family: str) -> dict[str, Any]:
        """The packages and versions of a family's material. Raises DataError where there is none."""
        path = self.material(family) / PREPARED
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path}: the material of family {family!r} is not there; make it with: nvila data fetch "
                f"--families {family} --dest {self.root}"
            ) from error
        return record


def package_table(families: Iterable[Family]) -> str:
    """What families are made from, as text: family, package, origin, size of the download, licence; and the sum."""
    lines = [f"{'family':10s} {'package':34s} {'from':7s} {'MB':>7s}  licence"]
    sizes: dict[tuple[str, str], float] = {}
    for family in families:
        for package in family.packages:
            sizes[package.origin, package.name] = package.megabytes
            called = package.name if package.version is None else f"{package.name} {package.version}"
            lines.append(
                f"{family.name:10s} {called:34s} {package.origin:7s} {package.megabytes:7.1f}  {package.licence}"
            )
    return "\n".join([*lines, f"{len(sizes)} packages, {sum(sizes.values()):.0f} MB to download"])


def fetch(
    families: Iterable[Family],
    folder: BuildFolder,
    *,
    again: bool = False,
    on_progress: Callable[[str], None] = lambda text: None,
) -> list[str]:
    """Make the material of each family, and return the names of those that were made; `again` also makes what is there.

    Raises DataError naming the command that failed or the client that is not installed; material is then as before.
    """
    made = []
    for family in families:
        archives = _download(family, folder, on_progress)
        if _prepare(family, archives, folder, again, on_progress):
            made.append(family.name)
    return made


def _download(family: Family, folder: BuildFolder, on_progress: Callable[[str], None]) -> dict[str, Path]:
    """The archive of each package of a family, by name."""
    debian = [package.name for package in family.packages if package.origin == "debian"]
    on_progress(f"{family.name}: downloading {len(family.packages)} packages")
    archives = download_debian(debian, folder.downloads / "debian") if debian else {}
    for package in family.packages:
        if package.origin != "debian":
            on_progress(f"{family.name}: downloading {package.name} ({package.megabytes:.0f} MB)")
            assert package.version is not None, f"{package.name} has no version; packages of npm and PyPI are pinned"
            download = download_npm if package.origin == "npm" else download_wheel
            archives[package.name] = download(package.name, package.version, folder.downloads / package.origin)
    return archives


def _prepare(
    family: Family,
    archives: Mapping[str, Path],
    folder: BuildFolder,
    again: bool,
    on_progress: Callable[[str], None],
) -> bool:
    """Whether the material of `family` had to be made."""
    target = folder.material(family.name)
    record = {
        "family": family.name,
        "nvila": __version__,
        "packages": [_version_of(package, archives[package.name]) for package in family.packages],
    }
    if not again and (target / PREPARED).is_file():
        known = folder.prepared(family.name)
        if {key: known[key] for key in record} == record:
            return False
    for package in family.packages:
        on_progress(f"{family.name}: unpacking {package.name}")
        _lay_out(archives[package.name], folder.fetched / package.name)
    on_progress(f"{family.name}: preparing")
    with atomic_directory(target, overwrite=True) as work:
        family.prepare(folder.fetched, work)
        licences = {package.name: _declared(package, folder.fetched / package.name) for package in family.packages}
        text = json.dumps({**record, "licences_inside": licences}, indent=1)
        (work / PREPARED).write_text(text, encoding="utf-8")
    return True


def _version_of(package: Package, archive: Path) -> dict[str, str]:
    version = package.version or debian_version(archive)
    return {"name": package.name, "origin": package.origin, "version": version, "licence": package.licence}


def _declared(package: Package, unpacked: Path) -> list[str]:
    """All licences that a Debian package's copyright file lists; those of others are in `Package.licence`."""
    if package.origin != "debian" or not (unpacked / "usr/share/doc" / package.name / "copyright").is_file():
        return []
    return list(licences_in(debian_copyright(unpacked, package.name)))


def _lay_out(archive: Path, dest: Path) -> None:
    """Unpack into `dest` unless that was done already; a kill leaves no half."""
    mark = dest / _MARK
    if mark.is_file() and mark.read_text(encoding="utf-8") == archive.name:
        return
    work = dest.with_name(f".{dest.name}.part")
    for old in (work, dest):
        if old.exists():
            shutil.rmtree(old)
    unpack(archive, work)
    (work / _MARK).write_text(archive.name, encoding="utf-8")
    work.rename(dest)
