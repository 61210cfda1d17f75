"""A run of fifty steps of each kind of stage at a tiny size, and the losses that it gave when it was last looked at.

python -m tests.train.tiny_runs        # writes golden_losses.json anew, to be looked at before it is committed
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.train.conftest import Backbones, write_backbones, write_mixture

from nvila.train import stages
from nvila.train.precision.options import PrecisionOptions
from nvila.train.recipe import Batches, ModelRecipe, Recipe, Run, Stage, Visual

GOLDEN = Path(__file__).with_name("golden_losses.json")
STEPS = 50
FP8 = PrecisionOptions(linears="tensorwise", inputs=True, norms=True, activations=True, min_features=32)
KINDS: dict[str, dict[str, Any]] = {
    "tower": {"train": ("vision",), "contrast_weight": 1.0, "answer_weight": 0.0},
    "decoder": {"train": ("llm",)},
    "projector": {"train": ("projector",), "learning_rate": 1e-2},
    "vision": {"train": ("vision", "projector")},
    "pretrain": {"train": ("projector", "llm")},
    "images": {"train": ("vision", "projector", "llm")},
    "video": {"train": ("vision", "projector", "llm"), "visual": Visual(num_video_frames=4, temporal_pool=2)},
}
"""Stage 0 for both backbones, then the five of Table 7."""


def make_stage(mixture: Path, name: str, **changes: Any) -> Stage:
    stage = Stage(
        name=name,
        mixture=str(mixture),
        batches=Batches(max_tokens=256, rows_per_step=4, window=16, micro_batch=4),
        steps=STEPS,
        learning_rate=3e-3,
        weight_decay=0.0,
        schedule="cosine",
        warmup_ratio=0.03,
        final_ratio=0.0,
        dense_weight=0.0,
        loss="token",
    )
    return replace(stage, **{**KINDS[name], **changes})


def make_recipe(backbones: Backbones, *stage: Stage, **run: Any) -> Recipe:
    model = ModelRecipe(
        vision=str(backbones.vision), language=str(backbones.language), image_mode="dynamic", max_tiles=4
    )
    plain = {"seed": 3, "threads": 1, "workers": 0, "bf16": False, "compile": False, "log_steps": 1, "probe_samples": 0}
    return Recipe(name="tiny", stage=stage, run=Run(**{**plain, **run}), model=model)


def losses(folder: Path) -> dict[int, float]:
    """The loss of each step of a run of one stage."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {entry["step"]: entry["loss"] for entry in map(json.loads, lines) if "loss" in entry}


def curve(name: str, backbones: Backbones, mixture: Path, folder: Path) -> list[float]:
    """The losses of fifty steps of that kind of stage; "fp8" is the stage of images with all of FP8."""
    kind = "images" if name == "fp8" else name
    recipe = make_recipe(backbones, make_stage(mixture, kind), optimizer="fp8" if name == "fp8" else "adamw")
    if name == "fp8":
        recipe = replace(recipe, precision=FP8)
    stages.run_recipe(recipe, folder)
    return [round(loss, 5) for loss in losses(folder).values()]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        backbones, mixture = write_backbones(root / "backbones"), write_mixture(root / "mixture")
        curves = {kind: curve(kind, backbones, mixture, root / kind) for kind in (*KINDS, "fp8")}
    lines = [f"  {json.dumps(kind)}: {json.dumps(found)}" for kind, found in curves.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    told = (f"{kind:10} {found[0]:8.4f} -> {found[-1]:8.4f}" for kind, found in curves.items())
    sys.stdout.write("\n".join(told) + "\n")


if __name__ == "__main__":
    main()
