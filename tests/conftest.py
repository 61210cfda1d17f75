"""What every test may use: the golden folder, and torch kept to one thread where tests run side by side."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """One thread a worker: on few cores, workers that each take all of them are slower than one."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"
        import torch

        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of reference numbers: `$NVILA_GOLDEN`, or `../shared/golden` beside the repository."""
    folder = Path(os.environ.get("NVILA_GOLDEN") or ROOT.parent / "shared" / "golden").resolve()
    if not (folder / "README.md").is_file():
        pytest.skip(f"GOLDEN PARITY NOT CHECKED: no golden numbers at {folder}; point NVILA_GOLDEN at them")
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT
