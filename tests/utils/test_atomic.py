"""A failed or killed write leaves what was there before, and no litter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nvila.errors import NVILAError
from nvila.utils.atomic import atomic_directory, atomic_write_bytes, atomic_write_text


def test_write_makes_folders_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b.txt"
    atomic_write_text(target, "one\r\n")
    atomic_write_text(target, "zwölf\n")
    assert target.read_bytes() == "zwölf\n".encode()
    assert [file.name for file in target.parent.iterdir()] == ["b.txt"]


def test_written_file_has_the_permissions_of_open(tmp_path: Path) -> None:
    atomic_write_bytes(tmp_path / "ours", b"x")
    (tmp_path / "plain").write_bytes(b"x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "inside").touch()
    with pytest.raises(OSError, match="folder"):
        atomic_write_bytes(target, b"x")  # a file cannot be renamed onto a folder
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["folder", "inside"]


def test_directory_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_directory(target) as work:
        (work / "deep").mkdir()
        (work / "deep" / "file").write_text("x", encoding="utf-8")
        assert not target.exists()
    assert (target / "deep" / "file").read_text(encoding="utf-8") == "x"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    assert target.stat().st_mode & 0o777 == 0o777 & ~_mask()


def test_directory_vanishes_when_the_block_raises(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_directory(tmp_path / "out") as work:
            (work / "file").touch()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_directory_is_not_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with pytest.raises(NVILAError, match="already there"), atomic_directory(tmp_path / "out"):
        pytest.fail("the block must not run")
    with atomic_directory(tmp_path / "out", overwrite=True) as work:
        (work / "new").touch()
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["new"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_file_in_the_place_of_a_directory_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with (
        pytest.raises(NVILAError, match="a file is already there"),
        atomic_directory(tmp_path / "out", overwrite=True),
    ):
        pytest.fail("the block must not run")


def test_kill_in_the_middle_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from nvila.utils.atomic import atomic_directory\n"
        "with atomic_directory(sys.argv[1]) as work:\n"
        "    (work / 'weights').write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = subprocess.run([sys.executable, "-c", program, str(tmp_path / "out")], check=False)
    assert result.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert all(entry.name.endswith(".part") for entry in tmp_path.iterdir())


def _mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
