"""The trainer's fast encoding equals the processor's: same ids, same pixels, and labels on the answer alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from nvila.data.corpus import Assets, dense_labels, generate
from nvila.errors import DataError
from nvila.layouts import VisualSettings
from nvila.processing.chat import chat_labels
from nvila.train.dense import DenseRaster, dense_kinds
from nvila.train.encode import SampleEncoder, collate, thinned
from nvila.train.export import build_processor
from nvila.train.tokenizer import build_tokenizer, spell
from nvila.types import ImagePart, Message, Sample, TextPart, VideoPart

VISUAL = VisualSettings(image_mode="dynamic", tile_size=112, patch_size=14, temporal_pool=2, num_video_frames=8)
WORDS = ["system", "user", "assistant", "You are a helpful assistant", "what does the word say", "motion of cross"]
CASES = [
    ("word", (112, 112)),
    ("sign", (224, 112)),
    ("sign", (300, 200)),
    ("naming", (150, 190)),
    ("motion", (112, 112)),
    ("scene", (112, 112)),
    ("bars", (224, 112)),
]


def make_encoder(assets: Assets) -> SampleEncoder:
    return SampleEncoder(build_tokenizer(WORDS), VISUAL, DenseRaster(dense_kinds(dense_labels(assets)), 112, 14))


def processed(sample: Sample) -> tuple[Any, Any]:
    """The processor, and what it makes of the conversation up to the last answer."""
    processor = build_processor(VISUAL, build_tokenizer(WORDS))
    messages = [
        {"role": message.role, "content": [part_of(part) for part in message.content]}
        for message in sample.messages[:-1]
    ]
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return processor, inputs


def part_of(part: Any) -> dict[str, Any]:
    match part:
        case ImagePart(image=image):
            return {"type": "image", "image": image}
        case VideoPart(video=video):
            return {"type": "video", "video": list(video or ())}
        case _:
            return {"type": "text", "text": part.text}


@pytest.mark.parametrize(("task", "size"), CASES)
def test_prompt_and_pixels_equal_the_processors(assets: Assets, task: str, size: tuple[int, int]) -> None:
    sample = generate(task, assets, split="train", seed=3, index=1, size=size)
    encoded = make_encoder(assets)(sample)
    processor, inputs = processed(sample)
    last = sample.messages[-1].content[0]
    assert isinstance(last, TextPart)
    answer = processor.tokenizer(last.text)["input_ids"]
    prompt = inputs["input_ids"][0].tolist()
    end = processor.token_ids.im_end
    assert encoded.input_ids == [*prompt, *answer, end]
    expected = chat_labels(
        encoded.input_ids,
        im_start=processor.token_ids.im_start,
        im_end=end,
        assistant_header=processor.token_ids.assistant_header,
    )
    assert encoded.labels == expected
    pixels = inputs["pixel_values" if encoded.block_size else "pixel_values_videos"]
    mine = torch.from_numpy(encoded.tiles).permute(0, 3, 1, 2).float() / 127.5 - 1
    torch.testing.assert_close(mine, pixels, atol=1e-6, rtol=0)
    if encoded.block_size:
        assert [encoded.block_size] == [tuple(block) for block in inputs["block_sizes"]]
        assert encoded.dense.shape[0] == len(encoded.tiles)


def test_spelled_answers_are_bytes_and_decode_to_the_same_text(assets: Assets) -> None:
    sample = generate("word", assets, split="train", seed=3, index=2, size=(112, 112))
    encoder = make_encoder(assets)
    trained = [label for label in encoder(sample, spell_answer=True).labels if label != -100]
    assert trained == [*spell(sample.meta["answer"]), encoder.end_id]


def test_a_batch_pads_on_the_right_and_keeps_pictures_and_clips_apart(assets: Assets) -> None:
    encoder = make_encoder(assets)
    word = encoder(generate("word", assets, split="train", seed=3, index=1, size=(112, 112)))
    clip = encoder(generate("motion", assets, split="train", seed=3, index=1, size=(112, 112)), max_frames=4)
    batch = collate([clip, word], encoder.pad_id)
    assert batch["input_ids"].shape[1] % 16 == 0
    assert batch["input_ids"][1, : len(word.input_ids)].tolist() == word.input_ids
    assert set(batch["input_ids"][1, len(word.input_ids) :].tolist()) == {encoder.pad_id}
    assert set(batch["labels"][1, len(word.input_ids) :].tolist()) == {-100}
    assert batch["pixel_values"].shape == (1, 112, 112, 3)
    assert batch["pixel_values_videos"].shape == (4, 112, 112, 3)
    assert (batch["block_sizes"], batch["video_lengths"]) == ([(1, 1)], [4])


def test_thinning_keeps_the_first_and_the_last_frame() -> None:
    frames: Any = list(range(8))
    assert thinned(frames, 4) == [0, 2, 5, 7]
    assert thinned(frames, 0) == frames
    assert thinned(frames, 9) == frames


def test_other_conversations_are_refused_by_name(assets: Assets) -> None:
    sample = Sample(id="odd", source="test", messages=(Message(role="user", content=(TextPart(text="hi"),)),))
    with pytest.raises(DataError, match="sample odd: turns are"):
        make_encoder(assets)(sample)
    two_pictures = generate("scene", assets, split="train", seed=3, index=1, size=(112, 112))
    again = (*two_pictures.messages, *two_pictures.messages)
    with pytest.raises(DataError, match="behind the first image"):
        make_encoder(assets)(replace(two_pictures, messages=again))
