"""Who takes part, and what each needs before it can: a checkpoint with random weights, or an environment."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from make_env import python_of

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One line of the tables. family: "lite", "base", or "qwen". state: which of the family's checkpoints.

    vision, language: formats that the engine rounds to when it loads; a quantised checkpoint has its own.
    """

    family: str
    state: str
    runner: str
    meaning: str
    vision: str | None = None
    language: str | None = None

    @property
    def is_ours(self) -> bool:
        return self.family != "qwen"


def _ours(family: str) -> dict[str, Contender]:
    """Figure 5's ablation for one family, each row with all that the rows before it have."""
    common: dict[str, Any] = {"family": family, "runner": "run_nvila.py"}
    return {
        f"{family}/scaled": Contender(**common, state="scaled", meaning="bf16"),
        f"{family}/compressed": Contender(**common, state="compressed", meaning="+ tokens compressed"),
        f"{family}/w8a8": Contender(**common, state="compressed", vision="w8a8", meaning="+ W8A8 tower"),
        f"{family}/w4a16": Contender(
            **common, state="compressed", vision="w8a8", language="w4a16", meaning="+ W4A16 decoder"
        ),
        f"{family}/all": Contender(
            **common, state="quantised", meaning="+ the rest: 8-bit head, static scales, read as stored"
        ),
    }


CONTENDERS: dict[str, Contender] = {
    **_ours("lite"),
    **_ours("base"),
    "transformers": Contender(family="qwen", state="bf16", runner="run_transformers.py", meaning="Qwen2-VL, bf16"),
    "vllm": Contender(family="qwen", state="bf16", runner="run_vllm.py", meaning="Qwen2-VL, bf16"),
    "openvino": Contender(family="qwen", state="int4", runner="run_openvino.py", meaning="Qwen2-VL, INT4"),
}


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where things lie, and which models are meant."""

    cache: Path
    peers: Path
    size: str
    temporal_pool: int

    def folder(self, contender: Contender) -> Path:
        """Of the contender's checkpoint."""
        pool = f"-pool{self.temporal_pool}" if contender.is_ours and contender.state != "scaled" else ""
        return self.cache / f"{self.size}-{contender.family}-{contender.state}{pool}"

    def python(self, name: str) -> Path | None:
        """The interpreter that runs the contender; None where its environment was not made."""
        found = python_of(self.peers, name)
        if found.exists():
            return found
        has_ours = CONTENDERS[name].is_ours or name == "transformers"
        return Path(sys.executable) if has_ours else None

    def prepare(self, name: str) -> str:
        """Makes the contender's checkpoint where it is not there. Gives why it cannot run, or nothing."""
        contender, python = CONTENDERS[name], self.python(name)
        if python is None:
            return f"no environment (make_env.py {name} --peers {self.peers})"
        folder = self.folder(contender)
        if folder.exists():
            return ""
        source = {"quantised": f"{contender.family}/compressed", "int4": "transformers"}.get(contender.state)
        reason = self.prepare(source) if source else ""
        if reason:
            return f"{source}: {reason}"
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            log = folder.with_name(folder.name + ".log")
            with log.open("w") as stream:
                command = self._command(contender, python, part)
                subprocess.run(command, check=True, stdout=stream, stderr=subprocess.STDOUT)
        except subprocess.CalledProcessError as error:
            shutil.rmtree(part, ignore_errors=True)
            return f"its checkpoint could not be made (status {error.returncode}, see {log})"
        part.rename(folder)
        return ""

    def _command(self, contender: Contender, python: Path, out: Path) -> list[str]:
        """What writes the checkpoint; the one that it is made from is there."""
        script = str(HERE / ("write_nvila.py" if contender.is_ours else "write_qwen2_vl.py"))
        if contender.state == "int4":
            source = str(self.folder(CONTENDERS["transformers"]))
            export = ["export", "openvino", "--model", source, "--task", "image-text-to-text"]
            export += ["--weight-format", "int4", "--group-size", "128", "--ratio", "1.0", str(out)]
            return [str(python.with_name("optimum-cli")), *export]
        if contender.state == "quantised":
            source = str(self.folder(CONTENDERS[f"{contender.family}/compressed"]))
            return [sys.executable, script, str(out), "--state", "quantised", "--source", source]
        options = ["--size", self.size]
        if contender.is_ours:
            options += ["--family", contender.family, "--state", contender.state]
            options += ["--temporal-pool", str(self.temporal_pool)]
        return [sys.executable, script, str(out), *options]
