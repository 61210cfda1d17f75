"""Opening a checkpoint's tokenizer as what it is, whatever model lies beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nvila.layouts.find import read_json

WHOLE_FILE = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes whose tokenizer.json says everything. transformers' AutoTokenizer takes a Qwen2 tokenizer in their place
where a Qwen2 configuration lies beside them, as in the three-folder layout, and that cuts text otherwise."""


def open_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a folder or a hub id."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    config = Path(folder) / "tokenizer_config.json"
    is_whole = config.is_file() and read_json(config).get("tokenizer_class") in WHOLE_FILE
    return (PreTrainedTokenizerFast if is_whole else AutoTokenizer).from_pretrained(folder)
