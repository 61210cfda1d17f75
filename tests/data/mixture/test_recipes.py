"""The five stages of Table A1: every data set is named, and every file builds on two samples a data set."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pytest
from PIL import Image

from nvila import config
from nvila.data.mixture import Mixture, MixtureConfig, MixtureStream, as_is
from nvila.errors import ConfigError
from nvila.types import ImagePart, Sample, VideoPart

TABLE_A1 = {
    "stage1_projector": "LLaVA-CC3M-Pretrain",
    "stage2_vision": "ALLaVA, Docmatix, PDFA, LSVT, ArT",
    "stage3_pretrain": "COYO, ShareGPT4v-Pretrain, Docmatix, UniChart-Pretrain, MMC4",
    "stage4_image_sft": (
        "ShareGPT4V-SFT, Molmo, The Cauldron, Cambrian, LLaVA-OneVision, "
        "MSR-VTT, Image Paragraph Captioning, ShareGPT4V-100K, CLEVR, NLVR, VisualMRC, DocVQA, UniChart-SFT, ChartQA, "
        "TextCaps, OCRVQA, ST-VQA, POIE, SORIE, SynthDoG-en, TextOCR-GPT4V, ArxivQA, LLaVAR, "
        "ScienceQA, VQAv2, ViQuAE, Visual Dialog, GQA, Geo170K, LRV-Instruction, RefCOCO, GeoQA, OK-VQA, "
        "TabMVP, EstVQA, "
        "DVQA, AI2D, Shikra, UniMM-Chat, SVIT, MMC-Instruction, MM-Instruction, "
        "FLAN-1M, MathInstruct, Dolly, GSM8K-ScRel-SFT, WordART, WIT, STEM-QA, PathVQA, Slake, MedVQA, "
        "ActivityNet-QA, MSRVTT-QA, iVQA, Youcook2, VaTeX, ShareGPTVideo"
    ),
    "stage5_video_sft": "LLaVA-Video-178K, LLaVA-OneVision",
}
"""The names in the table; LRV-Instruction stands there twice, under two headings with one paper."""

TEXT_ONLY = {"FLAN-1M", "MathInstruct", "Dolly", "GSM8K-ScRel-SFT"}
CLIPS = {
    "MSR-VTT",
    "ActivityNet-QA",
    "MSRVTT-QA",
    "iVQA",
    "Youcook2",
    "VaTeX",
    "ShareGPTVideo",
    "LLaVA-Video-178K",
}

Record = dict[str, Any]


def turns(role: str, text: str, question: str, answer: str) -> list[dict[str, str]]:
    names = ("human", "gpt") if role == "from" else ("user", "assistant")
    return [{role: names[0], text: question}, {role: names[1], text: answer}]


def conversation(number: int, media: Record) -> Record:
    return {**media, "conversations": turns("from", "value", f"What is in {number}?", "A mark.")}


def messages(number: int, media: Record) -> Record:
    return {**media, "messages": turns("role", "content", f"What is in {number}?", "A mark.")}


def boxes(number: int, media: Record) -> Record:
    objects = {"ref": ["mark"], "bbox": [[1, 1, 4, 4]]}
    text = turns("role", "content", "<image>Where is <ref-object>?", "<bbox>")
    return {"images": [media["image"]], "messages": text, "objects": objects}


def document(number: int, media: Record) -> Record:
    info = [{"image_name": media["image"], "matched_text_index": 1}]
    return {"text_list": ["First.", "Second."], "image_info": info}


RECORDS: dict[str, Callable[[int, Record], Record]] = {
    "llava": conversation,
    "sharegpt": lambda number, media: {**conversation(number, media), "system": "Be brief."},
    "trl": messages,
    "swift": boxes,
    "caption": lambda number, media: {**media, "caption": f"Mark {number}."},
    "interleaved": document,
    "video_qa": lambda number, media: {**media, "QA": [{"q": f"What {number}?", "a": "A mark."}]},
    "dense_captioning": lambda number, media: {
        **media,
        "duration": 10.0,
        "timestamps": [[1.0, 2.0]],
        "sentences": [f"Step {number}."],
    },
}


def picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "PNG")
    return stream.getvalue()


def write_stand_in(path: str, records: list[Record]) -> None:
    """The two `records` at `path`, whose stars become a name, in the container that its suffix says."""
    target = path.replace("*", "part0")
    folder = str(PurePosixPath(target).parent).replace(":/", "://", 1)
    system, inner = fsspec.core.url_to_fs(folder)
    system.makedirs(inner, exist_ok=True)
    system.pipe({f"{inner}/a.png": picture(), f"{inner}/a.mp4": b"a clip, opened by nobody here"})
    with fsspec.open(target, "wb") as file:
        match PurePosixPath(target).suffix:
            case ".jsonl":
                file.write("\n".join(map(json.dumps, records)).encode())
            case ".json":
                file.write(json.dumps(records).encode())
            case ".parquet":
                write_parquet(file, records)
            case ".tar":
                write_tar(file, records)


def write_parquet(file: Any, records: list[Record]) -> None:
    import pyarrow
    from pyarrow import parquet

    cells = [{**record, "image": {"bytes": picture(), "path": None}} for record in records]
    parquet.write_table(pyarrow.Table.from_pylist(cells), file)


def write_tar(file: Any, records: list[Record]) -> None:
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number, record in enumerate(records):
            bare = {key: value for key, value in record.items() if key != "image"}
            for suffix, data in (("json", json.dumps(bare).encode()), ("png", picture())):
                member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def build(root: str, recipe: MixtureConfig) -> list[Sample]:
    """All samples of one epoch on stand-ins below `root`."""
    for source in recipe.source:
        media = {} if source.name in TEXT_ONLY else {"video": "a.mp4"} if source.name in CLIPS else {"image": "a.png"}
        assert source.format is not None
        write_stand_in(f"{root}/{source.path}", [RECORDS[source.format](number, media) for number in range(2)])
    return list(MixtureStream(Mixture.open(recipe), as_is, seed=0, num_epochs=1))


@pytest.mark.parametrize("stage", TABLE_A1)
def test_a_stage_names_the_data_sets_of_the_table(root: Path, stage: str) -> None:
    recipe = config.load(MixtureConfig, root / "recipes" / "mixtures" / f"{stage}.toml")
    assert [source.name for source in recipe.source] == TABLE_A1[stage].split(", ")
    for source in recipe.source:
        assert source.home is not None
        assert source.home.startswith(("https://", "http://"))
        assert source.group is not None


def test_every_file_is_a_stage(root: Path) -> None:
    assert {file.stem for file in (root / "recipes" / "mixtures").iterdir()} == set(TABLE_A1)


@pytest.mark.parametrize("stage", TABLE_A1)
def test_a_stage_builds_on_stand_ins(root: Path, tmp_path: Path, stage: str) -> None:
    data = str(tmp_path / "data")
    recipe = config.load(MixtureConfig, root / "recipes" / "mixtures" / f"{stage}.toml", [f"root={data}"])
    samples = build(data, recipe)
    by_source = {source.name: [one for one in samples if one.source == source.name] for source in recipe.source}
    for name, two in by_source.items():
        assert len(two) == 2, name
        parts = [part for message in two[0].messages for part in message.content]
        assert any(isinstance(part, VideoPart) for part in parts) == (name in CLIPS), name
        pictured = name not in CLIPS | TEXT_ONLY
        assert any(isinstance(part, ImagePart) for part in parts) == pictured, name


def test_a_stage_streams_from_another_store(root: Path) -> None:
    file = root / "recipes" / "mixtures" / "stage3_pretrain.toml"
    recipe = config.load(MixtureConfig, file, ["root=memory://stage3"])
    assert len(build("memory://stage3", recipe)) == 10


def test_missing_data_is_named(root: Path, tmp_path: Path) -> None:
    file = root / "recipes" / "mixtures" / "stage1_projector.toml"
    recipe = config.load(MixtureConfig, file, [f"root={tmp_path}", "source.0.format=lava"])
    with pytest.raises(ConfigError, match="did you mean 'llava'"):
        Mixture.open(recipe)
    with pytest.raises(ValueError, match=r"llava_cc3m_pretrain/chat.json"):
        Mixture.open(config.load(MixtureConfig, file, [f"root={tmp_path}"]))


def test_the_guide_s_example_runs(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow
    from pyarrow import parquet

    guide = (root / "docs" / "mixtures.md").read_text(encoding="utf-8")
    toml, python = (re.findall(rf"```{language}\n(.*?)```", guide, re.DOTALL)[0] for language in ("toml", "python"))
    data = tmp_path / "data"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "documents.toml").write_text(toml, encoding="utf-8")
    records = [{"id": f"id{number}", **conversation(number, {"image": "a.png"})} for number in range(2)]
    write_stand_in(f"{data}/docvqa/*.jsonl", records)
    write_stand_in(f"{data}/flan/*.jsonl", [conversation(number, {}) for number in range(2)])
    (data / "pruned").mkdir()
    parquet.write_table(pyarrow.table({"id": ["id1"]}), data / "pruned" / "docvqa.parquet")
    names: dict[str, Any] = {}
    exec(python.replace("/data", str(data)), names)
    assert names["mixture"].counts == (2, 2)  # one of DocVQA's is kept, one and a half times, rounded up
    assert len(names["samples"]) == 1  # the first of eight ranks
