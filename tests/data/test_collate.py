"""Encoded samples to batches, and the whole way from samples to losses."""

from __future__ import annotations

import pytest
import torch
from tests.media_files import noise
from tests.tiny import make_model, make_tokenizer
from torch.nn import functional as F

from nvila.data.collate import collate_packed, collate_padded
from nvila.data.encode import Encoded, SampleEncoder
from nvila.data.packing import Item, PackingOptions, RowPacker
from nvila.errors import DataError
from nvila.processing import NVILAImageProcessor, NVILAProcessor, NVILAVideoProcessor
from nvila.types import ImagePart, Message, Sample, TextPart, VideoPart


def make_encoded(name: str, ids: list[int], labels: list[int], *, tiles: int = 0, frames: int = 0) -> Encoded:
    """A sample whose pixels say whose they are."""
    value = float(ids[0])
    return Encoded(
        id=name,
        input_ids=torch.tensor(ids),
        labels=torch.tensor(labels),
        pixel_values=torch.full((tiles, 3, 2, 2), value) if tiles else None,
        block_sizes=((1, 1),) * tiles,
        pixel_values_videos=torch.full((frames, 3, 2, 2), value) if frames else None,
        video_lengths=(frames,) if frames else (),
    )


A = make_encoded("a", [1, 2, 3], [1, 2, 3], tiles=1)
B = make_encoded("b", [4, 5], [4, 5], tiles=2, frames=3)
C = make_encoded("c", [6, 7, 8, 9], [-100, 7, 8, 9], frames=1)


def test_a_packed_batch_by_hand() -> None:
    batch = collate_packed([[A, B], [C]], pad_id=0, length=6)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 0], [6, 7, 8, 9, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 2, 3, -100, 5, -100], [-100, 7, 8, 9, -100, -100]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 1]]
    assert batch["cu_seq_lens_q"].tolist() == batch["cu_seq_lens_k"].tolist() == [0, 3, 5, 6, 10, 12]
    assert batch["max_length_q"] == batch["max_length_k"] == 4
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [1, 4, 4]
    assert batch["block_sizes"] == [(1, 1)] * 3
    assert batch["pixel_values_videos"][:, 0, 0, 0].tolist() == [4, 4, 4, 6]
    assert batch["video_lengths"] == [3, 1]
    assert "attention_mask" not in batch, "with a mask transformers looks for no borders"


def test_a_padded_batch_by_hand() -> None:
    batch = collate_padded([A, C], pad_id=0)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 0], [6, 7, 8, 9]]
    assert batch["labels"].tolist() == [[1, 2, 3, -100], [-100, 7, 8, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["pixel_values"].shape[0] == 1
    assert batch["video_lengths"] == [1]


def test_text_alone_brings_no_media() -> None:
    text = make_encoded("t", [1, 2], [1, 2])
    assert set(collate_padded([text], pad_id=0)) == {"input_ids", "labels", "attention_mask"}
    assert not {"pixel_values", "pixel_values_videos"} & set(collate_packed([[text]], pad_id=0))


def test_what_cannot_be_collated() -> None:
    with pytest.raises(DataError, match="a packed row has 5 tokens, over the length of 4"):
        collate_packed([[A, B]], pad_id=0, length=4)
    with pytest.raises(DataError, match="a row without samples"):
        collate_packed([[A], []], pad_id=0)
    with pytest.raises(DataError, match="a row without samples"):
        collate_padded([], pad_id=0)


def make_samples() -> list[Sample]:
    """Text, pictures tiled and not, clips, several media and several turns."""
    image, clip = ImagePart(image=noise(150, 60)), VideoPart(video=[noise(50, 40, seed) for seed in range(5)])
    contents = [
        (TextPart(text="what is two and two?"),),
        (image, TextPart(text="what is it?")),
        (TextPart(text="first"), clip, TextPart(text="then"), image, ImagePart(image=noise(60, 60))),
        (clip, TextPart(text="?")),
    ]
    return [
        Sample(
            id=str(number),
            source="made",
            messages=(
                Message(role="user", content=content),
                Message(role="assistant", content=(TextPart(text="an answer" * (number + 1)),)),
                Message(role="user", content=(TextPart(text="sure?"),)),
                Message(role="assistant", content=(TextPart(text="yes"),), learned=number % 2 == 0),
            ),
        )
        for number, content in enumerate(contents)
    ]


def losses_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none")
    return losses[labels[:, 1:].flatten() != -100]


@torch.no_grad()
@pytest.mark.parametrize("image_mode", ["dynamic", "dynamic_s2"])
def test_from_samples_to_the_same_losses_packed_and_alone(image_mode: str) -> None:
    """Sizes are planned, rows are encoded and collated, and every learned token has the loss it has alone."""
    scales = (56, 112, 168) if image_mode == "dynamic_s2" else ()
    model = make_model(image_mode=image_mode, s2_scales=scales, temporal_pool=2)
    encoder = SampleEncoder(
        NVILAProcessor(
            image_processor=NVILAImageProcessor(image_mode=image_mode, size=56, s2_scales=scales),
            tokenizer=make_tokenizer(),
            video_processor=NVILAVideoProcessor(size=56),
            temporal_pool=2,
        )
    )
    samples = make_samples()
    items = [Item(index, *encoder.size(sample)) for index, sample in enumerate(samples)]
    (rows,) = RowPacker(PackingOptions(max_tokens=500, rows_per_step=2)).pack(items)
    encoded = [[encoder(samples[int(item.key)]) for item in row] for row in rows]
    assert [[sample.num_tokens for sample in row] for row in encoded] == [
        [item.num_tokens for item in row] for row in rows
    ]
    batch = collate_packed(encoded, pad_id=260)
    packed = losses_of(model(**batch).logits, batch["labels"])
    alone = []
    for sample in (sample for row in encoded for sample in row):
        single = collate_padded([sample], pad_id=260)
        alone.append(losses_of(model(**single).logits, single["labels"]))
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-5, rtol=0)
