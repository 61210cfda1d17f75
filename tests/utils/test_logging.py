"""Logging is set up by a command and by nothing else."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import logging
from nvila.utils.logging import get_logger, set_up
log = get_logger("nvila.train.trainer")
assert logging.getLogger("nvila").handlers == [] and logging.getLogger().handlers == []
set_up(); set_up(logging.WARNING)
assert len(logging.getLogger("nvila").handlers) == 1
log.info("hidden"); log.warning("seen %d", 3)
"""


def test_records_go_to_standard_error_once_set_up() -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert result.stdout == ""
    assert result.stderr.rstrip().endswith("W nvila.train.trainer: seen 3")
    assert result.stderr.count("\n") == 1
