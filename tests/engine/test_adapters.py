"""Adapters served from one base by name: each answers as its merged model does, whoever shares its steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adapters.conftest import RANK, trained
from tests.adapters.test_store import save
from tests.engine.test_reuse import count_tiles
from tests.engine.tiny_engines import FAMILIES, Reference, ask, conversations, open_engine, write_lively_checkpoint
from tests.media_files import noise

from nvila import CheckpointError, ConfigError, Engine, SamplingParams
from nvila.adapters.merge import attach_saved, merge_in_place
from nvila.adapters.options import AdapterOptions

KINDS = {
    "ln-lora": (AdapterOptions(vision="ln", language="lora", rank=RANK), ("vision", "projector", "llm")),
    "lora-lora": (AdapterOptions(vision="lora", language="lora", rank=RANK), ("vision", "llm")),
    "lora alone": (AdapterOptions(language="lora", rank=RANK), ("llm",)),
    "vision alone": (AdapterOptions(vision="full"), ("vision",)),
}
NEW = 8


@pytest.fixture(scope="module")
def folders(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An adapter of each kind, far enough from the base that answers differ."""
    root = tmp_path_factory.mktemp("adapters")
    for seed, (name, (options, parts)) in enumerate(KINDS.items()):
        model = trained(checkpoint, options, *parts, seed=seed)
        for key, weight in model.named_parameters():
            if "lora_" in key:
                weight.data *= 6
        save(model, checkpoint, options, root / name, max_tiles=None)
    return {name: root / name for name in KINDS}


@pytest.fixture(scope="module")
def merged(checkpoint: Path, folders: dict[str, Path]) -> dict[str, list[list[int]]]:
    """What the model with each adapter merged into it answers to all conversations, by transformers."""
    found = {}
    for name, folder in folders.items():
        reference = Reference(checkpoint)
        attach_saved(reference.model, folder)
        merge_in_place(reference.model, torch.float32)
        found[name] = [reference.answer(messages, max_new_tokens=NEW) for messages in conversations()]
    base = Reference(checkpoint)
    found["base"] = [base.answer(messages, max_new_tokens=NEW) for messages in conversations()]
    return found


def open_adapted(checkpoint: Path, folders: dict[str, Path], **limits: Any) -> Engine:
    engine = open_engine(checkpoint, **limits)
    for name, folder in folders.items():
        engine.adapters.add(name, folder)
    return engine


def test_all_share_every_step_and_each_answers_as_its_merged_model(
    checkpoint: Path, folders: dict[str, Path], merged: dict[str, list[list[int]]]
) -> None:
    engine = open_adapted(checkpoint, folders, prefill_chunk=40, tiles_per_step=2)
    assert list(engine.adapters) == list(KINDS)
    handles = {
        (name, index): engine.submit(
            messages, SamplingParams(max_new_tokens=NEW), adapter=None if name == "base" else name
        )
        for index, messages in enumerate(conversations())
        for name in merged
    }
    found = {key: handle.result().token_ids for key, handle in handles.items()}
    assert found == {(name, index): merged[name][index] for name, index in found}
    assert len({tuple(map(tuple, answers)) for answers in merged.values()}) == len(merged), "the adapters differ"


def test_nothing_that_is_kept_is_taken_for_another_adapters(
    checkpoint: Path, folders: dict[str, Path], merged: dict[str, list[list[int]]]
) -> None:
    engine = open_adapted(checkpoint, folders, block_size=4)
    for name in (None, *folders, None, *folders):
        found = engine.generate(conversations()[1], adapter=name, max_new_tokens=NEW)
        assert found.token_ids == merged[name or "base"][1], name
    assert found.num_cached_tokens > 0, "an adapter's own past is used again"


def test_a_tower_that_is_the_bases_encodes_a_picture_once_for_both(
    checkpoint: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_adapted(checkpoint, folders)
    seen = count_tiles(monkeypatch)
    for name in (None, "lora alone"):
        engine.generate(ask(noise(40, 40), "What is it?"), adapter=name, max_new_tokens=2)
    assert len(seen) == 1
    engine.generate(ask(noise(40, 40), "What is it?"), adapter="ln-lora", max_new_tokens=2)
    assert len(seen) == 2


def test_beside_a_decoder_in_four_bits_an_adapter_still_tells(folders: dict[str, Path], tmp_path: Path) -> None:
    text = {**FAMILIES["qwen2"]["text"], "hidden_size": 64, "intermediate_size": 128}
    wide = write_lively_checkpoint(tmp_path / "wide", text=text)
    options, parts = KINDS["ln-lora"]
    save(trained(wide, options, *parts), wide, options, tmp_path / "adapter", max_tiles=None)
    engine = Engine.from_pretrained(
        wide, dtype="float32", device="cpu", language="w4a16", adapters={"one": tmp_path / "adapter"}
    )
    plain, adapted = (engine.generate(conversations()[1], adapter=name, max_new_tokens=NEW) for name in (None, "one"))
    assert plain.token_ids != adapted.token_ids


def test_an_adapter_brings_its_own_tiling(checkpoint: Path, tmp_path: Path) -> None:
    options, parts = KINDS["lora alone"]
    for name, tiles in (("few", 1), ("many", 4)):
        save(trained(checkpoint, options, *parts), checkpoint, options, tmp_path / name, max_tiles=tiles)
    engine = open_adapted(checkpoint, {name: tmp_path / name for name in ("few", "many")})
    few, many = (
        engine.generate(ask(noise(112, 112), "What?"), adapter=name, max_new_tokens=1) for name in ("few", "many")
    )
    assert few.num_media_tokens < many.num_media_tokens


def test_a_name_can_be_given_anew_and_taken_away(
    checkpoint: Path, folders: dict[str, Path], merged: dict[str, list[list[int]]]
) -> None:
    engine = open_engine(checkpoint)
    for kind in ("ln-lora", "lora-lora"):
        engine.adapters.add("expert", folders[kind])
        answer = engine.generate(conversations()[1], adapter="expert", max_new_tokens=NEW)
        assert answer.token_ids == merged[kind][1]
    under_way = engine.submit(conversations()[1], SamplingParams(max_new_tokens=NEW), adapter="expert")
    engine.adapters.remove("expert")
    assert under_way.result().token_ids == merged["lora-lora"][1]
    with pytest.raises(ConfigError, match=r"no adapter 'expert'.*known are: none"):
        engine.generate(conversations()[1], adapter="expert")


def test_what_cannot_be_served_is_refused(checkpoint: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    engine = open_adapted(checkpoint, {"ln-lora": folders["ln-lora"]})
    with pytest.raises(ConfigError, match=r"'ln-lra'.*'ln-lora'"):
        engine.generate(ask("Hello"), adapter="ln-lra")
    whole = AdapterOptions(vision="full", language="full")
    save(trained(checkpoint, whole), checkpoint, whole, tmp_path / "whole", max_tiles=None)
    with pytest.raises(ConfigError, match=r"decoder's own weights.*finetune --merge"):
        engine.adapters.add("whole", tmp_path / "whole")
    other = write_lively_checkpoint(tmp_path / "other", text={"initializer_range": 0.1})
    options, parts = KINDS["ln-lora"]
    save(trained(other, options, *parts), other, options, tmp_path / "foreign", max_tiles=None)
    with pytest.raises(CheckpointError, match=r"is an adapter of .*other.*but the base is"):
        engine.adapters.add("foreign", tmp_path / "foreign")
    rounded = Engine.from_pretrained(checkpoint, dtype="float32", device="cpu", vision="w8a8")
    rounded.adapters.add("ln-lora", folders["ln-lora"])
    with pytest.raises(ConfigError, match="without vision='w8a8'"):
        rounded.adapters.add("lora-lora", folders["lora-lora"])
    assert list(engine.adapters) == list(rounded.adapters) == ["ln-lora"]
