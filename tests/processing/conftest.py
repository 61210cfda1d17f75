"""A small tokenizer, and processors of every image mode around it: no checkpoint is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nvila.processing import NVILAImageProcessor, NVILAProcessor, NVILAVideoProcessor

TILE = 28
GPT2_SPLIT = r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|[^\r\n\p{L}\p{N}]?\p{L}+|\s*[\r\n]+|\s+"


def build_tokenizer() -> Any:
    """Bytes, and merges of newlines, so that a newline that may merge does."""
    vocabulary = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary["ĊĊ"], vocabulary["ĊĊĊ"] = len(vocabulary), len(vocabulary) + 1
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ċ", "Ċ"), ("ĊĊ", "Ċ")]))
    split = pre_tokenizers.Split(Regex(GPT2_SPLIT), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")


@pytest.fixture
def make_processor() -> Callable[..., NVILAProcessor]:
    """Builds a processor: tiles of 28 pixels, patches of 7, so 4 tokens a tile with the 2x2 projector."""

    def make(image_mode: str = "dynamic", **options: Any) -> NVILAProcessor:
        image_options = {key: options.pop(key) for key in ("min_tiles", "max_tiles") if key in options}
        video_options = {key: options.pop(key) for key in ("num_frames", "fps") if key in options}
        scales = (TILE, 2 * TILE, 3 * TILE) if image_mode == "dynamic_s2" else ()
        return NVILAProcessor(
            image_processor=NVILAImageProcessor(image_mode=image_mode, size=TILE, s2_scales=scales, **image_options),
            tokenizer=build_tokenizer(),
            video_processor=NVILAVideoProcessor(size=TILE, **video_options),
            patch_size=7,
            **options,
        )

    return make
