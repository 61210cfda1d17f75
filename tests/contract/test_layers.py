"""The layer rule: imports point down only (the contract stands in pyproject.toml)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FORBIDDEN_IMPORT = "from nvila.processing import NVILAProcessor\n"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    program = "import sys; sys.path.insert(0, 'src'); from importlinter.cli import lint_imports_command as c; c()"
    return subprocess.run(
        [sys.executable, "-c", program, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False
    )


def test_imports_point_down_the_layers(root: Path) -> None:
    result = lint(root)
    assert result.returncode == 0, result.stdout + result.stderr


def test_contract_catches_model_importing_processing(root: Path, tmp_path: Path) -> None:
    """The rule bites: in a skeleton of the package where the model imports the processor, the check fails."""
    for source in (root / "src" / "nvila").rglob("*.py"):
        target = tmp_path / source.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("", encoding="utf-8")
    (tmp_path / "src/nvila/model/__init__.py").write_text(FORBIDDEN_IMPORT, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text((root / "pyproject.toml").read_text(encoding="utf-8"), encoding="utf-8")
    result = lint(tmp_path)
    assert result.returncode == 1
    assert "nvila.model is not allowed to import nvila.processing" in result.stdout
