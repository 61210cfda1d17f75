"""What benchmarks of memory share: each contender runs in a process of its own, and says how much it added."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any


def resident_mb() -> float:
    """The resident set of this process, in MiB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def in_own_process(script: str, *arguments: str) -> dict[str, Any]:
    """The JSON object that `script` prints last, or the last line of its error under "failed"."""
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
