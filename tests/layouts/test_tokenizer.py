"""A tokenizer is opened as what it is, whatever configuration lies beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from transformers import AutoTokenizer

from nvila.layouts import MINI, open_tokenizer, resolve

TEXT = "The 12 cafés' signs don't say\n\n“stop”, at 7:45."


def test_a_qwen2_configuration_beside_it_changes_nothing(tmp_path: Path) -> None:
    mini = resolve(MINI)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(mini / name, tmp_path / name)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    expected = AutoTokenizer.from_pretrained(mini)(TEXT)["input_ids"]
    assert open_tokenizer(tmp_path)(TEXT)["input_ids"] == expected
    assert AutoTokenizer.from_pretrained(tmp_path)(TEXT)["input_ids"] != expected  # why this function is there
