"""Importing us and asking for help cost no torch, and the Auto classes know us whichever is imported first."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "av", "PIL", "numpy", "tensorboard", "accelerate")

AUTO_CHECK = """
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from nvila import NVILAConfig, NVILAForConditionalGeneration, NVILALiteConfig, NVILALiteForConditionalGeneration
from nvila import NVILAProcessor
assert CONFIG_MAPPING["nvila"] is NVILAConfig and CONFIG_MAPPING["nvila_lite"] is NVILALiteConfig
models = AutoModelForImageTextToText._model_mapping
assert models[NVILAConfig] is NVILAForConditionalGeneration
assert models[NVILALiteConfig] is NVILALiteForConditionalGeneration
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
assert PROCESSOR_MAPPING[NVILAConfig] is NVILAProcessor and PROCESSOR_MAPPING[NVILALiteConfig] is NVILAProcessor
import sys
assert not any(type(finder).__name__ == "AfterImport" for finder in sys.meta_path)
"""


def run(program: str) -> str:
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def loaded_after(program: str) -> list[str]:
    report = f"import json, sys; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    names: list[str] = json.loads(run(f"{program}\n{report}").splitlines()[-1])
    return names


@pytest.mark.parametrize(
    "program",
    [
        "import nvila",
        "import nvila; nvila.NVILAError; nvila.Message; dir(nvila)",
        "from nvila.cli.main import main; assert main(['--help']) == 0",
        "from nvila.cli.main import main; assert main(['--version']) == 0",
    ],
)
def test_light_uses_load_nothing_heavy(program: str) -> None:
    assert loaded_after(program) == []


@pytest.mark.parametrize(
    "first",
    [
        "import nvila",
        "from transformers import AutoModelForImageTextToText; import nvila",
        "import nvila; from transformers import Qwen2ForCausalLM",
        "import nvila; from nvila.processing import NVILAProcessor",
    ],
)
def test_auto_classes_know_us_in_any_order_of_imports(first: str) -> None:
    run(first + "\n" + AUTO_CHECK)
