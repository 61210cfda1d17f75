"""An adapter's files: plain peft reads them, another base is refused, and nothing half-written stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from tests.adapters.conftest import RANK, logits, trained
from tests.tiny import make_tokenizer, write_checkpoint

from nvila.adapters import store
from nvila.adapters.merge import attach_saved
from nvila.adapters.options import AdapterOptions
from nvila.errors import CheckpointError
from nvila.model import NVILAForConditionalGeneration

BOTH = AdapterOptions(vision="lora", language="lora", rank=RANK)
USUAL = AdapterOptions(vision="ln", language="lora", rank=RANK)


def save(
    model: Any,
    base: Path,
    options: AdapterOptions,
    folder: Path,
    max_tiles: int | None = 3,
) -> store.Card:
    card = store.Card(
        base=str(base),
        fingerprint=store.fingerprint(str(base)),
        options=options,
        train=("vision", "projector", "llm"),
        visual={} if max_tiles is None else {"max_tiles": max_tiles},
    )
    store.save_adapter(model, card, folder)
    return card


@pytest.mark.parametrize("options", [BOTH, USUAL], ids=["lora", "ln"])
def test_plain_peft_loads_the_adapter(base: Path, tmp_path: Path, options: AdapterOptions) -> None:
    model = trained(base, options)
    save(model, base, options, tmp_path / "adapter")
    plain = NVILAForConditionalGeneration.from_pretrained(base)
    untouched = logits(plain)
    plain.load_state_dict(load_file(tmp_path / "adapter" / store.TUNED_WEIGHTS), strict=False)
    loaded = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter")
    assert torch.allclose(logits(loaded), logits(model), atol=1e-5)
    assert not torch.allclose(untouched, logits(model), atol=1e-2)


@pytest.mark.parametrize(
    "options",
    [
        USUAL,
        BOTH,
        AdapterOptions(vision="ln", language="qlora", rank=RANK),
        AdapterOptions(vision="full", language="full"),
    ],
    ids=["ln-lora", "lora-lora", "ln-qlora", "full-full"],
)
def test_what_is_saved_comes_back(base: Path, tmp_path: Path, options: AdapterOptions) -> None:
    model = trained(base, options)
    save(model, base, options, tmp_path / "adapter")
    again = NVILAForConditionalGeneration.from_pretrained(base)
    card = attach_saved(again, tmp_path / "adapter")
    assert torch.equal(logits(again), logits(model))
    assert card.options == options
    assert again.config.visual.max_tiles == 3


def test_only_what_learned_is_stored(base: Path, tmp_path: Path) -> None:
    model = trained(base, AdapterOptions(vision="ln", language="lora", rank=RANK), "vision")
    save(model, base, USUAL, tmp_path / "adapter")
    assert not (tmp_path / "adapter" / store.LORA_WEIGHTS).exists()
    assert all(".layer_norm" in name for name in load_file(tmp_path / "adapter" / store.TUNED_WEIGHTS))


def test_fingerprints_are_of_values_and_not_of_layouts(base: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "folders", "folders")
    NVILAForConditionalGeneration.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(tmp_path / "narrow")
    make_tokenizer().save_pretrained(tmp_path / "narrow")
    NVILAForConditionalGeneration.from_pretrained(tmp_path / "narrow", dtype=torch.float32).save_pretrained(
        tmp_path / "wide"
    )
    own = store.fingerprint(str(base))
    assert store.fingerprint(str(tmp_path / "folders")) == own
    assert store.fingerprint(str(tmp_path / "wide")) == store.fingerprint(str(tmp_path / "narrow")) != own


def test_an_adapter_of_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    save(trained(base, USUAL), base, USUAL, tmp_path / "adapter")
    other = trained(base, AdapterOptions())
    other.save_pretrained(tmp_path / "other")
    card = store.read_card(tmp_path / "adapter")
    store.check_base(card, tmp_path / "adapter", str(base))
    with pytest.raises(CheckpointError, match=f"is an adapter of {base} .* but the base is {tmp_path / 'other'}"):
        store.check_base(card, tmp_path / "adapter", str(tmp_path / "other"))


def test_damage_is_named(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    with pytest.raises(CheckpointError, match="is no adapter of ours"):
        store.read_card(tmp_path)
    save(trained(base, USUAL), base, USUAL, folder)
    whole = (folder / store.LORA_WEIGHTS).read_bytes()
    (folder / store.LORA_WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors: missing or damaged"):
        attach_saved(NVILAForConditionalGeneration.from_pretrained(base), folder)
    (folder / store.LORA_WEIGHTS).write_bytes(whole)
    values = json.loads((folder / store.CARD).read_text())
    (folder / store.CARD).write_text(json.dumps({**values, "options": {**values["options"], "rank": RANK + 1}}))
    with pytest.raises(CheckpointError, match=r"does not fit .* the first fault is at"):
        attach_saved(NVILAForConditionalGeneration.from_pretrained(base), folder)
    (folder / store.CARD).write_text(json.dumps({**values, "format": 2}))
    with pytest.raises(CheckpointError, match="has format 2, and this version reads 1"):
        store.read_card(folder)
    (folder / store.CARD).write_text(json.dumps({**values, "optoins": {}}))
    with pytest.raises(CheckpointError, match=r"unknown key 'optoins' \(did you mean 'options'"):
        store.read_card(folder)


def test_a_write_that_fails_leaves_the_adapter_that_was_there(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource
    import signal

    folder = tmp_path / "adapter"
    save(trained(base, USUAL), base, USUAL, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # a disk that is full after 10 kB
        with pytest.raises((CheckpointError, OSError)) as caught:
            save(trained(base, USUAL, seed=2), base, USUAL, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert str(folder.parent) in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
