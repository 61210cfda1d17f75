"""From archives to material: laid out as families expect it, made once, and again when a version changes."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.data.build.stand_in import StandIn

from nvila.data.build.families import FAMILIES, family_named
from nvila.data.build.family import Package
from nvila.data.build.fetch import BuildFolder, fetch, package_table
from nvila.errors import ConfigError, DataError
from nvila.utils.packages import debian_version, licences_in, run_client, unpack

NPM = Package(name="@art/apples", origin="npm", licence="MIT", megabytes=0.1, version="1.2.0")
WHEEL = Package(name="old-tables", origin="pypi", licence="BSD-3-Clause", megabytes=2.0, version="3.0")


@dataclass(frozen=True)
class Orchard(StandIn):
    """A stand-in that is made from two packages."""

    name: str = "orchard"
    packages: tuple[Package, ...] = (NPM, WHEEL)

    def prepare(self, fetched: Path, dest: Path) -> None:
        apples = (fetched / NPM.name / "apples.txt").read_text()
        (dest / "units.txt").write_text(apples + (fetched / WHEEL.name / "old_tables/table.csv").read_text())


def put_archives(folder: BuildFolder, apples: str = "red ") -> None:
    """The archives as npm and pip would have left them, so that nothing is downloaded."""
    npm, pypi = folder.downloads / "npm", folder.downloads / "pypi"
    for place in (npm, pypi):
        place.mkdir(parents=True, exist_ok=True)
    with tarfile.open(npm / f"art-apples-{NPM.version}.tgz", "w:gz") as tar:
        member = tarfile.TarInfo("package/apples.txt")
        member.size = len(apples)
        tar.addfile(member, io.BytesIO(apples.encode()))
    with zipfile.ZipFile(pypi / f"old_tables-{WHEEL.version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("old_tables/table.csv", "green")


def test_packages_become_material_once(tmp_path: Path) -> None:
    folder = BuildFolder(tmp_path)
    put_archives(folder)
    said: list[str] = []
    assert fetch([Orchard()], folder, on_progress=said.append) == ["orchard"]
    assert (folder.material("orchard") / "units.txt").read_text() == "red green"
    assert said[-1] == "orchard: preparing"
    packages = folder.prepared("orchard")["packages"]
    assert packages[0] == {"name": "@art/apples", "origin": "npm", "version": "1.2.0", "licence": "MIT"}
    assert fetch([Orchard()], folder) == [], "made a second time"
    assert fetch([Orchard()], folder, again=True) == ["orchard"]


def test_another_version_is_prepared_anew(tmp_path: Path) -> None:
    folder = BuildFolder(tmp_path)
    put_archives(folder)
    fetch([Orchard()], folder)
    path = folder.material("orchard") / "prepared.json"
    record = json.loads(path.read_text())
    record["packages"][1]["version"] = "2.9"
    path.write_text(json.dumps(record))
    assert fetch([Orchard()], folder) == ["orchard"]
    assert folder.prepared("orchard")["packages"][1]["version"] == "3.0"


def test_a_failed_preparation_leaves_what_was_there(tmp_path: Path) -> None:
    folder = BuildFolder(tmp_path)
    put_archives(folder)
    fetch([Orchard()], folder)
    (folder.fetched / WHEEL.name / "old_tables/table.csv").unlink()
    with pytest.raises(FileNotFoundError):
        fetch([Orchard()], folder, again=True)
    assert (folder.material("orchard") / "units.txt").read_text() == "red green"
    assert [path.name for path in (tmp_path / "material").iterdir()] == ["orchard"]


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    folder = BuildFolder(tmp_path)
    put_archives(folder)
    archive = folder.downloads / "npm" / "art-apples-1.2.0.tgz"
    archive.write_bytes(archive.read_bytes()[:20])
    with pytest.raises(DataError, match=r"art-apples-1.2.0.tgz: cannot be unpacked.*remove it"):
        fetch([Orchard()], folder)
    assert not folder.material("orchard").exists()


def test_members_that_lead_outside_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bad.tgz", "w:gz") as tar:
        member = tarfile.TarInfo("package/../../escaped.txt")
        tar.addfile(member, io.BytesIO(b""))
    with pytest.raises(DataError, match=r"bad\.tgz: cannot be unpacked"):
        unpack(tmp_path / "bad.tgz", tmp_path / "inner/dest")
    assert not list(tmp_path.rglob("escaped.txt"))


def test_a_missing_client_and_a_failing_one_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        DataError, match=r"sh -c echo no such package; exit 7 \.\.\. failed with status 7: no such package"
    ):
        run_client(["sh", "-c", "echo no such package; exit 7"], tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="needs 'npm' on this machine"):
        fetch([Orchard()], BuildFolder(tmp_path))


def test_the_table_lists_sizes_and_licences_and_counts_shared_packages_once() -> None:
    shown = package_table([Orchard(), Orchard(name="second")])
    assert shown.count("@art/apples 1.2.0") == 2
    assert "BSD-3-Clause" in shown
    assert shown.endswith("2 packages, 2 MB to download")


def test_names_of_archives_and_licences() -> None:
    assert debian_version(Path("fonts-go_1%3a0.18+dfsg-19_all.deb")) == "1:0.18+dfsg-19"
    assert licences_in("License: MIT\n text\nLicense:   OFL-1.1\nLicense: MIT\n") == ("MIT", "OFL-1.1")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_listed_family_is_there(name: str) -> None:
    family = family_named(name)
    assert family.name == name
    assert all(package.licence and package.megabytes > 0 for package in family.packages)
    assert all(package.version for package in family.packages if package.origin != "debian")


def test_an_unknown_family_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'photos'"):
        family_named("photo")
