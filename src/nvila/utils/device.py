"""Which device to run on, and which number format is fast there.

torch is imported inside the functions: the command line's help comes without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nvila.errors import ConfigError, nearest

if TYPE_CHECKING:
    import torch

AUTO = "auto"
DTYPES = ("bfloat16", "float16", "float32")
BF16_CPU_FLAGS = frozenset({"amx_bf16", "avx512_bf16", "bf16", "asimdbf16", "i8mm_bf16"})
"""Names in /proc/cpuinfo that mean bf16 matrix products in hardware, on x86 and on Arm."""


def choose_device(name: str = AUTO) -> torch.device:
    """The device called `name`; "auto" is the first CUDA device, or else the CPU.

    Raises ConfigError for a name that torch does not know and for a CUDA device that is not there.
    """
    import torch

    if name == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is not known; give 'auto', 'cpu', 'cuda' or 'cuda:N'") from error
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"device {name!r} is asked for, but {count} CUDA devices are here; use 'auto' or 'cpu'")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format called `name`; "auto" is bfloat16 where `device` computes it in hardware, or else float32.

    Raises ConfigError for another name, with the nearest known one.
    """
    import torch

    if name == AUTO:
        return torch.bfloat16 if has_fast_bf16(device) else torch.float32
    if name not in DTYPES:
        known = (AUTO, *DTYPES)
        raise ConfigError(f"dtype {name!r} is not known{nearest(name, known)}; give one of {', '.join(known)}")
    return {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[name]


def has_fast_bf16(device: torch.device, *, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether `device` multiplies bf16 matrices in hardware; False for a CPU that does not say (no `cpuinfo`)."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not cpuinfo.exists():
        return False
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return not BF16_CPU_FLAGS.isdisjoint(value.split())
    return False
