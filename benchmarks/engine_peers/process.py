"""The benchmark's end of `protocol`: starts a contender, asks it, and looks at its memory from outside."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from inputs import Job


class ContenderError(Exception):
    """The process ended, or took too long; says where its own words are."""


class Process:
    """A contender that holds weights until the block is left.

    started_at: when it was started, by the clock of `time.perf_counter`. log: where its standard error goes.
    """

    def __init__(self, python: Path, script: Path, settings: dict[str, Any], log: Path, time_limit: float) -> None:
        self._log, self._time_limit = log, time_limit
        threads = str(settings["threads"])
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        environment |= {"OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        log.parent.mkdir(parents=True, exist_ok=True)
        self._errors = log.open("w")
        self.started_at = time.perf_counter()
        self._process = subprocess.Popen(
            [str(python), str(script), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def ready(self) -> float:
        """Seconds that loading took; waits for it."""
        return float(self._read()["load_s"])

    def ask(self, *jobs: Job, together: bool = False) -> dict[str, Any]:
        """The answer's numbers, or what went wrong with it under "failed". Raises ContenderError."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"jobs": [asdict(job) for job in jobs], "together": together}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise ContenderError(f"the process has ended; see {self._log}") from error
        return self._read()

    def peak_mb(self) -> float:
        """MiB: the most that it had resident since it began, or since `forget_peak`; mapped files count."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        raise ContenderError("the system tells no peak of resident memory")

    def forget_peak(self) -> None:
        """Start looking for the peak anew."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], self._time_limit)[0]:
            self._process.kill()
            raise ContenderError(f"no answer within {self._time_limit:g} s")
        line = self._process.stdout.readline()
        if not line:
            last = self._log.read_text(errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise ContenderError(f"the process ended: {last[0][:200]} (see {self._log})")
        result: dict[str, Any] = json.loads(line)
        return result
