"""`nvila data check`: every kind of problem found with its place, counts, the report, and the exit status."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.data.formats.showing import write_lines
from tests.media_files import clip_frame, cut, noise, write_animation, write_clip

from nvila.cli.data_check import add_check_command
from nvila.data.check import CheckReport, ProcessorCounter, check_data, summary
from nvila.data.formats import open_source
from nvila.errors import ConfigError, DataError
from nvila.processing import NVILAProcessor


@pytest.fixture(autouse=True)
def index_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVILA_INDEX", str(tmp_path / "index-cache"))


def asked(answer: str = "A cat.", **media: Any) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": answer}], **media}


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """a.png, v.mp4 and w.gif are sound, cut.png and cut.mp4 are not."""
    clip_frame(1).save(tmp_path / "a.png")
    noise(64, 48).save(tmp_path / "cut.png")
    cut(tmp_path / "cut.png")
    write_clip(tmp_path / "v.mp4")
    write_animation(tmp_path / "w.gif")
    cut(write_clip(tmp_path / "cut.mp4"), 0.2)
    return tmp_path


def found(report: CheckReport) -> list[tuple[str, str]]:
    return [(problem.kind, problem.place) for problem in report.problems]


def test_sound_data_has_no_problems(media: Path) -> None:
    path = write_lines(media / "data.jsonl", [asked(image="a.png"), asked(video=["v.mp4", "w.gif"]), asked()])
    report = check_data(str(path))
    assert found(report) == []
    assert (report.num_samples, report.num_turns, report.num_images, report.num_videos) == (3, 6, 1, 2)
    assert summary(report).endswith("no problems")


@pytest.mark.parametrize("workers", [0, 2])
def test_every_kind_of_problem_is_listed_in_the_order_of_the_data(workers: int, media: Path) -> None:
    records = [
        asked(id="one", image="a.png"),
        asked(image="gone.png"),
        asked(image="cut.png"),
        asked(video="cut.mp4"),
        asked(answer=""),
        {"image": "a.png", "question": "?"},
        {"images": ["a.png"], "prompt": "<image> or <image>?", "completion": "x"},
        asked(id="one", image="a.png"),
        asked(image=["gone.png", "a.png", "cut.png"]),
    ]  # fmt: skip
    path = write_lines(media / "data.jsonl", [*records, *(asked(id=f"more {n}") for n in range(70))])
    with path.open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    report = check_data(str(path), workers=workers)
    assert found(report) == [
        ("missing media", "data.jsonl:2"),
        ("undecodable media", "data.jsonl:3"),
        ("undecodable media", "data.jsonl:4"),
        ("empty answer", "data.jsonl:5"),
        ("no format", "data.jsonl:6"),
        ("count", "data.jsonl:7"),
        ("missing media", "data.jsonl:9"),
        ("undecodable media", "data.jsonl:9"),
        ("unreadable", "data.jsonl:80"),
        ("duplicate id", "data.jsonl:8"),
    ]
    assert all(problem.message.startswith(f"{problem.place}: ") for problem in report.problems)
    assert "has the id of data.jsonl:1;" in report.problems[-1].message
    assert report.by_kind()["undecodable media"] == 3
    assert report.num_samples == 80


def test_long_samples_are_counted_in_the_models_tokens(media: Path) -> None:
    path = write_lines(media / "data.jsonl", [asked(), asked(answer="one two three four five six", image="a.png")])
    counter = ProcessorCounter("nvila-mini")
    longest = check_data(str(path), max_tokens=100_000, counter=counter).longest
    report = check_data(str(path), max_tokens=longest - 1, counter=pickle.loads(pickle.dumps(counter)))
    assert found(report) == [("over-long", "data.jsonl:2")]
    assert f"has {longest} tokens, over the limit of {longest - 1}" in report.problems[0].message
    assert check_data(str(path), max_tokens=longest, counter=counter).problems == []


def test_tokens_are_counted_as_the_processor_makes_them(media: Path) -> None:
    records = [
        asked(),
        asked(image="a.png"),
        asked(image=["a.png", "a.png"]),
        asked(video="v.mp4"),
        asked(image="a.png", video=["v.mp4", "v.mp4"]),
    ]
    source = open_source(str(write_lines(media / "data.jsonl", records)))
    counter = ProcessorCounter("nvila-mini")
    processor = NVILAProcessor.from_pretrained("nvila-mini")
    for index, num_images in enumerate((0, 1, 2, 0, 1)):
        messages = list(source[index].messages)
        ids = processor.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"][0]
        assert counter(source[index], [(64, 48)] * num_images) == len(ids)


@pytest.mark.parametrize(
    ("options", "words"), [({"max_tokens": 5}, "needs a counter"), ({"workers": -1}, "workers is -1")]
)
def test_wrong_options(options: dict[str, Any], words: str, media: Path) -> None:
    path = write_lines(media / "data.jsonl", [asked()])
    with pytest.raises(ConfigError, match=words):
        check_data(str(path), **options)


def run(*arguments: str) -> int:
    app = typer.Typer()
    app.callback()(lambda: None)
    add_check_command(app)
    return int(app(["check", *arguments], standalone_mode=False) or 0)


def test_command_prints_a_summary_writes_a_report_and_exits_by_what_was_found(
    media: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_lines(media / "data.jsonl", [asked(image="a.png")])
    assert run(str(path)) == 0
    assert "1 samples, 2 turns, 1 images" in capsys.readouterr().out
    write_lines(path, [asked(image="a.png"), asked(image="gone.png"), asked(image="a.png", id="x")])
    assert run(str(path), "--report", str(media / "report.json"), "--workers", "0") == 1
    shown = capsys.readouterr().out
    assert "1 x missing media" in shown
    assert "gone.png: no such file" in shown
    report = json.loads((media / "report.json").read_text(encoding="utf-8"))
    assert report["num_problems"] == {"missing media": 1}
    assert report["problems"][0]["place"] == "data.jsonl:2"
    assert report["num_samples"] == 3


def test_command_refuses_what_is_no_data_set(media: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file"):
        run(str(media / "gone.jsonl"))
