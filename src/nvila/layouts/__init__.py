"""Where a checkpoint lies and what its configuration says, before any weight is read.

Three layouts are known: the released three-folder one (`llm/ vision_tower/ mm_projector/` below a `config.json` of
type `llava_llama`), and the single-folder `nvila` and `nvila_lite` ones. All are read into the same
`CheckpointSettings`, which the model's configuration and the processor are both built from. Leaves out the weights
(`nvila.model.checkpoint`).
"""

from __future__ import annotations

from pathlib import Path

from nvila.layouts.find import FOLDERS, LEGACY_MODEL_TYPE, MINI, MODEL_TYPES, PLACEHOLDERS, detect, read_json, resolve
from nvila.layouts.folders import settings_from_folders
from nvila.layouts.settings import CheckpointSettings, ImageMode, Layout, ProjectorType, VisualSettings
from nvila.layouts.single import default_visual, settings_from_single_folder
from nvila.layouts.tokenizer import open_tokenizer

__all__ = [
    "FOLDERS",
    "LEGACY_MODEL_TYPE",
    "MINI",
    "MODEL_TYPES",
    "PLACEHOLDERS",
    "CheckpointSettings",
    "ImageMode",
    "Layout",
    "ProjectorType",
    "VisualSettings",
    "default_visual",
    "detect",
    "open_tokenizer",
    "read_json",
    "read_settings",
    "resolve",
]


def read_settings(root: Path) -> CheckpointSettings:
    """The settings of the checkpoint in `root`, whatever its layout.

    Raises CheckpointError for missing or unreadable files, ConfigError for unknown, wrong or contradicting values.
    """
    return settings_from_folders(root) if detect(root) == "folders" else settings_from_single_folder(root)
