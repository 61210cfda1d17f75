"""Models by their names: how they are told apart, and what is no model to score with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.media_files import write_clip
from tests.pruning.score.little import little_qwen, write_llava, write_records
from transformers import Qwen2Config, Qwen2ForCausalLM

from nvila.errors import CheckpointError
from nvila.pruning.score.data import Corpus
from nvila.pruning.score.models import fingerprint, is_ours, load_scorer, spelling
from nvila.pruning.score.options import DataOptions, RunOptions
from nvila.pruning.score.packed import PackedScorer
from nvila.pruning.score.spelling import spelling_of

OPTIONS = RunOptions(dtype="float32", device="cpu")


def test_a_fingerprint_is_of_the_weights_not_of_the_place(pair: tuple[str, str], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(pair[0], copy)
    assert fingerprint(str(copy)) == fingerprint(pair[0])
    weights = load_file(copy / "model.safetensors")
    first = sorted(weights)[0]
    weights[first] = weights[first] + 1.0
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(str(copy)) != fingerprint(pair[0])
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no \*\.safetensors"):
        fingerprint(str(copy))


def test_models_split_alike_or_not(pair: tuple[str, str], tmp_path: Path) -> None:
    assert spelling(pair[0]) == spelling(pair[1]) == load_scorer(pair[0], OPTIONS).encoder.spelling
    plain = write_llava(tmp_path / "plain")
    assert not is_ours(plain)
    merged = write_llava(tmp_path / "merged", merges=(("i", "t"),))
    assert len({spelling(pair[0]), spelling(str(plain)), spelling(str(merged))}) == 3
    _, one = little_qwen()
    _, other = little_qwen()
    other.chat_template = other.chat_template.replace("{% for message", "{# the same #}{% for message", 1)
    assert spelling_of(one) == spelling_of(other)
    other.chat_template = other.chat_template.replace("<|im_end|>", "")
    assert spelling_of(one) != spelling_of(other)


def test_what_is_no_model_to_score_with(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        load_scorer(str(tmp_path / "none"), OPTIONS)
    Qwen2ForCausalLM(
        Qwen2Config(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, intermediate_size=16,
            vocab_size=16, bos_token_id=None, eos_token_id=1,
        )
    ).save_pretrained(tmp_path / "text")  # fmt: skip
    with pytest.raises(CheckpointError, match=r"text: (cannot be loaded|its processor)"):
        load_scorer(str(tmp_path / "text"), OPTIONS)
    llava = write_llava(tmp_path / "llava")
    (llava / "processor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"llava: (its processor cannot be made|TokenizersBackend takes no pict)"):
        load_scorer(str(llava), OPTIONS)


def test_clips_are_seen(pair: tuple[str, str], tmp_path: Path) -> None:
    write_clip(tmp_path / "v.mp4")
    asked = {"video": "v.mp4", "QA": [{"q": "What?", "a": "Red."}]}
    data = write_records(tmp_path / "d.jsonl", [asked])
    sample = Corpus(DataOptions(data=str(data))).read(0).sample
    assert sample is not None
    found = []
    for num_frames in (1, 4):
        scorer = load_scorer(pair[0], RunOptions(dtype="float32", device="cpu", num_frames=num_frames))
        assert isinstance(scorer, PackedScorer)
        (batch,) = scorer.encoder.prepare([(0, sample)]).ready
        assert len(batch.inputs["pixel_values_videos"]) == num_frames
        found.append(scorer.log_p(batch)[0])
    assert found[0].num_tokens == found[1].num_tokens == len("Red.") + 1
    assert abs(found[0].log_p - found[1].log_p) > 1e-3
