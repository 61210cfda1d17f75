"""Writes an NVILA checkpoint of a published geometry with random weights, or quantises one.

    python write_nvila.py OUT --family lite|base --size 2b|8b|nano --state scaled|compressed [--temporal-pool 4]
    python write_nvila.py OUT --state quantised --source FOLDER

"scaled" and "compressed" are the two halves of the paper's Tables 1 and 2. Lite: 2x2 patches a token and every frame,
against 3x3 and frames averaged in groups. Base: its 2x2 projector in both, only frames are averaged. "quantised" is
what `nvila quantize` writes with rounding to nearest, 8-bit head, calibrated on one picture: random weights have
nothing to search for, and searched ones run through the same kernels.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from inputs import QUESTION, Job
from tokenizer import byte_tokenizer

from nvila.data.encode import SampleEncoder
from nvila.model import NVILAConfig, NVILAForConditionalGeneration, NVILALiteForConditionalGeneration
from nvila.processing import NVILAProcessor
from nvila.quant.export import quantise_checkpoint
from nvila.quant.options import QuantiseOptions
from nvila.quant.run import open_checkpoint
from nvila.train.plan.published import architecture
from nvila.train.start import build_processor
from nvila.types import ImagePart, Message, Sample, TextPart

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "[BOS]", "[PAD]")
PLACEHOLDERS = ("<vila/sentinel>", "<image>", "<vila/video>")
"""Their ids lie beyond the embedding, as in the published checkpoints."""


def make_config(family: str, size: str, state: str, temporal_pool: int) -> NVILAConfig:
    """The geometry of `train.plan`, in the state's numbers of tokens."""
    found = architecture(f"lite-{size}" if family == "lite" and size != "nano" else size)
    visual: dict[str, Any] = {**found.visual, "temporal_pool": temporal_pool if state == "compressed" else 1}
    if size == "nano" and family == "base":
        visual |= {"image_mode": "dynamic_s2", "s2_scales": (56, 112, 168)}
    if family == "lite":
        visual["projector_type"] = "mlp_downsample_3x3_fix" if state == "compressed" else "mlp_downsample"
    # The class nvila_lite stands for the 3x3 projector; with 2x2 the same parts are a plain nvila.
    config = replace(found, visual=visual, lite=family == "lite" and state == "compressed").config()
    config.image_token_id = config.text_config.vocab_size + 1
    config.video_token_id = config.text_config.vocab_size + 2
    return config


def write_random(folder: Path, config: NVILAConfig) -> None:
    """Weights of a fixed seed in bfloat16, with tokenizer and processor."""
    text = config.text_config
    tokenizer = byte_tokenizer(
        text.vocab_size - len(SPECIALS), [*SPECIALS, *PLACEHOLDERS], eos="<|im_end|>", pad="[PAD]"
    )
    text.eos_token_id, text.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    lite = config.model_type == NVILALiteForConditionalGeneration.config_class.model_type
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = (NVILALiteForConditionalGeneration if lite else NVILAForConditionalGeneration)(config)
    torch.set_default_dtype(torch.float32)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    build_processor(config.visual, tokenizer).save_pretrained(folder)


def write_quantised(folder: Path, source: Path) -> None:
    """All that the engine has formats for: tower W8A8, decoder W4A16, head in 8 bits."""
    picture = Job(kind="image", width=448, height=448).pictures()[0]
    question = Message(role="user", content=(ImagePart(image=picture), TextPart(text=QUESTION)))
    answer = Message(role="assistant", content=(TextPart(text="A page."),))
    sample = SampleEncoder(NVILAProcessor.from_pretrained(source))(
        Sample(id="0", source="benchmark", messages=(question, answer))
    )
    options = QuantiseOptions(vision="w8a8", language="w4a16", head="int8", rounding="nearest")
    quantise_checkpoint(open_checkpoint(str(source)), [sample], folder, options, on_step=print)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--family", choices=("lite", "base"), default="lite")
    parser.add_argument("--size", choices=("2b", "8b", "nano"), default="2b")
    parser.add_argument("--state", choices=("scaled", "compressed", "quantised"), default="compressed")
    parser.add_argument("--temporal-pool", type=int, default=4)
    parser.add_argument("--source", type=Path)
    options = parser.parse_args()
    if options.state == "quantised":
        write_quantised(options.out, options.source)
    else:
        write_random(options.out, make_config(options.family, options.size, options.state, options.temporal_pool))


if __name__ == "__main__":
    main()
