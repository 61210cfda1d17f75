"""Mixture files, amounts, lists and the options of a source."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image
from tests.data.mixture.fakes import FakeSource, identify, make_mixture

from nvila import config
from nvila.data.mixture import Mixture, MixtureConfig, MixtureStream, SourceConfig, as_is, hash_id, hash_ids
from nvila.data.mixture.ids import chosen_indices, read_id_list
from nvila.data.mixture.mixture import locate, share_out
from nvila.errors import ConfigError, DataError
from nvila.types import ImagePart

FILE = """
name = "two"
root = "/data"
max_broken_share = 0.01

[[source]]
name = "A"
path = "a.jsonl"
repeat = 1.5
max_tiles = 4

[[source]]
name = "B"
path = "memory://b/*.tar"
cap = 10
licence = "CC-BY-4.0"
"""


def load(tmp_path: Path, text: str) -> MixtureConfig:
    file = tmp_path / "mixture.toml"
    file.write_text(text, encoding="utf-8")
    return config.load(MixtureConfig, file)


def counts_of(options: dict[str, dict[str, float]], sizes: list[int], **settings: int) -> tuple[int, ...]:
    sources = tuple(SourceConfig(name=name, path=name, **given) for name, given in options.items())  # type: ignore[arg-type]
    return share_out(MixtureConfig(name="m", source=sources, **settings), sizes)  # type: ignore[arg-type]


def test_a_file_becomes_a_mixture(tmp_path: Path) -> None:
    mixture = load(tmp_path, FILE)
    assert [source.name for source in mixture.source] == ["A", "B"]
    assert mixture.source[0].repeat == 1.5
    assert mixture.source[1].licence == "CC-BY-4.0"
    assert load(tmp_path, config.dump(mixture)) == mixture


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("repeat = 1.5", "repaet = 1.5", r"unknown key 'repaet' \(did you mean 'repeat'"),
        ("repeat = 1.5", "repeat = 1.5\nweight = 2.0", "'A': weight = 2.0 and repeat = 1.5 exclude each other"),
        ("repeat = 1.5", "repeat = 0.0", "'A': repeat is 0.0; it must be above 0"),
        ("repeat = 1.5", "weight = inf", "'A': weight is inf; it must be above 0 and finite"),
        ('name = "B"', 'name = "A"', "the source name 'A' is given twice"),
        ("max_broken_share = 0.01", "max_broken_share = 1.5", "max_broken_share is 1.5"),
        ('root = "/data"', "samples_per_epoch = 0", "samples_per_epoch is 0"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, FILE.replace(old, new))


def test_amounts_without_weights() -> None:
    assert counts_of({"a": {}, "b": {"repeat": 2.5}, "c": {"cap": 30}, "d": {"cap": 30}}, [10, 11, 40, 20]) == (
        10,
        28,
        30,
        20,
    )
    assert counts_of({"a": {"repeat": 0.001}}, [10]) == (1,)


def test_weights_share_what_the_others_leave() -> None:
    options = {"a": {"weight": 3.0}, "b": {"weight": 1.0}, "c": {"cap": 20}}
    assert counts_of(options, [1000, 1000, 50], samples_per_epoch=100) == (60, 20, 20)
    assert counts_of(options, [70, 30, 50]) == (75, 25, 20)
    thirds = {name: {"weight": 1.0} for name in "abc"}
    assert sum(counts_of(thirds, [5, 5, 5], samples_per_epoch=100)) == 100


def test_amounts_that_cannot_be_met() -> None:
    with pytest.raises(ConfigError, match="no source has a weight"):
        counts_of({"a": {}}, [10], samples_per_epoch=5)
    with pytest.raises(ConfigError, match=r"samples_per_epoch is 20, but the sources without a weight take 30"):
        counts_of({"a": {"weight": 1.0}, "b": {}}, [10, 30], samples_per_epoch=20)
    with pytest.raises(ConfigError, match=r"'b': weight 0.001 of 1.001 gives it 0 of 100 samples"):
        counts_of({"a": {"weight": 1.0}, "b": {"weight": 0.001}}, [10, 30], samples_per_epoch=100)


def test_an_empty_source_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'a' \(a.jsonl\) has 0 samples"):
        make_mixture([FakeSource("a", 0)])


def test_paths_lie_below_the_root() -> None:
    assert locate("a.jsonl", "") == "a.jsonl"
    assert locate("a.jsonl", "/data/") == "/data/a.jsonl"
    assert locate("a.jsonl", "memory://") == "memory://a.jsonl"
    assert locate("a.jsonl", "s3://bucket") == "s3://bucket/a.jsonl"
    assert locate("/b/a.jsonl", "/data") == "/b/a.jsonl"
    assert locate("memory://a.jsonl", "/data") == "memory://a.jsonl"


class Listed(FakeSource):
    """A source that knows its ids without being read, and says when it is read all the same."""

    def ids(self) -> np.ndarray:
        return hash_ids(f"{self.name}/{index}" for index in range(self.size))

    def __getitem__(self, index: int):  # type: ignore[no-untyped-def]
        raise AssertionError("read")


def drawn(mixture: Mixture) -> list[str]:
    return sorted(MixtureStream(mixture, identify, seed=0, num_epochs=1))


@pytest.fixture
def lists() -> str:
    """A folder in memory with a text list of the even and a Parquet list of the small indices of source a."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    system = fsspec.filesystem("memory")
    system.pipe("/lists/even.txt", "\n".join(f" a/{index} " for index in range(0, 10, 2)).encode() + b"\n\n")
    with system.open("/lists/small.parquet", "wb") as file:
        parquet.write_table(pyarrow.table({"id": [f"a/{index}" for index in range(4)], "score": [0.0] * 4}), file)
    for name in "ab":
        system.pipe(f"/{name}.jsonl", b"stands for the file of the source")
    return "memory://lists"


def test_keep_and_drop(lists: str) -> None:
    even, small = f"{lists}/even.txt", f"{lists}/small.parquet"
    root = "memory://"
    source = [FakeSource("a", 10)]
    kept = make_mixture(source, {"a": {"keep": even}}, root=root)
    assert drawn(kept) == ["a/0", "a/2", "a/4", "a/6", "a/8"]
    both = make_mixture(source, {"a": {"keep": even, "drop": small}}, root=root)
    assert drawn(both) == ["a/4", "a/6", "a/8"]
    assert kept.fingerprint() != both.fingerprint()


def test_amounts_count_what_the_lists_leave(lists: str) -> None:
    options = {"a": {"keep": f"{lists}/even.txt", "repeat": 2.0}}
    mixture = make_mixture([FakeSource("a", 10)], options, root="memory://")
    assert Counter(drawn(mixture)) == {f"a/{index}": 2 for index in range(0, 10, 2)}


def test_ids_are_read_once(lists: str) -> None:
    options = {"a": {"keep": f"{lists}/even.txt"}}
    first = make_mixture([FakeSource("a", 10)], options, root="memory://")
    unreadable = FakeSource("a", 10, broken=frozenset(range(10)))
    again = make_mixture([unreadable], options, root="memory://")
    assert again.fingerprint() == first.fingerprint()
    fsspec.filesystem("memory").pipe("/a.jsonl", b"another file at this path")
    with pytest.raises(ConfigError, match="leave 0 of its 10 samples"):
        make_mixture([unreadable], options, root="memory://")


def test_a_source_that_knows_its_ids_is_not_read(cache: Path, lists: str) -> None:
    options = {"a": {"drop": f"{lists}/even.txt"}}
    mixture = make_mixture([Listed("a", 10)], options)
    assert mixture.sizes == (5,)
    assert not cache.exists()


def test_ids_that_do_not_match_the_source_are_refused() -> None:
    with pytest.raises(DataError, match=r"9 ids for 10 samples"):
        chosen_indices(FakeSource("a", 10), keep=None, drop=None, hashes=np.zeros(9, dtype=np.uint64))


def test_bad_lists(tmp_path: Path, lists: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the id list .*missing.txt"):
        read_id_list(str(tmp_path / "missing.txt"))
    with pytest.raises(ConfigError, match=r"cannot read the id list nowhere://list.txt: Protocol not known"):
        read_id_list("nowhere://list.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(ConfigError, match=r"cannot read the id list .*latin.txt"):
        read_id_list(str(tmp_path / "latin.txt"))
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ConfigError, match=r"empty.txt holds no id"):
        read_id_list(str(tmp_path / "empty.txt"))
    (tmp_path / "text.parquet").write_text("a/1\n")
    with pytest.raises(ConfigError, match=r"text.parquet is not a Parquet file"):
        read_id_list(str(tmp_path / "text.parquet"))
    with pytest.raises(ConfigError, match=re.escape("keep = 'lists/even.txt' leave 0 of its 5 samples")):
        make_mixture([FakeSource("b", 5)], {"b": {"keep": "lists/even.txt"}}, root="memory://")


def test_a_parquet_list_needs_the_column(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"name": ["a"]}), tmp_path / "list.parquet")
    with pytest.raises(ConfigError, match="has no column 'id'; its columns are: name"):
        read_id_list(str(tmp_path / "list.parquet"))


def test_hashes_are_what_they_were() -> None:
    """Cached hashes and lists of other versions must stay comparable."""
    assert hash_ids(["a/1", "a/2"]).tolist() == [13841258190003339186, hash_id("a/2")]


def test_options_of_a_source() -> None:
    options = {"a": {"max_tiles": 4, "system_prompt": "Be brief."}, "b": {}, "c": {"system_prompt": ""}}
    mixture = make_mixture([FakeSource(name, 1) for name in "abc"], options)
    a, b, c = (mixture.sample(number, 0) for number in range(3))
    assert [message.role for message in a.messages] == ["system", "user", "assistant"]
    assert a.messages[0].content[0] == mixture.sample(0, 0).messages[0].content[0]
    assert a.messages[1].content[0] == ImagePart(path="a.png", max_tiles=4)
    assert b == FakeSource("b", 1)[0]
    assert c.messages == b.messages[:0] + FakeSource("c", 1)[0].messages


def test_the_lower_limit_of_tiles_holds() -> None:
    from nvila.data.mixture.mixture import with_options

    source = SourceConfig(name="a", path="a", max_tiles=6)
    mixture = make_mixture([FakeSource("a", 1)], {"a": {"max_tiles": 2}})
    assert with_options(mixture.sample(0, 0), source).messages[0].content[0] == ImagePart(path="a.png", max_tiles=2)


def test_a_source_s_prompt_takes_the_place_of_the_sample_s() -> None:
    from nvila.data.mixture.mixture import with_options

    mixture = make_mixture([FakeSource("a", 1)], {"a": {"system_prompt": "Its own."}})
    own = mixture.sample(0, 0)
    bare = with_options(own, SourceConfig(name="a", path="a", system_prompt=""))
    assert [message.role for message in bare.messages] == ["user", "assistant"]
    other = with_options(own, SourceConfig(name="a", path="a", system_prompt="Another."))
    assert [message.role for message in other.messages] == ["system", "user", "assistant"]
    assert other.messages[0] != own.messages[0]


def test_files_are_opened_filtered_and_read(tmp_path: Path) -> None:
    records = [
        {"id": f"r{number}", "image": "x.png", "conversations": [
            {"from": "human", "value": f"<image>What is {number}?"}, {"from": "gpt", "value": str(number)}]}
        for number in range(6)
    ]  # fmt: skip
    lines = [*map(json.dumps, records), '{"id": "r6", "conversation": []}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "drop.txt").write_text("r1\nr4\nelsewhere\n")
    source = SourceConfig(name="A", path="a.jsonl", drop="drop.txt", media_root="pictures", max_tiles=2)
    mixture = Mixture.open(MixtureConfig(name="m", source=(source,), root=str(tmp_path)))
    stream = MixtureStream(mixture, as_is, seed=0, num_epochs=1, num_workers=2)
    samples = list(stream)
    assert mixture.sizes == (5,)  # the unreadable line stays, to be met and counted
    assert len(samples) == 5
    assert {sample.id for sample in samples} == {"r0", "r2", "r3", "r5"}
    assert stream.tally.state_dict() == {"A": [1, 6]}
    image = samples[0].messages[0].content[0]
    assert isinstance(image, ImagePart)
    assert image.path == str(tmp_path / "pictures" / "x.png")
    assert image.max_tiles == 2


def test_a_picture_cut_short_is_broken_and_does_not_stop_a_worker(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    whole = stream.getvalue()
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(4):
            caption = json.dumps({"id": f"r{number}", "image": f"{number}.jpg", "caption": "Noise."}).encode()
            for name, data in ((f"{number}.json", caption), (f"{number}.jpg", whole[:900] if number == 2 else whole)):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    config = MixtureConfig(name="m", source=(SourceConfig(name="A", path="a.tar"),), root=str(tmp_path))
    samples = MixtureStream(Mixture.open(config), as_is, seed=0, num_epochs=1, num_workers=1)
    assert {sample.id for sample in samples} == {"r0", "r1", "r3"}
    assert samples.tally.state_dict()["A"][0] == 1
