"""The processor against the golden samples: pixels, grids, text and ids of the published implementation, exactly."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import AutoTokenizer

from nvila.processing import NVILAProcessor

NAMES = {
    "nvila_lite": [
        "china_320x213", "china_crop_141x141", "exif6_160x120", "flower_107x160", "gray_L_97x61", "image_last",
        "literal_token_in_text", "one_pixel_1x1", "palette_P_80x80", "rgba_123x200", "tall_text_60x1500",
        "text_before_and_newline", "text_only", "two_images", "video_as_images_4of11", "video_basic_4of11",
        "wide_text_1600x80",
    ],
}  # fmt: skip
NAMES["nvila_s2_mlp_downsample"] = NAMES["nvila_lite"]
NAMES["nvila_video_tsp"] = ["image_china", "video_tsp_8of11"]
SAMPLES = [(case, name) for case, names in NAMES.items() for name in names]


@pytest.fixture(scope="module")
def processors(golden: Path) -> dict[str, NVILAProcessor]:
    return {case: NVILAProcessor.from_pretrained(golden / case / "checkpoint") for case in NAMES}


def messages_of(golden: Path, sample: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The sample's prompt as a conversation, and the options of its request."""
    parts: list[dict[str, Any]] = []
    options: dict[str, Any] = {}
    for item in sample["prompt"]:
        if isinstance(item, str):
            parts.append({"type": "text", "text": item})
        elif "image" in item:
            parts.append({"type": "image", "path": str(golden / item["image"])})
        else:
            files = sorted((golden / item["video_dir"]).glob("*.png"))
            num_frames = int(sample["sample"].rsplit("_", 1)[1].split("of")[0])
            if sample["sample"].startswith("video_as_images"):
                chosen = np.round(np.linspace(0, len(files) - 1, num_frames)).astype(int)
                parts.extend({"type": "image", "path": str(files[index])} for index in chosen)
            else:
                parts.append({"type": "video", "video": [Image.open(file) for file in files]})
                options["num_frames"] = num_frames
    return [{"role": "user", "content": parts}], options


@pytest.mark.parametrize(("case", "name"), SAMPLES)
def test_sample(golden: Path, processors: dict[str, NVILAProcessor], case: str, name: str) -> None:
    folder = golden / case / "samples"
    sample = json.loads((folder / f"{name}.json").read_text())
    arrays = np.load(folder / f"{name}.npz")
    processor = processors[case]
    messages, options = messages_of(golden, sample)
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **options
    )
    ids = inputs["input_ids"][0].tolist()
    check_pixels(sample, arrays, inputs)
    check_text(processor, sample, processor.apply_chat_template(messages, add_generation_prompt=True))
    check_ids(processor, sample, arrays, ids)


def check_pixels(sample: dict[str, Any], arrays: Any, inputs: Any) -> None:
    pixels = inputs.get("pixel_values", inputs.get("pixel_values_videos"))
    if "pixel_values_shape" not in sample:
        assert pixels is None
        return
    assert list(pixels.shape) == sample["pixel_values_shape"]
    if "pixel_values" in arrays:
        assert np.array_equal(pixels.numpy(), arrays["pixel_values"])
    else:
        scaled = (arrays["pixel_u8"].astype(np.float64) * (1 / 255)).astype(np.float32)
        expected = (scaled - np.float32(0.5)) / np.float32(0.5)
        assert np.array_equal(pixels.numpy(), expected)
    tiles = np.rint((pixels.numpy() * 0.5 + 0.5) * 255).astype(np.uint8)
    assert [hashlib.sha256(tile.tobytes()).hexdigest() for tile in tiles] == sample["tile_u8_chw_sha256"]
    if "block_sizes_out" in sample and "block_sizes" in inputs:
        assert [list(block) for block in inputs["block_sizes"]] == sample["block_sizes_out"]


def check_text(processor: NVILAProcessor, sample: dict[str, Any], text: str) -> None:
    """The template writes one placeholder for an image, the reference one for every tile, newlines between them."""
    tiles = sample.get("n_image_entries", 0)
    expected = sample["input_text"]
    if tiles > 1 and processor.image_processor.image_mode == "dynamic" and text.count("<image>") == 1:
        expected = expected.replace("\n".join(["<image>"] * tiles), "<image>")
    assert text == expected


def check_ids(processor: NVILAProcessor, sample: dict[str, Any], arrays: Any, ids: list[int]) -> None:
    assert len(ids) == sample["n_inputs_embeds"]
    newline = processor.token_ids.newline
    expected_spans = []
    for kind, start, length in sample["media_spans_in_inputs_embeds"]:
        rows = sample["newline_rows_in_spans"][len(expected_spans)]
        placeholder = processor.token_ids.image if kind == "image" else processor.token_ids.video
        span = ids[start : start + length]
        assert [index for index, token in enumerate(span) if token == newline] == rows
        assert {token for index, token in enumerate(span) if index not in rows} == {placeholder}
        expected_spans.append((start, length, placeholder))
    restored: list[int] = []
    position = 0
    for start, length, placeholder in expected_spans:
        restored.extend(ids[position:start])
        restored.append(placeholder)
        position = start + length
    restored.extend(ids[position:])
    assert restored == arrays["input_ids"].tolist()
    assert len(restored) == sample["n_input_ids"]


@pytest.mark.parametrize("case", list(NAMES))
def test_every_sample_is_listed(golden: Path, case: str) -> None:
    assert sorted(path.stem for path in (golden / case / "samples").glob("*.json")) == sorted(NAMES[case])


@pytest.mark.parametrize("case", ["nvila_lite", "nvila_s2_mlp_downsample"])
def test_tokenizer_cases(golden: Path, processors: dict[str, NVILAProcessor], case: str) -> None:
    cases = json.loads((golden / case / "tokenizer_cases.json").read_text())
    for tokenizer in (
        AutoTokenizer.from_pretrained(golden / case / "checkpoint" / "llm"),
        processors[case].tokenizer,
    ):
        for item in cases["strings"]:
            assert tokenizer(item["text"])["input_ids"] == item["ids"]
            assert tokenizer.decode(item["ids"]) == item["decoded"]
        for item in cases["chats"]:
            options = {"add_generation_prompt": True}
            assert tokenizer.apply_chat_template(item["messages"], tokenize=False, **options) == item["text"]
            assert tokenizer(item["text"])["input_ids"] == item["ids"]


@pytest.mark.parametrize("case", ["nvila_lite", "nvila_s2_mlp_downsample"])
def test_chats_through_our_template(golden: Path, processors: dict[str, NVILAProcessor], case: str) -> None:
    cases = json.loads((golden / case / "tokenizer_cases.json").read_text())
    for item in cases["chats"]:
        if "<image>" not in item["text"]:
            ids = processors[case].apply_chat_template(item["messages"], add_generation_prompt=True, tokenize=True)
            assert ids == item["ids"]
