"""The processor as a whole: expansion, counts, what serving engines rely on, layouts, saving, errors."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.processing.conftest import TILE, build_tokenizer
from transformers import AutoProcessor

from nvila.errors import CheckpointError, ConfigError, MediaError, NVILAError, PromptError
from nvila.processing import NVILAProcessor
from nvila.processing.tokens import NEWLINE, prepare_tokenizer

Make = Callable[..., NVILAProcessor]
MODES = ("resize", "pad", "dynamic", "dynamic_s2")


def picture(width: int = 90, height: int = 60) -> Image.Image:
    return Image.new("RGB", (width, height), (width % 256, height % 256, 7))


def image(width: int = 90, height: int = 60, **options: Any) -> dict[str, Any]:
    return {"type": "image", "image": picture(width, height), **options}


def clip(length: int) -> dict[str, Any]:
    return {"type": "video", "video": [picture()] * length}


def user(*parts: Any) -> list[dict[str, Any]]:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return [{"role": "user", "content": content}]


def encode(processor: NVILAProcessor, conversation: Any, **options: Any) -> Any:
    return processor.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **options
    )


def shape_of(processor: NVILAProcessor, ids: Any) -> str:
    """Ids as text: I and V for features, N for a newline, and a dot for other tokens."""
    tokens = processor.token_ids
    names = {tokens.image: "I", tokens.video: "V", tokens.newline: "N"}
    return "".join(names.get(int(token), ".") for token in ids)


def media_of(processor: NVILAProcessor, *parts: Any, **options: Any) -> str:
    shape = shape_of(processor, encode(processor, user(*parts), **options)["input_ids"][0])
    first = min(shape.find(letter) for letter in "IV" if letter in shape)
    return shape[first : max(shape.rfind("I"), shape.rfind("V")) + 3]


def test_untiled_image_is_its_features_and_a_newline(make_processor: Make) -> None:
    for image_mode in ("resize", "pad"):
        assert media_of(make_processor(image_mode), image(), "x") == "IIIIN."
    assert media_of(make_processor("resize", downsample=3), image(), "x") == "IIIIN."
    assert media_of(make_processor("resize", downsample=4), image(), "x") == "IN."


def test_dynamic_tiles_end_with_a_newline_and_one_of_text(make_processor: Make) -> None:
    processor = make_processor()
    assert media_of(processor, image(), "x") == "IIIINN" * 7
    assert media_of(processor, image(), image(), "x") == "IIIINIIIIN."
    assert media_of(processor, image(max_tiles=2), image(), "x") == "IIIINN" * 3 + "IIIIN."


def test_dynamic_s2_is_one_run(make_processor: Make) -> None:
    processor = make_processor("dynamic_s2")
    assert media_of(processor, image(), "x") == "I" * 48 + "N."
    assert media_of(processor, image(), "x", max_tiles=1) == "IIIIN."
    first_scale = make_processor("dynamic_s2", s2_resize_output_to_scale_idx=1)
    assert media_of(first_scale, image(), "x") == "I" * 16 + "N."


@pytest.mark.parametrize(
    ("pool", "length", "runs"), [(1, 5, 5), (2, 5, 3), (4, 8, 2), (4, 5, 2), (8, 3, 1), (2, 20, 4)]
)
def test_pooled_frames(make_processor: Make, pool: int, length: int, runs: int) -> None:
    processor = make_processor("resize", temporal_pool=pool)
    inputs = encode(processor, user(clip(length), "x"))
    assert inputs["video_lengths"] == [min(length, 8)]
    assert inputs["pixel_values_videos"].shape == (min(length, 8), 3, TILE, TILE)
    assert media_of(processor, clip(length), "x") == "VVVVN" * runs + "."


def test_newlines_behind_features_never_merge(make_processor: Make) -> None:
    processor = make_processor()
    tokenizer = processor.tokenizer
    assert len(tokenizer("\n\n")["input_ids"]) == 1  # left alone, they merge
    inputs = encode(processor, user(image(max_tiles=1), "\n\nx"))
    tail = inputs["input_ids"][0].tolist()
    start = len(tail) - 1 - tail[::-1].index(processor.token_ids.image)
    assert tail[start + 1] == processor.token_ids.newline
    assert tail[start + 2] == tokenizer("\n\n\n")["input_ids"][0]


def test_single_image_rule_is_of_the_conversation(make_processor: Make) -> None:
    processor = make_processor()
    blocks = {
        "one": user(image(), "x"),
        "two": user(image(), image(), "x"),
        "with a clip": user(image(), clip(2), "x"),
        "two turns": [*user(image(), "x"), {"role": "assistant", "content": "y"}, *user(image(), "z")],
    }
    found = {name: encode(processor, messages)["block_sizes"] for name, messages in blocks.items()}
    assert found == {"one": [(2, 3)], "two": [(1, 1)] * 2, "with a clip": [(1, 1)], "two turns": [(1, 1)] * 2}
    assert encode(processor, blocks["two"], max_tiles=12)["block_sizes"] == [(2, 3)] * 2


def test_the_call_itself_never_looks_at_other_images(make_processor: Make) -> None:
    processor = make_processor()
    result = processor(text="<image><image>", images=[picture(), picture(60, 90)])
    assert result["block_sizes"] == [(2, 3), (3, 2)]
    assert processor(text="<image>", images=picture(), max_tiles=4)["block_sizes"] == [(2, 2)]


def test_batch_equals_single_conversations(make_processor: Make) -> None:
    processor = make_processor()
    batch = [user(image(), "a"), user("text only"), user("b", image(30, 80), image(), "c"), user(clip(3), image(), "d")]
    together = encode(processor, batch)
    offset = frames = blocks = 0
    for row, conversation in enumerate(batch):
        alone = encode(processor, conversation)
        kept = together["attention_mask"][row].bool()
        assert torch.equal(together["input_ids"][row][kept], alone["input_ids"][0])
        assert kept[-1]  # padded on the left, as generation needs
        if "pixel_values" in alone:
            tiles = alone["pixel_values"].shape[0]
            assert torch.equal(together["pixel_values"][offset : offset + tiles], alone["pixel_values"])
            offset += tiles
            images = len(alone["block_sizes"])
            assert together["block_sizes"][blocks : blocks + images] == alone["block_sizes"]
            blocks += images
        frames += sum(alone.get("video_lengths", []))
    assert (offset, frames) == (together["pixel_values"].shape[0], together["pixel_values_videos"].shape[0])
    right = processor.apply_chat_template(
        batch, tokenize=True, return_dict=True, return_tensors="pt", padding_side="right"
    )
    assert right["attention_mask"][1, 0] == 1
    assert right["attention_mask"][1, -1] == 0


@pytest.mark.parametrize("image_mode", MODES)
def test_counts_from_sizes_equal_the_real_ones(make_processor: Make, image_mode: str) -> None:
    chance = random.Random(0)
    processor = make_processor(image_mode, temporal_pool=3, num_frames=5)
    for _ in range(12):
        sizes = [(chance.randint(1, 200), chance.randint(1, 200)) for _ in range(3)]
        lengths = [chance.randint(1, 9) for _ in range(2)]
        options = {"max_tiles": chance.choice([None, 1, 4, 12, [1, None, 6]])}
        counts = processor._get_num_multimodal_tokens(
            image_sizes=sizes, video_sizes=[(length, 10, 10) for length in lengths], **options
        )
        inputs = processor(
            text="".join(["<image>\n"] * 3 + ["<vila/video>"] * 2),
            images=[picture(width, height) for height, width in sizes],
            videos=[[picture(10, 10)] * length for length in lengths],
            return_tensors="pt",
            return_mm_token_type_ids=True,
            **options,
        )
        types = inputs["mm_token_type_ids"][0]
        assert sum(counts.num_image_tokens) == int((types == 1).sum())
        assert sum(counts.num_video_tokens) == int((types == 2).sum())
        assert sum(counts.num_image_patches) == inputs["pixel_values"].shape[0]
        for index, expected in enumerate(counts.num_image_tokens):
            assert processor.replace_image_token(inputs, index).count("<image>") == expected
        for index, expected in enumerate(counts.num_video_tokens):
            assert processor.replace_video_token(inputs, index).count("<vila/video>") == expected


def test_counts_of_a_huge_image_need_no_pixels(make_processor: Make) -> None:
    counts = make_processor()._get_num_multimodal_tokens(image_sizes=[[10_000, 10_000], [28, 280]])
    assert counts["num_image_tokens"] == [10 * 4, 11 * 4]
    assert counts["num_image_patches"] == [10, 11]
    assert counts.num_video_tokens is None


@pytest.mark.parametrize("image_mode", MODES)
def test_an_engine_that_expands_by_itself_gets_the_same_ids(make_processor: Make, image_mode: str) -> None:
    """vLLM tokenises the prompt without media and each replacement alone, and puts one into the other."""
    processor = make_processor(image_mode)
    conversation = user("Look: ", image(max_tiles=4), "\n\nand ", image(), clip(3), " then\n")
    expected = encode(processor, conversation)["input_ids"][0].tolist()
    prompt = processor.apply_chat_template(conversation, add_generation_prompt=True)
    offsets = processor(
        text="<image><image><vila/video>",
        images=[picture(), picture()],
        videos=[[picture()] * 3],
        max_tiles=[4, 1],
        return_text_replacement_offsets=True,
    )["text_replacement_offsets"][0]
    replacements: dict[str, list[list[int]]] = {"image": [], "video": []}
    for entry in offsets:
        replacements[entry["type"]].append(processor.tokenizer.encode(entry["replacement"], add_special_tokens=False))
    ids: list[int] = []
    for token in processor.tokenizer(prompt)["input_ids"]:
        kind = {processor.image_token_id: "image", processor.video_token_id: "video"}.get(token)
        ids.extend([token] if kind is None else replacements[kind].pop(0))
    assert ids == expected


def test_replacement_offsets_point_at_the_replacements(make_processor: Make) -> None:
    processor = make_processor()
    text = "a <image> b"
    entry = processor(text=text, images=[picture()], return_text_replacement_offsets=True)["text_replacement_offsets"][
        0
    ][0]
    assert text[slice(*entry["span"])] == "<image>"
    assert entry["replacement"] == ("<image>" * 4 + NEWLINE + "\n") * 6 + "<image>" * 4 + NEWLINE


def test_media_by_path(make_processor: Make, tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    (tmp_path / "clip").mkdir()
    for index in range(3):
        picture().save(tmp_path / "clip" / f"{index}.png")
    processor = make_processor()
    by_path = encode(processor, user({"type": "image", "path": str(tmp_path / "a.png")}, "x"))
    assert torch.equal(by_path["pixel_values"], encode(processor, user(image(), "x"))["pixel_values"])
    folder = {"type": "video", "path": str(tmp_path / "clip")}
    assert encode(processor, user(folder, "x"), num_frames=2)["video_lengths"] == [2]
    assert encode(processor, user({**folder, "num_frames": 3}, "x"), num_frames=2)["video_lengths"] == [3]
    array = np.asarray(picture())
    by_array = encode(processor, user({"type": "image", "image": array}, {"type": "text", "text": "x"}))
    assert torch.equal(by_array["pixel_values"], by_path["pixel_values"])


def test_orientation_is_heeded_when_asked_for(make_processor: Make, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(80, 20).save(tmp_path / "turned.jpg", exif=exif)
    part = {"type": "image", "path": str(tmp_path / "turned.jpg")}
    processor = make_processor()
    assert encode(processor, user(part, "x"))["block_sizes"] == [(1, 4)]
    assert encode(processor, user(part, "x"), exif_transpose=True)["block_sizes"] == [(4, 1)]


def test_outputs(make_processor: Make) -> None:
    processor = make_processor()
    conversation = user(image(), "x")
    ids = processor.apply_chat_template(conversation, tokenize=True)
    assert isinstance(ids[0], int)
    assert processor.apply_chat_template([conversation], tokenize=True) == [ids]
    inputs = processor.apply_chat_template(conversation, tokenize=True, return_dict=True, return_tensors="pt")
    assert inputs["input_ids"].tolist() == [ids]
    assert inputs.to("cpu")["block_sizes"] == [(2, 3)]
    assert set(processor.model_input_names) >= {"input_ids", "pixel_values", "block_sizes", "pixel_values_videos"}


def test_wrong_counts_of_media(make_processor: Make) -> None:
    processor = make_processor()
    with pytest.raises(PromptError, match=r"2 <image> placeholders for 1 images"):
        processor(text="<image><image>", images=[picture()])
    with pytest.raises(PromptError, match=r"0 <vila/video> placeholders for 1 videos"):
        processor(text="x", videos=[[picture()]])
    with pytest.raises(PromptError, match="nothing was given"):
        processor()
    with pytest.raises(PromptError, match="audio"):
        processor(text="x", audio=np.zeros(3))
    with pytest.raises(PromptError, match="message 0, part 0: a bare image placeholder"):
        encode(processor, user({"type": "image"}, "x"))
    with pytest.raises(PromptError, match="fps is 2, but a list of frames"):
        encode(processor, user(clip(3), "x"), fps=2)
    with pytest.raises(MediaError, match=r"nowhere\.png"):
        encode(processor, user({"type": "image", "path": "nowhere.png"}, "x"))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"paddin": True}, "did you mean 'padding'"), ({"tools": [1]}, "unknown option 'tools'")],
)
def test_unknown_options(make_processor: Make, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_processor().apply_chat_template(user("x"), tokenize=True, **options)


def test_placeholders_are_added_in_order_and_once() -> None:
    tokenizer = build_tokenizer()
    size = len(tokenizer)
    ids = prepare_tokenizer(tokenizer)
    assert tokenizer.convert_tokens_to_ids("<vila/sentinel>") == size
    assert (ids.image, ids.video) == (size + 1, size + 2)
    assert prepare_tokenizer(tokenizer) == ids
    assert len(tokenizer) == size + 3


def test_workers_get_an_equal_processor(make_processor: Make) -> None:
    processor = make_processor()
    copied = pickle.loads(pickle.dumps(processor))
    conversation = user("See ", image(), "\n\nx")
    assert torch.equal(encode(copied, conversation)["input_ids"], encode(processor, conversation)["input_ids"])


@pytest.mark.parametrize("image_mode", MODES)
def test_saving(make_processor: Make, tmp_path: Path, image_mode: str) -> None:
    processor = make_processor(
        image_mode, downsample=3, temporal_pool=2, num_frames=4, max_tiles=10, strip_final_newline=False
    )
    processor.save_pretrained(tmp_path)
    conversation = user("Look", image(), clip(5), image(max_tiles=3))
    expected = encode(processor, conversation)
    for cls in (NVILAProcessor, AutoProcessor):
        loaded = cls.from_pretrained(tmp_path)
        assert type(loaded) is NVILAProcessor
        assert loaded.to_dict() == processor.to_dict()
        assert loaded.chat_template == processor.chat_template
        inputs = encode(loaded, conversation)
        assert all(torch.equal(inputs[key], expected[key]) for key in expected if torch.is_tensor(expected[key]))


def released_folder(root: Path, model_type: str) -> Path:
    """A single folder as published: a config of two parts, a tokenizer, and none of our own keys."""
    build_tokenizer().save_pretrained(root)
    vision = {"model_type": "siglip_vision_model", "image_size": TILE, "patch_size": 7}
    config = {"model_type": model_type, "vision_config": vision, "text_config": {"model_type": "qwen2"}}
    (root / "config.json").write_text(json.dumps(config))
    (root / "processor_config.json").write_text(json.dumps({"processor_class": "NVILALiteProcessor"}))
    return root


def test_published_single_folders(tmp_path: Path) -> None:
    for name in ("nvila", "nvila_lite"):
        (tmp_path / name).mkdir()
    lite = NVILAProcessor.from_pretrained(released_folder(tmp_path / "nvila_lite", "nvila_lite"))
    assert (lite.image_processor.image_mode, lite.downsample, lite.tokens_per_tile) == ("dynamic", 3, 4)
    assert lite.apply_chat_template(user("See ", image())).endswith("See <image>\n<|im_end|>\n")
    large = NVILAProcessor.from_pretrained(released_folder(tmp_path / "nvila", "nvila"))
    assert (large.image_processor.image_mode, large.downsample) == ("dynamic_s2", 2)
    assert large.image_processor.s2_scales == [TILE, 2 * TILE, 3 * TILE]
    assert large.apply_chat_template(user("See ", image())).endswith("See <image><|im_end|>\n")


def test_published_three_folders_keep_their_rules_when_saved(golden: Path, tmp_path: Path) -> None:
    published = NVILAProcessor.from_pretrained(golden / "nvila_lite" / "checkpoint")
    published.save_pretrained(tmp_path)
    loaded = NVILAProcessor.from_pretrained(str(tmp_path))
    assert loaded.strip_final_newline
    conversation = user("See ", image(320, 213))
    assert torch.equal(encode(loaded, conversation)["input_ids"], encode(published, conversation)["input_ids"])


def test_settings_given_at_loading(make_processor: Make, tmp_path: Path) -> None:
    make_processor().save_pretrained(tmp_path)
    tokenizer = build_tokenizer()
    loaded = NVILAProcessor.from_pretrained(
        tmp_path, max_tiles=3, num_frames=2, temporal_pool=2, tokenizer=tokenizer, trust_remote_code=False
    )
    assert loaded.tokenizer is tokenizer
    assert (loaded.image_processor.max_tiles, loaded.video_processor.num_frames, loaded.temporal_pool) == (3, 2, 2)
    with pytest.raises(ConfigError, match="did you mean 'max_tiles'"):
        NVILAProcessor.from_pretrained(tmp_path, max_tile=3)
    with pytest.raises(ConfigError, match="downsample is 0"):
        NVILAProcessor.from_pretrained(tmp_path, downsample=0)


def test_damaged_folders(make_processor: Make, tmp_path: Path) -> None:
    with pytest.raises(NVILAError, match="no such folder"):
        NVILAProcessor.from_pretrained(tmp_path / "nowhere")
    make_processor().save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, "temporal_pol": 2}))
    with pytest.raises(ConfigError, match=r"processor_config.json: unknown key 'temporal_pol'.*'temporal_pool'"):
        NVILAProcessor.from_pretrained(tmp_path)
    path.write_text(json.dumps({key: value for key, value in saved.items() if key != "video_processor"}))
    with pytest.raises(CheckpointError, match="video_processor"):
        NVILAProcessor.from_pretrained(tmp_path)
    path.write_text(json.dumps(saved))
    for damaged in ("{", "{}", "[]"):
        (tmp_path / "tokenizer.json").write_text(damaged)
        with pytest.raises(CheckpointError, match="tokenizer cannot be read"):
            NVILAProcessor.from_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match="holds neither"):
        NVILAProcessor.from_pretrained(tmp_path)
