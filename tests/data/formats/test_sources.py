"""Containers: JSON lines, JSON, Parquet, Arrow, tar shards, folders, globs and remote stores, by index."""

from __future__ import annotations

import io
import json
import logging
import pickle
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.data.formats.showing import shape_of, write_lines

from nvila.data.formats import RecordError, open_source
from nvila.data.formats.json_files import JsonStore
from nvila.data.mixture import Mixture, MixtureConfig, MixtureStream, SourceConfig
from nvila.errors import ConfigError, DataError
from nvila.processing.media import load_image
from nvila.types import ImagePart, Sample, VideoPart


def record(number: int, **more: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": f"Which é {number}?"}, {"from": "gpt", "value": f"Number {number}."}]
    return {"conversations": turns, **more}


def answers(source: Any) -> list[str]:
    return [shape_of(source[index])[-1][1][0] for index in range(len(source))]


def expected(count: int) -> list[str]:
    return [f"Number {number}." for number in range(count)]


def png(value: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(data, "PNG")
    return data.getvalue()


def write_tar(path: Path, files: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n  \t \n\n"])
@pytest.mark.parametrize("block", [16, 1 << 22])
@pytest.mark.parametrize("last", ["", "\n"])
def test_json_lines(block: int, end: str, last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvila.data.formats.json_files._BLOCK_BYTES", block)
    path = tmp_path / "data.jsonl"
    text = end.join(json.dumps(record(number), ensure_ascii=False) for number in range(3)) + last
    path.write_bytes(b"\xef\xbb\xbf" + text.encode("utf-8"))
    source = open_source(str(path))
    assert answers(source) == expected(3)
    assert source.place(2) == f"data.jsonl:{2 * end.count(chr(10)) + 1}"
    assert source[0].source == source.name == "data"


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("block", [16, 1 << 22])
def test_json_list(indent: int | None, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvila.data.formats.json_files._BLOCK_BYTES", block)
    path = tmp_path / "data.json"
    path.write_text(json.dumps([record(n) for n in range(3)], indent=indent, ensure_ascii=False), encoding="utf-8")
    source = open_source(str(path))
    assert answers(source) == expected(3)
    assert source.place(1) == "data.json record 1"


@pytest.mark.parametrize("block", [16, 1 << 22])
def test_json_object_of_records_by_name(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvila.data.formats.json_files._BLOCK_BYTES", block)
    path = tmp_path / "data.json"
    path.write_text(json.dumps({f"é{n}": record(n) for n in range(3)}, indent=1, ensure_ascii=False), encoding="utf-8")
    source = open_source(str(path))
    assert answers(source) == expected(3)
    assert [source[index].id for index in range(3)] == ["é0", "é1", "é2"]


def test_json_of_one_record_and_json_that_is_lines(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps({"id": "x", **record(0)}, indent=1), encoding="utf-8")
    assert answers(open_source(str(tmp_path / "one.json"))) == expected(1)
    write_lines(tmp_path / "lines.json", [record(number) for number in range(3)])
    assert answers(open_source(str(tmp_path / "lines.json"))) == expected(3)


@pytest.mark.parametrize("text", ["", " ", '[{"a": 1}', '[{"a": 1', "[1 2", "text", '{"a": {"b": 1}'])
def test_json_that_is_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"data.json"):
        open_source(str(path))[0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{'a': 1}", "is no valid JSON"),
        (b'{"a": "\xff"}', "byte 8 is no UTF-8"),
        (b"[" * 100_000, "too deeply"),
        (b'{"id": ' + b"1" * 5000 + b"}", "too many digits"),
        (b"{", "is no valid JSON"),
        (b"[1]", "is a list"),
    ],
)
def test_broken_line_is_named_and_others_are_read(line: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(line + b"\n" + json.dumps(record(0)).encode())
    source = open_source(str(path))
    with pytest.raises(RecordError, match=f"^data.jsonl:1: .*{words}"):
        source[0]
    assert shape_of(source[1])[1][1] == ["Number 0."]


def test_index_is_made_once_and_again_when_the_file_changes(
    tmp_path: Path, index_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_lines(tmp_path / "data.jsonl", [record(number) for number in range(3)])
    source = open_source(str(path))
    assert len(list(index_cache.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr("nvila.data.formats.json_files._build", lambda file: pytest.fail("the index was made again"))
        assert answers(open_source(str(path))) == expected(3)
    write_lines(path, [record(number) for number in range(5)])
    assert len(open_source(str(path))) == 5
    assert len(source) == 3


def test_index_is_mapped_and_does_not_travel(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "data.jsonl", [record(0)] * 5000)
    source = open_source(str(path))
    assert isinstance(JsonStore(source._stores[0].file)._index["starts"], np.memmap)  # type: ignore[attr-defined]
    source[4999]
    packed = pickle.dumps(source)
    assert len(packed) < 1000
    assert shape_of(pickle.loads(packed)[4999]) == shape_of(source[4999])


@pytest.mark.parametrize("batch", [1, 1 << 25])
def test_parquet_rows_hold_pictures_and_places(batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvila.data.formats.tables._BATCH_BYTES", batch)
    rows = [
        {"images": [{"bytes": png(number), "path": None}], "messages": [
            {"role": "user", "content": "<image>Which?"}, {"role": "assistant", "content": f"Number {number}."}
        ]} for number in range(200)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "part-3.parquet", row_group_size=150)
    source = open_source(str(tmp_path / "part-3.parquet"))
    assert answers(source) == expected(200)
    assert source.place(12) == "part-3.parquet row 12"
    part = pickle.loads(pickle.dumps(source))[170].messages[0].content[0]
    assert isinstance(part, ImagePart)
    assert part.image is not None
    assert part.image.getpixel((0, 0)) == (170, 0, 0)


@pytest.mark.parametrize("form", ["file", "stream"])
def test_arrow_in_both_forms(form: str, tmp_path: Path, index_cache: Path) -> None:
    table = pa.Table.from_pylist([{"prompt": "Which?", "completion": f"Number {n}."} for n in range(10)])
    make = pa.ipc.new_file if form == "file" else pa.ipc.new_stream
    with make(str(tmp_path / "data.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    assert answers(open_source(str(tmp_path / "data.arrow"))) == expected(10)
    assert not index_cache.exists()


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".tar"])
def test_damaged_containers_leave_nothing_in_the_cache(suffix: str, tmp_path: Path, index_cache: Path) -> None:
    (tmp_path / f"data{suffix}").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(DataError, match=f"data{suffix}: is no readable"):
        open_source(str(tmp_path / f"data{suffix}"))
    assert not index_cache.exists() or list(index_cache.iterdir()) == []


def test_tar_of_records_with_media_they_name_or_do_not_name(tmp_path: Path) -> None:
    named = {"image": ["right.png", "0002.left.png"], **record(2)}
    files = [
        ("a/0000.jpg", png(7)),
        ("a/0000.txt", b" Number 0. "),
        ("a/0001.json", json.dumps(record(1, id="mine")).encode()),
        ("a/0001.png", png(8)),
        ("a/0001.mp4", b"clip"),
        ("0002.left.png", png(9)),
        ("0002.right.png", png(10)),
        ("0002.json", json.dumps(named).encode()),
        ("README", b"no sample"),
    ]
    source = open_source(str(write_tar(tmp_path / "shard-0001.tar", files)))
    assert answers(source) == expected(3)
    assert [source.place(index) for index in (0, 2)] == ["shard-0001.tar:a/0000", "shard-0001.tar:0002"]
    assert [source[index].id for index in range(3)] == ["a/0000", "mine", "0002"]
    kinds = [type(part) for part in source[1].messages[0].content]
    assert kinds[:2] == [ImagePart, VideoPart]
    pictures = [part.image for part in pickle.loads(pickle.dumps(source))[2].messages[0].content[:2]]
    assert [picture.getpixel((0, 0))[0] for picture in pictures] == [10, 9]


def test_tar_that_is_cut_off_or_compressed(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "data.tar", [("0.txt", b"x" * 5000), ("0.png", png(1) + bytes(5000))])
    path.write_bytes(path.read_bytes()[:8000])
    with pytest.raises(DataError, match=r"data.tar: is (cut off|no readable tar)"):
        open_source(str(path))
    with tarfile.open(tmp_path / "packed.tar", "w:gz"):
        pass
    with pytest.raises(DataError, match=r"give an uncompressed"):
        open_source(str(tmp_path / "packed.tar"))


def test_shards_by_folder_glob_and_braces_are_one_source(tmp_path: Path) -> None:
    for number in range(3):
        write_lines(tmp_path / f"part-{number}.jsonl", [record(2 * number), record(2 * number + 1)])
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"")
    for path in (tmp_path, tmp_path / "part-*.jsonl", tmp_path / "part-{0..2}.jsonl"):
        source = open_source(str(path), name="set")
        assert answers(source) == expected(6)
        assert source.place(3) == "part-1.jsonl:2"
        assert source[3].source == "set"
    with pytest.raises(IndexError):
        source[6]


def test_a_folder_without_data_of_its_own_stands_for_those_below(tmp_path: Path) -> None:
    for number, side in enumerate(("a/deep", "b")):
        (tmp_path / "set" / side).mkdir(parents=True)
        write_lines(tmp_path / "set" / side / "part.jsonl", [record(number)])
    (tmp_path / "set/manifest.json").write_text("{}", encoding="utf-8")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "set"), "/below", recursive=True)
    for path in (str(tmp_path / "set"), "memory://below"):
        assert answers(open_source(path)) == expected(2)
    memory.rm("/below", recursive=True)
    write_lines(tmp_path / "set/own.jsonl", [record(7)])
    assert len(open_source(str(tmp_path / "set"))) == 1


def test_folder_of_two_kinds_and_paths_to_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file there"):
        open_source(str(tmp_path))
    write_lines(tmp_path / "a.jsonl", [record(0)])
    write_tar(tmp_path / "b.tar", [])
    with pytest.raises(DataError, match=r"holds .jsonl and .tar files"):
        open_source(str(tmp_path))
    (tmp_path / "c.csv").write_text("", encoding="utf-8")
    for name, words in [("c.csv", ".csv is not among"), ("d.jsonl", "no such file"), ("*.arrow", "no file there")]:
        with pytest.raises(DataError, match=words):
            open_source(str(tmp_path / name))
    with pytest.raises(ConfigError, match=r"did you mean 'llava'"):
        open_source(str(tmp_path / "a.jsonl"), format="lava")


def test_media_start_beside_the_data_or_at_the_root(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "data.jsonl", [record(0, image="a.png")])
    assert shape_of(open_source(str(path))[0])[0][1][0] == f"image:{tmp_path}/a.png"
    assert shape_of(open_source(str(path), media_root="/m")[0])[0][1][0] == "image:/m/a.png"


def test_remote_store(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    lines = "\n".join(json.dumps(record(number, image="a.png")) for number in range(3))
    store.pipe("/bucket/data-0.jsonl", lines.encode())
    store.pipe("/bucket/a.png", png(77))
    table = pa.Table.from_pylist([record(number) for number in range(3)])
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    store.pipe("/tables/data.parquet", buffer.getvalue())
    write_tar(tmp_path / "x.tar", [(f"{n}.json", json.dumps(record(n)).encode()) for n in range(3)])
    store.pipe("/shards/x.tar", (tmp_path / "x.tar").read_bytes())
    for url in ("memory://bucket/data-0.jsonl", "memory://bucket", "memory://bucket/*.jsonl", "memory://tables",
                "memory://shards/x.tar"):  # fmt: skip
        assert answers(open_source(url)) == expected(3), url
    part = open_source("memory://bucket")[0].messages[0].content[0]
    assert isinstance(part, ImagePart)
    assert part.image is not None
    assert part.image.getpixel((0, 0)) == (77, 0, 0)
    store.rm("/bucket/a.png")
    with pytest.raises(RecordError, match=r"data-0.jsonl:1: .*a.png: cannot be read") as error:
        open_source("memory://bucket")[0]
    assert error.value.kind == "missing media"
    for url in ("memory://nowhere/x.jsonl", "nosuch://bucket/x.jsonl"):
        with pytest.raises(DataError, match=r"x.jsonl"):
            open_source(url)


def test_shards_of_the_webdataset_library(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "x.tar")) as writer:
        for number in range(3):
            picture = np.full((4, 4, 3), number, dtype=np.uint8)
            writer.write({"__key__": f"{number:05}", "png": picture, "json": record(number)})
    source = open_source(str(tmp_path / "x.tar"))
    assert answers(source) == expected(3)
    assert isinstance(source[1].messages[0].content[0], ImagePart)


def test_tables_of_the_datasets_library(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    columns = {
        "image": [Image.new("RGB", (4, 4), (number, 0, 0)) for number in range(3)],
        "prompt": ["Which?"] * 3,
        "completion": expected(3),
    }
    made = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    made.save_to_disk(str(tmp_path / "saved"))
    made.to_parquet(str(tmp_path / "data.parquet"))
    for path in (tmp_path / "saved", tmp_path / "data.parquet"):
        source = open_source(str(path))
        assert answers(source) == expected(3)
        part = source[2].messages[0].content[0]
        assert isinstance(part, ImagePart)
        assert part.image is not None
        assert part.image.getpixel((0, 0)) == (2, 0, 0)


def test_damaged_row_of_a_mapped_table_is_refused_and_others_are_read(tmp_path: Path) -> None:
    rows = [[{"prompt": "Which?", "completion": f"Number {number}."}] for number in range(3)]
    batches = [pa.RecordBatch.from_pylist(row) for row in rows]
    path = tmp_path / "data.arrow"
    with pa.ipc.new_file(str(path), batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    data = path.read_bytes()
    assert data.count(b"Number 1.") == 1
    path.write_bytes(data.replace(b"Number 1.", b"Number \xff."))
    source = open_source(str(path))
    with pytest.raises(RecordError, match=r"^data.arrow row 1: is damaged") as error:
        source[1]
    assert error.value.kind == "unreadable"
    assert shape_of(source[2])[1][1] == ["Number 2."]


def test_shard_of_several_pictures_that_parts_and_labels_refer_to(tmp_path: Path) -> None:
    """What `nvila data build` writes."""
    parts = [{"type": "image"}, {"type": "text", "text": "Same as "}, {"type": "image"}, {"type": "text", "text": "?"}]
    made = {
        "id": "maps/train/0/5",
        "messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "No."}],
        "images": ["maps-train-5.0.png", "maps-train-5.1.png"],
        "boxes": [{"label": "lake", "box": [0, 0, 2, 2]}],
        "answers": [["No."]],
    }
    files = [("maps-train-5.json", json.dumps(made).encode())]
    files += [(name, png(number)) for number, name in enumerate(made["images"])]
    files += [("maps-train-6.json", json.dumps({**made, "images": ["maps-train-6.png"]}).encode())]
    source = open_source(str(write_tar(tmp_path / "maps-000000.tar", files)))
    sample = source[0]
    assert shape_of(sample)[0][1] == ["image:pixels", "Same as ", "image:pixels", "?"]
    assert [part.image.getpixel((0, 0))[0] for part in sample.messages[0].content[::2]] == [0, 1]  # type: ignore
    assert (sample.id, sample.objects[0].label, sample.meta["answers"]) == ("maps/train/0/5", "lake", [["No."]])
    with pytest.raises(RecordError, match=r"maps-000000.tar:maps-train-6: 2 <image> placeholders and 1 images"):
        source[1]


def test_names_in_a_shard_do_not_lead_anywhere(tmp_path: Path) -> None:
    files = [("../../out/0.txt", b"Number 0."), ("../../out/0.png", png(3))]
    assert answers(open_source(str(write_tar(tmp_path / "data.tar", files)))) == expected(1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.tar", "index-cache"]


def test_broken_samples_of_training_are_counted_logged_once_and_replaced_alike(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [json.dumps(record(number)) for number in range(8)]
    lines[3] = "{broken"
    lines[5] = json.dumps({"image": "gone.png", **record(5)})
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    source = open_source(str(path), name="set")
    config = MixtureConfig(name="test", source=(SourceConfig(name="set", path=str(path)),))
    runs = []
    for _ in range(2):
        stream = MixtureStream(Mixture(config, [source]), opened, seed=1, num_epochs=2)
        with caplog.at_level(logging.WARNING):
            runs.append(list(stream))
        assert stream.tally.num_broken[0] >= 4
    assert runs[0] == runs[1]
    assert len(runs[0]) == 16
    assert set(runs[0]) == {f"Number {number}." for number in (0, 1, 2, 4, 6, 7)}
    said = [entry.getMessage() for entry in caplog.records]
    for place in ("data.jsonl:4", "data.jsonl:6"):
        assert sum(f"broken sample at {place}," in message for message in said) == len(runs)


def opened(sample: Sample) -> str:
    """The answer of a sample, its pictures opened as training opens them."""
    for part in sample.messages[0].content:
        if isinstance(part, ImagePart):
            load_image(part.path or "")
    return shape_of(sample)[-1][1][0]
