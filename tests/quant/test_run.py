"""Quantising a checkpoint: what is written, read back, gone on with, and how much is held meanwhile."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tiny import write_checkpoint

from nvila.data.encode import SampleEncoder
from nvila.errors import CheckpointError, ConfigError, DataError
from nvila.layouts import read_settings
from nvila.model import NVILAForConditionalGeneration
from nvila.model.checkpoint import read_weights
from nvila.model.quantised import Schemes
from nvila.ops.int4_linear import Int4Linear, dequantise_int4, pack_int4
from nvila.ops.int8_linear import Int8Linear
from nvila.processing import NVILAProcessor
from nvila.quant.calibrate import calibration_samples
from nvila.quant.export import quantise_checkpoint
from nvila.quant.load import int4_tensors, int8_tensors, kind_of
from nvila.quant.options import QuantiseOptions
from nvila.quant.run import open_checkpoint
from nvila.types import ImagePart, Message, Sample, TextPart, VideoPart

BOTH = {"vision": "w8a8", "language": "w4a16"}
WIDE = {"text": {"hidden_size": 64, "intermediate_size": 96}}
Q_PROJ = "llm.model.layers.0.self_attn.q_proj"
FC2 = "vision_tower.vision_model.encoder.layers.0.mlp.fc2"


def sample(number: int, *, clip: bool = False) -> Sample:
    """A picture or a clip with a question."""
    rng = np.random.default_rng(number)
    shape = (3 if clip else 1, 60, 70 + 9 * number, 3)
    pictures = [Image.fromarray(pixels) for pixels in rng.integers(0, 256, shape, dtype=np.uint8)]
    medium: Any = VideoPart(video=pictures) if clip else ImagePart(image=pictures[0])
    question = Message(role="user", content=(medium, TextPart(text=f"what is {number}?")))
    answer = Message(role="assistant", content=(TextPart(text="noise " * (number + 1)),))
    return Sample(id=str(number), source="test", messages=(question, answer))


def quantise(folder: Path, out: Path, *, on_step: Any = lambda text: None, **options: Any) -> dict[str, Any]:
    """Quantises the checkpoint in `folder` on six samples."""
    source = open_checkpoint(str(folder))
    encoder = SampleEncoder(NVILAProcessor.from_pretrained(folder))
    samples = [encoder(sample(number, clip=number % 3 == 2)) for number in range(6)]
    chosen = QuantiseOptions(**(options or BOTH))
    return quantise_checkpoint(source, samples, out, chosen, on_step=on_step)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return read_weights(folder, read_settings(folder))


def logits(model: Any, folder: Path) -> torch.Tensor:
    """For a conversation with a picture."""
    content = [{"type": "text", "text": "Describe:"}, {"type": "image", "image": Image.linear_gradient("L")}]
    inputs = NVILAProcessor.from_pretrained(folder).apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        return model.eval()(**inputs).logits


@pytest.mark.parametrize("layout", ["hf", "folders"])
def test_what_is_written_is_read_back_bit_equal_and_close_to_the_original(tmp_path: Path, layout: str) -> None:
    original = write_checkpoint(tmp_path / "a", layout, **WIDE)
    report = quantise(tmp_path / "a", tmp_path / "q")
    model = NVILAForConditionalGeneration.from_pretrained(tmp_path / "q")
    assert isinstance(model.get_submodule(Q_PROJ), Int4Linear)
    assert isinstance(model.get_submodule(FC2), Int8Linear)
    assert type(model.llm.lm_head) is torch.nn.Linear
    stored, state = weights_of(tmp_path / "q"), model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in stored.items())
    wanted, found = logits(original, tmp_path / "a"), logits(model, tmp_path / "q")
    error = float((wanted - found).square().mean().sqrt() / wanted.std())
    assert 1e-4 < error < 0.2
    assert report["bytes"]["after"] < report["bytes"]["before"]
    assert not (tmp_path / "q.parts").exists()


def test_saving_the_loaded_model_gives_the_same_numbers(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a", "hf", **WIDE)
    quantise(tmp_path / "a", tmp_path / "q")
    model = NVILAForConditionalGeneration.from_pretrained(tmp_path / "q")
    model.save_pretrained(tmp_path / "again")
    NVILAProcessor.from_pretrained(tmp_path / "q").save_pretrained(tmp_path / "again")
    again = NVILAForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert torch.equal(logits(model, tmp_path / "q"), logits(again, tmp_path / "q"))
    assert again.config.quantization_config == model.config.quantization_config


def test_each_part_is_optional_and_leaves_the_other_untouched(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a", "hf", **WIDE)
    before = weights_of(tmp_path / "a")
    for part, other in (({"vision": "w8a8"}, "llm."), ({"language": "w4a16"}, "vision_tower.")):
        out = tmp_path / next(iter(part))
        quantise(tmp_path / "a", out, **part)
        after = weights_of(out)
        untouched = [name for name in before if name.startswith((other, "mm_projector."))]
        assert untouched
        assert all(torch.equal(before[name], after[name]) for name in untouched)
        assert any(name not in before for name in after)


def test_the_head_in_8_bits_is_untied_from_the_embeddings(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "a", "hf", text={"tie_word_embeddings": True})
    quantise(tmp_path / "a", tmp_path / "q", head="int8")
    loaded = NVILAForConditionalGeneration.from_pretrained(tmp_path / "q")
    assert isinstance(loaded.llm.lm_head, Int8Linear)
    assert torch.equal(loaded.get_input_embeddings().weight, model.get_input_embeddings().weight)
    wanted, found = logits(model, tmp_path / "a"), logits(loaded, tmp_path / "q")
    assert 0 < float((wanted - found).abs().max()) < 0.05 * float(wanted.abs().max())


def test_widths_that_no_group_divides_stay_in_16_bits(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a", "hf", text={"hidden_size": 64, "intermediate_size": 72})
    report = quantise(tmp_path / "a", tmp_path / "q")
    stored = weights_of(tmp_path / "q")
    assert kind_of(stored, "llm.model.layers.0.mlp.down_proj") == "plain"
    assert kind_of(stored, "llm.model.layers.0.mlp.up_proj") == "int4"
    assert "72" in report["layers"]["language-000"]["mlp.down_proj"]
    assert int4_tensors(stored, "llm.model.layers.0.mlp.up_proj").group_size == 64


def test_a_run_that_was_stopped_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a", "hf", **WIDE)
    quantise(tmp_path / "a", tmp_path / "whole")

    def stop(text: str) -> None:
        if text == "language layer 2 of 2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantise(tmp_path / "a", tmp_path / "q", on_step=stop)
    assert not (tmp_path / "q").exists()
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "q.parts").glob("*.safetensors")}
    assert sorted(done) == ["language-000.safetensors", *(f"vision-{number:03d}.safetensors" for number in range(3))]
    quantise(tmp_path / "a", tmp_path / "q")
    whole, resumed = weights_of(tmp_path / "whole"), weights_of(tmp_path / "q")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_parts_of_another_run_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a", "hf", **WIDE)

    def stop(text: str) -> None:
        if text.startswith("language"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantise(tmp_path / "a", tmp_path / "q", on_step=stop)
    with pytest.raises(ConfigError, match=r"q\.parts: belongs to a run with another"):
        quantise(tmp_path / "a", tmp_path / "q", vision="w8a8")


def test_a_quantised_checkpoint_is_not_quantised_again(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a", "hf", **WIDE)
    quantise(tmp_path / "a", tmp_path / "q")
    with pytest.raises(ConfigError, match="quantised already"):
        open_checkpoint(str(tmp_path / "q"))


def test_memory_is_bounded_by_a_layer_not_by_their_number(tmp_path: Path) -> None:
    peaks = {}
    for layers in (2, 12):
        folder = tmp_path / str(layers)
        write_checkpoint(
            folder, "hf", text={**WIDE["text"], "num_hidden_layers": layers}, vision={"num_hidden_layers": layers}
        )
        seen: list[int] = []

        def count(text: str, folder: Path = folder, seen: list[int] = seen) -> None:
            seen.append(held_bytes())

        quantise(folder, tmp_path / f"q{layers}", on_step=count)
        assert len(seen) == 2 * layers + 1
        peaks[layers] = max(seen) - seen[0]
    layer = sum(t.nbytes for name, t in weights_of(tmp_path / "2").items() if name.startswith("llm.model.layers.0."))
    assert peaks[12] - peaks[2] < layer


def held_bytes() -> int:
    """Bytes of all tensors that are not memory-mapped from a file."""
    gc.collect()
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    files = [tuple(int(end, 16) for end in one[0].split("-")) for one in maps if one[-1].endswith(".safetensors")]
    found = {}
    for thing in gc.get_objects():
        # Subclasses hold their bytes in plain tensors, or none: torch.compile keeps fake ones of what it has traced.
        if type(thing) not in (torch.Tensor, torch.nn.Parameter) or thing.device.type != "cpu":
            continue
        if thing.is_mkldnn:
            found[id(thing)] = thing.numel() * thing.element_size()
        else:
            storage = thing.untyped_storage()
            start = storage.data_ptr()
            if not any(first <= start < last for first, last in files):
                found[start] = storage.nbytes()
    return sum(found.values())


def test_plain_tensors_are_what_the_layers_multiply_with(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a", "hf", **WIDE)
    quantise(tmp_path / "a", tmp_path / "q")
    stored = weights_of(tmp_path / "q")
    model: Any = NVILAForConditionalGeneration.from_pretrained(tmp_path / "q")
    four = int4_tensors(stored, Q_PROJ)
    ready = model.get_submodule(Q_PROJ).prepared()
    assert torch.equal(
        dequantise_int4(pack_int4(four.packed, four.scales, four.zeros), torch.float32),
        dequantise_int4(ready, torch.float32),
    )
    assert four.bias is not None
    eight = int8_tensors(stored, FC2)
    assert torch.equal(eight.values, model.get_submodule(FC2).weight)
    assert eight.scale.shape == (32,)


def test_smoothing_beats_rounding_where_channels_are_large(tmp_path: Path) -> None:
    original = write_checkpoint(tmp_path / "a", "hf", **WIDE)
    for layer in original.vision_tower.vision_model.encoder.layers:
        layer.layer_norm1.weight.data[3] *= 60
        layer.layer_norm2.weight.data[5] *= 60
    original.save_pretrained(tmp_path / "a")
    errors = {}
    for rounding in ("searched", "nearest"):
        quantise(tmp_path / "a", tmp_path / rounding, vision="w8a8", rounding=rounding, activations="token")
        model = NVILAForConditionalGeneration.from_pretrained(tmp_path / rounding)
        tiles = torch.randn(2, 3, 56, 56)
        with torch.no_grad():
            wanted, found = original.encode_tiles(tiles), model.encode_tiles(tiles)
        errors[rounding] = float((wanted - found).norm() / wanted.norm())
    assert errors["searched"] < 0.8 * errors["nearest"]


def test_scales_are_static_where_asked_for(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a", "hf", **WIDE)
    for way in ("token", "static"):
        quantise(tmp_path / "a", tmp_path / way, vision="w8a8", activations=way)
        assert (int8_tensors(weights_of(tmp_path / way), FC2).input_scale is not None) == (way == "static")
    model = NVILAForConditionalGeneration.from_pretrained(tmp_path / "static")
    assert model.get_submodule(FC2).input_scale is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quant_method": "gptq"}, "quant_method is 'gptq'"),
        ({"config_groups": {"g": {"targets": ["re:.*"], "weights": {"num_bits": 3}}}}, r"group 'g' has weights \(3,"),
        ({"config_groups": {"g": {"targets": ["re:("], "weights": {"num_bits": 4}}}}, "has weights|no regular"),
    ],
)
def test_schemes_that_are_not_understood_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Schemes({"quant_method": "compressed-tensors", "config_groups": {}, **change})


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a", "hf", **WIDE)
    quantise(tmp_path / "a", tmp_path / "q")
    config = json.loads((tmp_path / "q" / "config.json").read_text())
    for group in config["quantization_config"]["config_groups"].values():
        group["targets"] = [target for target in group["targets"] if "0\\.self_attn\\.q_proj" not in target] or ["none"]
    (tmp_path / "q" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"q_proj\.weight"):
        NVILAForConditionalGeneration.from_pretrained(tmp_path / "q")


def test_data_without_a_usable_sample_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a", "hf", **WIDE)
    (tmp_path / "data.jsonl").write_text('{"id": "1", "conversations": []}\n')
    processor = NVILAProcessor.from_pretrained(tmp_path / "a")
    with pytest.raises(DataError, match=r"data\.jsonl: no sample can be calibrated on"):
        calibration_samples(str(tmp_path / "data.jsonl"), processor, QuantiseOptions(vision="w8a8"))


def test_samples_beyond_the_tiles_are_passed_over(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a", "hf", **WIDE)
    records = []
    for number, side in enumerate((56, 56, 400, 56)):
        Image.new("RGB", (side, 56)).save(tmp_path / f"{number}.png")
        turns = [{"from": "human", "value": "<image>what?"}, {"from": "gpt", "value": "black"}]
        records.append(json.dumps({"id": str(number), "image": f"{number}.png", "conversations": turns}))
    (tmp_path / "data.jsonl").write_text("\n".join(records))
    processor = NVILAProcessor.from_pretrained(tmp_path / "a")
    found = calibration_samples(
        str(tmp_path / "data.jsonl"), processor, QuantiseOptions(vision="w8a8", samples=4, max_tiles=3)
    )
    assert sorted(sample.num_tiles for sample in found) == [1, 1, 1]


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to quantise"):
        QuantiseOptions()
    with pytest.raises(ConfigError, match="language is 'w4a8'"):
        QuantiseOptions(language="w4a8")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="samples is 0"):
        QuantiseOptions(vision="w8a8", samples=0)
