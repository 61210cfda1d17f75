"""Device and number format: what is chosen by itself, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nvila.errors import ConfigError
from nvila.utils.device import choose_device, choose_dtype, has_fast_bf16

CPU = torch.device("cpu")


def test_auto_device_is_cuda_only_where_there_is_one() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == CPU


def test_absent_gpu_is_named_with_the_number_of_those_here() -> None:
    with pytest.raises(ConfigError, match=rf"'cuda:99' is asked for, but {torch.cuda.device_count()} CUDA devices"):
        choose_device("cuda:99")


def test_unknown_device_names_the_remedy() -> None:
    with pytest.raises(ConfigError, match="'gpu' is not known; give 'auto'"):
        choose_device("gpu")


@pytest.mark.parametrize(
    ("line", "fast"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 amx_tile", True),
        ("flags\t\t: fpu amx_bf16 amx_int8", True),
        ("flags\t\t: fpu avx2 avx512f bf16_like", False),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("model name\t: bf16", False),
    ],
)
def test_fast_bf16_is_read_from_the_cpu_flags(tmp_path: Path, line: str, fast: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{line}\n", encoding="utf-8")
    assert has_fast_bf16(CPU, cpuinfo=cpuinfo) is fast


def test_cpu_that_does_not_say_has_no_fast_bf16(tmp_path: Path) -> None:
    assert has_fast_bf16(CPU, cpuinfo=tmp_path / "none") is False


def test_dtype_by_name() -> None:
    assert choose_dtype("float16", CPU) is torch.float16
    assert choose_dtype("auto", CPU) is (torch.bfloat16 if has_fast_bf16(CPU) else torch.float32)
    with pytest.raises(ConfigError, match=r"'bfloat' is not known \(did you mean 'bfloat16'\?\)"):
        choose_dtype("bfloat", CPU)
