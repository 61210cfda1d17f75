"""What is found in the data before anything is loaded, and what becomes of samples that are too long."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.train.finetune.conftest import llava, make_options, make_prepared, write
from transformers import AutoTokenizer

from nvila.data.collate import collate_padded
from nvila.data.encode import EncodeOptions, SampleEncoder
from nvila.data.mixture import Mixture, data_config
from nvila.errors import ConfigError, DataError
from nvila.processing import NVILAProcessor
from nvila.train.finetune.run import run

LONG = [("Tell all of it, please.", "a" * 60), ("More?", "b" * 60), ("Still more?", "c" * 200)]


@pytest.fixture
def long(data: Path) -> Path:
    """Six samples: four short, one with three turns of which one too many, one whose first answer is too long."""
    records = [llava(f"p{number}", f"{number}.png", ("Which?", "red")) for number in range(4)]
    records += [llava("turns", "4.png", *LONG), llava("word", "5.png", ("Say it.", "z" * 600))]
    return write(data / "long.jsonl", records)


def test_over_long_samples_are_refused_with_their_number(base: Path, long: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 of 6 samples have more than 400 tokens, sample word has .* --too-long"):
        make_prepared(make_options(base, tmp_path, data=str(long), max_tokens=400), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_over_long_samples_are_left_out_and_counted(base: Path, long: Path, tmp_path: Path) -> None:
    options = make_options(base, tmp_path, data=str(long), max_tokens=400, too_long="drop", epochs=3.0)
    prepared = make_prepared(options, tmp_path / "out")
    survey = prepared.looked.survey
    assert (survey.num_samples, survey.num_too_long, survey.num_dropped, survey.num_truncated) == (4, 2, 2, 0)
    assert survey.longest <= 400
    run(prepared, tmp_path / "out")
    assert (tmp_path / "out" / "too_long.0.txt").read_text() == "turns\nword\n"
    mixture = Mixture.open(prepared.looked.config)
    assert mixture.sizes == (4,)
    again = make_prepared(options, tmp_path / "out")
    assert again.looked.survey == survey
    assert again.recipe == prepared.recipe


def test_truncation_takes_whole_turns_and_never_a_pictures_placeholders(base: Path, long: Path, tmp_path: Path) -> None:
    options = make_options(base, tmp_path, data=str(long), max_tokens=400, too_long="truncate")
    prepared = make_prepared(options, tmp_path / "out")
    survey = prepared.looked.survey
    assert (survey.num_samples, survey.num_too_long, survey.num_dropped, survey.num_truncated) == (5, 2, 1, 1)
    processor = NVILAProcessor.from_pretrained(base)
    limits = prepared.recipe.stage[0].batches
    encoder = SampleEncoder(processor, EncodeOptions(max_tokens=limits.max_tokens, too_long=limits.too_long))
    sample = Mixture.open(data_config(str(long))).sample(0, 4)
    encoded = encoder(sample)
    whole = SampleEncoder(processor)(sample)
    image_id = processor.image_token_id
    assert encoded.num_tokens <= 400 < whole.num_tokens
    assert (encoded.input_ids == image_id).sum() == (whole.input_ids == image_id).sum() > 0
    assert encoded.input_ids.tolist() == whole.input_ids[: encoded.num_tokens].tolist()
    learned = AutoTokenizer.from_pretrained(base).decode(encoded.labels[encoded.labels >= 0])
    assert "b" * 60 in learned
    assert "c" not in learned
    assert collate_padded([encoded], pad_id=0)["input_ids"].shape[1] == encoded.num_tokens


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"id": "x", "picture": "0.png", "talk": []}, "no format|keys"),
        (llava("x", "0.png", ("<image> How many?", "two")), "2 .* 1|1 .* 2"),
        (llava("x", "0.png", ("Which?", "")), "answer"),
        (llava("x", "absent.png", ("Which?", "red")), r"absent\.png: no such file"),
    ],
    ids=["columns", "counts", "answerless", "missing"],
)
def test_what_is_wrong_with_a_sample_is_said_with_its_place(
    base: Path, data: Path, tmp_path: Path, record: dict[str, object], words: str
) -> None:
    good = [llava(f"p{number}", f"{number}.png", ("Which?", "red")) for number in range(30)[:11]]
    path = write(data / "bad.jsonl", [*good, record])
    options = make_options(base, tmp_path, data=str(path))
    with pytest.raises(DataError, match=rf"1 of 12 samples cannot be trained on\. .*bad\.jsonl:12.*(?:{words})"):
        make_prepared(options, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    told: list[str] = []
    prepared = make_prepared(options, tmp_path / "out", force=True, tell=told.append)
    assert prepared.looked.survey.num_broken == 1
    assert any("bad.jsonl:12" in line for line in told)


def test_empty_data_are_refused(base: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "empty.jsonl", [])
    with pytest.raises((DataError, ConfigError), match=r"empty\.jsonl.* 0 samples|empty"):
        make_prepared(make_options(base, tmp_path, data=str(path)), tmp_path / "out")


def test_data_in_which_nothing_is_learned_are_refused(base: Path, data: Path, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "ho", "loss": False}]
    path = write(data / "unlearned.jsonl", [{"id": "x", "messages": turns}])
    with pytest.raises(DataError, match="has no answer that is learned"):
        make_prepared(make_options(base, tmp_path, data=str(path)), tmp_path / "out")


def test_ids_given_twice_are_told_and_no_fault(base: Path, data: Path, tmp_path: Path) -> None:
    records = [llava("same", f"{number}.png", ("Which?", "red")) for number in range(2)]
    told: list[str] = []
    path = write(data / "twice.jsonl", records)
    make_prepared(make_options(base, tmp_path, data=str(path)), tmp_path / "out", tell=told.append)
    assert any("duplicate id" in line for line in told)


def test_paths_do_not_depend_on_the_working_folder(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    config = data_config("pictures.jsonl", media_root=".")
    assert config.source[0].path == str(data / "pictures.jsonl")
    assert config.source[0].media_root == str(data)
    with pytest.raises(ConfigError, match="names format and media_root of each source"):
        data_config("mixture.toml", media_root=".")


def test_a_source_with_a_drop_list_keeps_it(base: Path, long: Path, tmp_path: Path) -> None:
    (tmp_path / "drop.txt").write_text("p0\n")
    mixture = tmp_path / "m.toml"
    mixture.write_text(f'name = "m"\n[[source]]\nname = "a"\npath = "{long}"\ndrop = "{tmp_path}/drop.txt"\n')
    options = make_options(base, tmp_path, data=str(mixture), max_tokens=400, too_long="drop")
    with pytest.raises(ConfigError, match="has a drop list already"):
        make_prepared(options, tmp_path / "out")
    assert make_prepared(replace(options, max_tokens=None), tmp_path / "out").looked.survey.num_samples == 5
