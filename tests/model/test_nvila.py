"""The model as a whole: chunks, counts, padding, generation, serving demands."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.tiny import IMAGE_ID, NEWLINE_ID, VIDEO_ID, make_model

from nvila.errors import FusionError
from nvila.model import NVILAModel

TOKENS = 4  # a 56-pixel tile is 4 x 4 patches, 2 x 2 tokens


def prompt(*parts: list[int]) -> torch.Tensor:
    return torch.tensor([[token for part in parts for token in part]])


def one_image(tiles: int = 1) -> list[int]:
    return ([IMAGE_ID] * TOKENS + [NEWLINE_ID]) * tiles


@torch.no_grad()
@pytest.mark.parametrize("settings", [{"image_mode": "dynamic"}, {"image_mode": "dynamic_s2"}])
def test_encoding_in_chunks_changes_nothing_but_memory(settings: dict[str, Any]) -> None:
    model = make_model(**settings)
    grids = [(3, 4), (1, 1), (1, 1)]
    pixels = torch.randn(sum(model.num_image_tiles(grid) for grid in grids), 3, 56, 56)
    whole = model.get_image_features(pixels, grids).pooler_output
    model.vision_memory_budget = 1  # one tile at a time
    chunked = model.get_image_features(pixels, grids).pooler_output
    for one, other in zip(whole, chunked, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_tower_never_sees_more_tiles_than_the_budget_allows() -> None:
    model = make_model()
    seen: list[int] = []
    model.vision_tower.vision_model.embeddings.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[0]))
    model.vision_memory_budget = 1
    model.get_video_features(torch.randn(40, 3, 56, 56), [40])
    assert seen == [1] * 40


@torch.no_grad()
def test_last_layer_of_the_tower_has_no_effect() -> None:
    model = make_model()
    pixels = torch.randn(1, 3, 56, 56)
    before = model.encode_tiles(pixels)
    model.vision_tower.vision_model.encoder.layers[-1].mlp.fc1.weight.fill_(7)
    assert torch.equal(before, model.encode_tiles(pixels))
    model.vision_tower.vision_model.encoder.layers[-2].mlp.fc1.weight.fill_(7)
    assert not torch.equal(before, model.encode_tiles(pixels))


@torch.no_grad()
def test_tiles_of_another_size_get_interpolated_positions() -> None:
    model = make_model(tile_size=84)
    assert model.encode_tiles(torch.randn(2, 3, 84, 84)).shape == (2, 36, 32)


@torch.no_grad()
def test_precomputed_tile_features_give_the_same_logits() -> None:
    model = make_model(temporal_pool=2)
    pixels, frames = torch.randn(3, 3, 56, 56), torch.randn(3, 3, 56, 56)
    ids = prompt([7], one_image(3), [8], ([VIDEO_ID] * TOKENS + [NEWLINE_ID]) * 2, [9])
    media = {"block_sizes": [(1, 2)], "video_lengths": [3]}
    plain = model(ids, pixel_values=pixels, pixel_values_videos=frames, **media).logits
    features = {"tile_features": model.encode_tiles(pixels), "video_tile_features": model.encode_tiles(frames)}
    torch.testing.assert_close(plain, model(ids, **features, **media).logits)


@torch.no_grad()
def test_interleaved_media_equal_the_same_media_one_by_one() -> None:
    """Features are put by kind and order, wherever their placeholders stand."""
    model = make_model()
    images, clip = torch.randn(2, 3, 56, 56), torch.randn(2, 3, 56, 56)
    ids = prompt(one_image(), [7], ([VIDEO_ID] * TOKENS + [NEWLINE_ID]) * 2, [8], one_image())
    embeds = model.embed_inputs(ids, images, [(1, 1), (1, 1)], None, clip, [2], None)[0]
    features = model.get_image_features(images).pooler_output
    torch.testing.assert_close(embeds[:TOKENS], features[0])
    torch.testing.assert_close(embeds[-TOKENS - 1 : -1], features[1])
    frames = model.get_video_features(clip, [2]).pooler_output[0]
    torch.testing.assert_close(embeds[TOKENS + 2 : 2 * TOKENS + 2], frames[:TOKENS])


def test_fusion_names_both_counts() -> None:
    model = make_model()
    with pytest.raises(FusionError, match=r"8 image placeholders.*give\s+4 features"):
        model(prompt(one_image(2)), pixel_values=torch.randn(1, 3, 56, 56))
    with pytest.raises(FusionError, match="stand for 3 tiles, but pixel_values holds 2"):
        model(prompt(one_image(3)), pixel_values=torch.randn(2, 3, 56, 56), block_sizes=[(1, 2)])
    with pytest.raises(FusionError, match="sum up to 5, but there are 4 frames"):
        model.get_video_features(torch.randn(4, 3, 56, 56), [5])


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_gives_each_conversation_its_own_logits(side: str) -> None:
    model = make_model()
    short, long = prompt(one_image(), [7]), prompt([9, 9], one_image(3), [8, 7])
    pixels = torch.randn(4, 3, 56, 56)
    alone = [
        model(short, pixel_values=pixels[:1]).logits[0],
        model(long, pixel_values=pixels[1:], block_sizes=[(1, 2)]).logits[0],
    ]
    missing = long.shape[1] - short.shape[1]
    pad = torch.zeros(1, missing, dtype=torch.long)
    mask = torch.ones(2, long.shape[1], dtype=torch.long)
    padded = torch.cat([pad, short] if side == "left" else [short, pad], dim=1)
    mask[0, slice(0, missing) if side == "left" else slice(short.shape[1], None)] = 0
    batch = model(
        torch.cat([padded, long]), attention_mask=mask, pixel_values=pixels, block_sizes=[(1, 1), (1, 2)],
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
    ).logits  # fmt: skip
    kept = batch[0, missing:] if side == "left" else batch[0, : short.shape[1]]
    torch.testing.assert_close(kept, alone[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(batch[1], alone[1], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_cached_generation_equals_a_full_forward_for_every_token() -> None:
    model = make_model()
    ids, pixels = prompt([9], one_image(), [8]), torch.randn(1, 3, 56, 56)
    tokens = model.generate(input_ids=ids, pixel_values=pixels, max_new_tokens=8, do_sample=False, eos_token_id=None)
    for length in range(ids.shape[1], tokens.shape[1]):
        logits = model(tokens[:, :length], pixel_values=pixels).logits[0, -1]
        assert logits.argmax() == tokens[0, length]


@torch.no_grad()
@pytest.mark.parametrize("mode", ["dynamic", "dynamic_s2"])
def test_several_answers_of_a_batch_keep_their_own_images(mode: str) -> None:
    """Beams and num_return_sequences repeat conversations; tiles must follow theirs."""
    model = make_model(image_mode=mode)
    grids = [(1, 1), (3, 3)]
    counts = [1, 10 if mode == "dynamic" else 9]
    tiles = [model.num_image_tiles(grid) for grid in grids]
    pixels = torch.randn(sum(tiles), 3, 56, 56)
    frames = torch.randn(3, 3, 56, 56)
    rows = [prompt([7], [IMAGE_ID] * TOKENS * count, [8]) for count in counts]
    rows[0] = torch.cat([rows[0], prompt([VIDEO_ID] * TOKENS * 3, [6])], dim=1)
    width = max(row.shape[1] for row in rows)
    ids = torch.cat([torch.nn.functional.pad(row, (width - row.shape[1], 0)) for row in rows])
    inputs = {
        "attention_mask": (ids != 0).long(), "pixel_values": pixels, "block_sizes": grids,
        "pixel_values_videos": frames, "video_lengths": [3],
    }  # fmt: skip
    one = model.generate(input_ids=ids, **inputs, max_new_tokens=4, do_sample=False, eos_token_id=None)
    beams = model.generate(
        input_ids=ids, **inputs, max_new_tokens=1, num_beams=3, num_return_sequences=1, do_sample=False,
        eos_token_id=None,
    )  # fmt: skip
    assert torch.equal(beams[:, -1], one[:, width])


def test_gradients_reach_every_part_but_the_unused_layer() -> None:
    model = make_model().train()
    ids = prompt([9], one_image(), [8, 7])
    model(ids, pixel_values=torch.randn(1, 3, 56, 56), labels=ids.masked_fill(ids == IMAGE_ID, -100)).loss.backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {
        name for name, _ in model.named_parameters() if ".encoder.layers.2." in name or "post_layernorm" in name
    }


@torch.no_grad()
def test_base_model_and_language_model_are_what_serving_engines_expect() -> None:
    model = make_model()
    base = NVILAModel(model.config).eval()
    missing, unexpected = base.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    assert unexpected == ["llm.lm_head.weight"]
    assert base.language_model is base.llm.model
    ids, pixels = prompt([9], one_image(), [8]), torch.randn(1, 3, 56, 56)
    hidden = base(ids, pixel_values=pixels)[0]
    torch.testing.assert_close(model.llm.lm_head(hidden), model(ids, pixel_values=pixels).logits)
    features = base.get_image_features(pixels, block_sizes=[[(1, 1)]], return_dict=True).pooler_output
    assert isinstance(features, list)
    assert features[0].shape == (TOKENS, 48)


@torch.no_grad()
def test_attention_goes_through_the_registered_functions() -> None:
    """Any function that transformers knows by name can be put in, for the tower and the decoder alike."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    seen: list[str] = []

    def counting(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        seen.append(type(module).__name__)
        return sdpa_attention_forward(module, *args, **kwargs)

    ALL_ATTENTION_FUNCTIONS.register("counting", counting)
    model = make_model()
    ids, pixels = prompt([9], one_image(), [8]), torch.randn(1, 3, 56, 56)
    plain = model(ids, pixel_values=pixels).logits
    model.set_attn_implementation("counting")
    torch.testing.assert_close(plain, model(ids, pixel_values=pixels).logits, atol=1e-5, rtol=1e-4)
    assert seen == ["SiglipAttention"] * 2 + ["Qwen2Attention"] * 2


@torch.no_grad()
def test_llama_decoders_work_too() -> None:
    model = make_model(text={"model_type": "llama", "tie_word_embeddings": True})
    assert model.llm.lm_head.weight is model.llm.model.embed_tokens.weight
    assert model(prompt([9], one_image()), pixel_values=torch.randn(1, 3, 56, 56)).logits.shape == (1, 6, 264)
