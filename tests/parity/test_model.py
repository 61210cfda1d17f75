"""The model against the reference implementation's numbers, from stored pixels and ids.

Tolerances are those that two transformers versions and float64 support: features and embeddings 1e-4, logits 5e-4.
Logits are compared up to the size of the stored embedding table: the reference fills rows beyond it at random.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nvila.model import NVILAForConditionalGeneration

CASES = ("nvila_lite", "nvila_s2_mlp_downsample", "nvila_video_tsp")
IMAGE_ID, VIDEO_ID = 1006, 1007


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One sample's files and the model inputs made from them."""

    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]
    inputs: dict[str, Any]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, golden: Path) -> tuple[Path, Any]:
    folder = golden / request.param
    return folder, NVILAForConditionalGeneration.from_pretrained(folder / "checkpoint", dtype=torch.float32)


def stored_samples(folder: Path) -> list[Stored]:
    return [read_sample(path) for path in sorted((folder / "samples").glob("*.json"))]


def read_sample(path: Path) -> Stored:
    meta = json.loads(path.read_text())
    arrays = dict(np.load(path.with_suffix(".npz")))
    inputs: dict[str, Any] = {"input_ids": torch.tensor([expand_ids(meta, arrays["input_ids"].tolist())])}
    pixels = arrays.get("pixel_values")
    if pixels is None and "pixel_u8" in arrays:
        pixels = ((arrays["pixel_u8"].astype(np.float64) * (1 / 255)).astype(np.float32) - 0.5) / 0.5
    if pixels is not None and "n_video_frames" in meta:
        inputs |= {"pixel_values_videos": torch.from_numpy(pixels), "video_lengths": meta["n_video_frames"]}
    elif pixels is not None:
        inputs |= {"pixel_values": torch.from_numpy(pixels), "block_sizes": meta.get("block_sizes_out")}
    return Stored(meta=meta, arrays=arrays, inputs=inputs)


def expand_ids(meta: dict[str, Any], ids: list[int]) -> list[int]:
    """Ids with every placeholder expanded to the span that its media take, newline rows included."""
    spans = iter(zip(meta.get("media_spans_in_inputs_embeds", []), meta.get("newline_rows_in_spans", []), strict=True))
    expanded: list[int] = []
    for token in ids:
        if token not in (IMAGE_ID, VIDEO_ID):
            expanded.append(token)
            continue
        (_, start, length), newlines = next(spans)
        assert start == len(expanded)
        expanded.extend(meta["newline_id"] if row in newlines else token for row in range(length))
    assert len(expanded) == meta["n_inputs_embeds"]
    return expanded


def assert_close(actual: torch.Tensor, expected: np.ndarray, tolerance: float) -> None:
    torch.testing.assert_close(actual.float(), torch.from_numpy(expected), atol=tolerance, rtol=0)


@torch.no_grad()
def test_vision_features_and_embeddings(case: tuple[Path, Any]) -> None:
    folder, model = case
    for sample in stored_samples(folder):
        pixels = sample.inputs.get("pixel_values", sample.inputs.get("pixel_values_videos"))
        if pixels is not None and "vit_features" in sample.arrays:
            assert_close(model.encode_tiles(pixels), sample.arrays["vit_features"], 1e-4)
        media = {key: value for key, value in sample.inputs.items() if key != "input_ids"}
        empty = dict.fromkeys(
            (
                "pixel_values",
                "block_sizes",
                "tile_features",
                "pixel_values_videos",
                "video_lengths",
                "video_tile_features",
            )
        )
        embeds = model.embed_inputs(sample.inputs["input_ids"], **{**empty, **media})
        assert_close(embeds[0], sample.arrays["inputs_embeds"], 1e-4)


@torch.no_grad()
def test_logits(case: tuple[Path, Any]) -> None:
    folder, model = case
    for sample in stored_samples(folder):
        logits = model(**sample.inputs).logits[0]
        stored_rows = model.config.text_config.vocab_size
        columns = min(logits.shape[-1], stored_rows)
        assert_close(logits[-8:, :columns], sample.arrays["logits_last8"][:, :columns], 5e-4)
        if "logits_all" in sample.arrays:
            assert_close(logits[:, :columns], sample.arrays["logits_all"][:, :columns], 5e-4)


def test_greedy_tokens(case: tuple[Path, Any]) -> None:
    folder, model = case
    for sample in stored_samples(folder):
        expected = sample.arrays["greedy_ids"].tolist()
        clear = sample.arrays["greedy_top1_top2_gap"] > 1e-3
        tokens = model.generate(**sample.inputs, max_new_tokens=len(expected), do_sample=False)
        new = tokens[0, sample.inputs["input_ids"].shape[1] :].tolist()
        for got, wanted, is_clear in zip(new, expected, clear, strict=True):
            if not is_clear or wanted >= model.config.text_config.vocab_size:
                break
            assert got == wanted


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 0.03), ("bfloat16", 0.2)])
@torch.no_grad()
def test_half_precision_logits(golden: Path, dtype: str, tolerance: float) -> None:
    for name in ("nvila_lite", "nvila_s2_mlp_downsample"):
        model = NVILAForConditionalGeneration.from_pretrained(golden / name / "checkpoint", dtype=dtype)
        for path in sorted((golden / name / "samples").glob("*.halfprec.npz")):
            sample = read_sample(path.with_name(path.name.replace(".halfprec.npz", ".json")))
            logits = model(**sample.inputs).logits[0, -8:]
            columns = min(logits.shape[-1], model.config.text_config.vocab_size)
            expected = sample.arrays["logits_last8"][:, :columns]
            assert_close(logits[:, :columns], expected, tolerance)
