"""A folder that `nvila quantize` wrote, in the engine: the answers of the model that transformers loads from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.engine.tiny_engines import TEXT, Reference, ask, conversations, open_engine, write_lively_checkpoint
from tests.media_files import noise

from nvila import NVILAProcessor
from nvila.data.encode import SampleEncoder
from nvila.ops.int4_linear import Int4Linear
from nvila.ops.int8_linear import Int8Linear
from nvila.quant.export import quantise_checkpoint
from nvila.quant.options import Activations, QuantiseOptions
from nvila.quant.run import open_checkpoint
from nvila.types import ImagePart, Message, Sample, TextPart

NUM_NEW = 16


def write_quantised(folder: Path, activations: Activations) -> Path:
    """A lively checkpoint in all formats that there are, calibrated on noise."""
    source_folder = write_lively_checkpoint(
        folder / "source", text={**TEXT, "hidden_size": 64, "intermediate_size": 128, "tie_word_embeddings": True}
    )
    encoder = SampleEncoder(NVILAProcessor.from_pretrained(source_folder))
    samples = [
        encoder(
            Sample(
                id=str(seed),
                source="test",
                messages=(
                    Message(role="user", content=(ImagePart(image=noise(112, 56, seed)), TextPart(text="What is it?"))),
                    Message(role="assistant", content=(TextPart(text="noise"),)),
                ),
            )
        )
        for seed in range(3)
    ]
    options = QuantiseOptions(vision="w8a8", language="w4a16", head="int8", activations=activations)
    quantise_checkpoint(open_checkpoint(str(source_folder)), samples, folder / "quantised", options)
    return folder / "quantised"


@pytest.mark.parametrize("activations", ["token", "static"])
def test_answers_are_those_of_the_model_that_transformers_loads(activations: Activations, tmp_path: Path) -> None:
    folder = write_quantised(tmp_path, activations)
    reference = Reference(folder)
    kinds = {type(module) for module in reference.model.modules()}
    assert {Int4Linear, Int8Linear} <= kinds
    assert type(reference.model.llm.lm_head) is Int8Linear
    engine = open_engine(folder)
    expected = [reference.answer(messages, max_new_tokens=NUM_NEW) for messages in conversations()]
    assert [engine.generate(messages, max_new_tokens=NUM_NEW).token_ids for messages in conversations()] == expected
    assert len({tuple(answer) for answer in expected}) == len(expected), "all answers are alike: nothing was compared"


def test_asking_for_the_formats_that_the_folder_has_changes_nothing(tmp_path: Path) -> None:
    folder = write_quantised(tmp_path, "token")
    again = type(open_engine(folder)).from_pretrained(
        folder, dtype="float32", device="cpu", vision="w8a8", language="w4a16"
    )
    messages = ask(noise(112, 56, 5), "What is it?")
    assert (
        again.generate(messages, max_new_tokens=NUM_NEW).token_ids
        == open_engine(folder).generate(messages, max_new_tokens=NUM_NEW).token_ids
    )
