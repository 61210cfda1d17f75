"""Each format's records as samples: media at their places, roles, what is learned, ids, and clear errors."""

from __future__ import annotations

import base64
import copy
import io
import json
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.data.formats.showing import shape_of

from nvila.data.formats import FORMATS, RecordError, to_sample
from nvila.data.formats.recognise import recognise
from nvila.errors import ConfigError
from nvila.types import ImagePart, LabelledBox, Sample, VideoPart

Read = Callable[..., Sample]
ASKED = {"from": "human", "value": "What is it?"}
ANSWERED = {"from": "gpt", "value": "A cat."}
QUESTION = {"role": "user", "content": "What is it?"}
ANSWER = {"role": "assistant", "content": "A cat."}
RECORDS: dict[str, dict[str, Any]] = {
    "llava": {"image": "a.png", "conversations": [ASKED, ANSWERED]},
    "sharegpt": {"images": ["a.png"], "conversations": [ASKED, ANSWERED]},
    "swift": {"images": ["a.png"], "messages": [QUESTION, {**ANSWER, "loss": True}]},
    "openai": {"messages": [QUESTION, ANSWER]},
    "trl": {"prompt": [QUESTION], "completion": [ANSWER]},
    "caption": {"image": "a.png", "caption": "A cat."},
    "interleaved": {"text_list": ["A cat."], "image_info": [{"image_name": "a.png", "matched_text_index": 0}]},
    "dense_captioning": {"id": "v", "duration": 9.0, "timestamps": [[0, 1.5]], "sentences": ["A cat."]},
    "reasoning_localization": {"video": "v.mp4", "duration": 9.0, "QA": [{"q": "When?", "a": "<1> <2.5> now"}]},
    "video_qa": {"video": "v.mp4", "QA": [{"q": "What is it?", "a": "A cat."}]},
}


@pytest.mark.parametrize("name", RECORDS)
def test_format_is_recognised_and_its_record_is_a_question_with_an_answer(name: str, read: Read) -> None:
    found = recognise(RECORDS[name])
    assert found is not None
    assert found.name == name
    sample = read(RECORDS[name])
    assert [message.role for message in sample.messages] == ["user", "assistant"]
    assert sample == read(RECORDS[name], format=name)
    assert sample.source == "set"


def test_every_format_is_tried_here() -> None:
    assert set(FORMATS) == {*RECORDS, "event_localization"}


def test_media_stand_where_their_placeholders_stood(read: Read) -> None:
    record = {
        "image": ["a.png", "b.png", "c.png"],
        "conversations": [
            {"from": "human", "value": "<image>\nCompare it with <image> please.\n"},
            ANSWERED,
            {"from": "human", "value": "And this?\n<image>"},
            ANSWERED,
        ],
    }
    assert shape_of(read(record, media_root="/m")) == [
        ("user", ["image:/m/a.png", "Compare it with ", "image:/m/b.png", " please.\n"]),
        ("assistant", ["A cat."]),
        ("user", ["And this?", "image:/m/c.png"]),
        ("assistant", ["A cat."]),
    ]


def test_media_without_placeholder_go_in_front_of_the_first_user_turn(read: Read) -> None:
    record = {"system": "Be brief.", "images": ["a.png"], "videos": ["b.mp4"], "conversations": [ASKED, ANSWERED]}
    assert shape_of(read(record)) == [
        ("system", ["Be brief."]),
        ("user", ["image:a.png", "video:b.mp4", "What is it?"]),
        ("assistant", ["A cat."]),
    ]


@pytest.mark.parametrize(("text", "images"), [("<image> and <image>", ["a.png"]), ("<image>", ["a.png", "b.png"])])
def test_count_that_disagrees_names_both_numbers(text: str, images: list[str], read: Read) -> None:
    record = {"images": images, "messages": [{"role": "user", "content": text}, ANSWER]}
    marks = text.count("<image>")
    with pytest.raises(RecordError, match=f"data.jsonl:7: {marks} <image> placeholders and {len(images)} images") as e:
        read(record)
    assert e.value.kind == "count"


def test_placeholder_of_an_image_stands_for_the_clip_where_there_are_only_clips(read: Read) -> None:
    record = {"video": "v.mp4", "conversations": [{"from": "human", "value": "<image>\nWhat?"}, ANSWERED]}
    assert shape_of(read(record))[0] == ("user", ["video:v.mp4", "What?"])


def test_an_answer_may_spell_a_placeholder(read: Read) -> None:
    record = {"messages": [QUESTION, {"role": "assistant", "content": "Use the <video> tag."}]}
    assert shape_of(read(record))[1] == ("assistant", ["Use the <video> tag."])


def test_openai_parts_keep_their_order_and_their_urls(read: Read) -> None:
    pixels = "data:image/png;base64,AAAA"
    content = [
        {"type": "text", "text": "First "},
        {"type": "image_url", "image_url": {"url": pixels, "detail": "high"}},
        {"type": "text", "text": " then <image> "},
        {"type": "video_url", "video_url": {"url": "https://a.org/v.mp4"}},
    ]
    record = {"messages": [{"role": "user", "content": content}, {**ANSWER, "weight": 0}, QUESTION, ANSWER]}
    sample = read(record)
    expected = ["First ", f"image:{pixels}", " then <image> ", "video:https://a.org/v.mp4"]
    assert shape_of(sample)[0] == ("user", expected)
    assert [message.learned for message in sample.messages] == [True, False, True, True]


def test_swift_loss_keeps_a_turn_out_of_training(read: Read) -> None:
    record = {"messages": [QUESTION, {**ANSWER, "loss": False}, QUESTION, {**ANSWER, "loss": True}]}
    assert [message.learned for message in read(record).messages] == [True, False, True, True]


def test_trl_answers_inside_the_prompt_are_not_learned_and_bare_parts_take_images(read: Read, picture: Path) -> None:
    prompt = [
        {"role": "user", "content": [{"type": "text", "text": "This"}, {"type": "image", "text": None}]},
        ANSWER,
        {"role": "user", "content": "Sure?"},
    ]
    sample = read({"images": [{"bytes": picture.read_bytes(), "path": None}], "prompt": prompt, "completion": "Yes."})
    assert shape_of(sample) == [
        ("user", ["This", "image:pixels"]),
        ("assistant", ["A cat."]),
        ("user", ["Sure?"]),
        ("assistant", ["Yes."]),
    ]
    assert [message.learned for message in sample.messages] == [True, False, True, True]
    part = sample.messages[0].content[1]
    assert isinstance(part, ImagePart)
    assert part.image is not None
    assert part.image.convert("RGB").getpixel((0, 0)) == (255, 0, 0)


def test_swift_boxes_become_thousandths_in_the_text_and_pixels_in_the_labels(read: Read, picture: Path) -> None:
    record = {
        "messages": [
            {"role": "user", "content": "<image>Where is the <ref-object>?"},
            {"role": "assistant", "content": "At <bbox>."},
        ],
        "images": [picture.name],
        "objects": {"ref": ["cat"], "bbox": [[10, 5, 40, 20]]},
    }
    sample = read(record, media_root=str(picture.parent))
    assert shape_of(sample)[0][1][1] == "Where is the cat?"
    assert shape_of(sample)[1] == ("assistant", ["At [250, 250, 1000, 1000]."])
    assert sample.objects == (LabelledBox(label="cat", box=(10, 5, 40, 20)),)
    record["objects"] = {"ref": ["cat"], "bbox": [[0.25, 0.25, 1.0, 1.0]], "bbox_type": "norm1"}
    assert read(record, media_root=str(picture.parent)).objects == sample.objects


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ({"ref": ["cat"], "bbox": [[0, 0, 1, 1], [0, 0, 2, 2]]}, "1 <bbox> marks and 2 entries"),
        ({"ref": ["cat"], "bbox": [[0, 0, 41, 20]]}, "picture of 40 x 20 pixels"),
        ({"ref": ["cat"], "bbox": [[5, 0, 4, 20]]}, "picture of 40 x 20 pixels"),
        ({"ref": ["cat"], "bbox": [[5, 0, 4]]}, "give 4 numbers"),
        ({"ref": ["cat"], "bbox": [[0, 0, 1, 1]], "image_id": [1]}, "picture 1 of 1"),
    ],
)
def test_wrong_boxes(objects: dict[str, Any], words: str, read: Read, picture: Path) -> None:
    turns = [QUESTION, {"role": "assistant", "content": "The <ref-object> is at <bbox>."}]
    with pytest.raises(RecordError, match=words):
        read({"messages": turns, "images": [str(picture)], "objects": objects})


def test_interleaved_document_learns_every_text_behind_the_first_picture(read: Read) -> None:
    record = {
        "text_list": ["Lead.", "One.", "More.", "Two."],
        "image_info": [
            {"image_name": "b.png", "matched_text_index": 3},
            {"image_name": "a.png", "matched_text_index": 1},
        ],
    }
    assert shape_of(read(record)) == [
        ("user", ["Lead.", "image:a.png"]),
        ("assistant", ["One.\nMore."]),
        ("user", ["image:b.png"]),
        ("assistant", ["Two."]),
    ]


def test_interleaved_pictures_behind_the_last_text_are_counted(read: Read) -> None:
    info = [{"image_name": f"{i}.png", "matched_text_index": i} for i in range(2)]
    sample = read({"text_list": ["One.", " "], "image_info": info})
    assert shape_of(sample) == [("user", ["image:0.png"]), ("assistant", ["One."])]
    assert sample.meta == {"num_unused_images": 1}


def test_interleaved_index_beyond_the_texts(read: Read) -> None:
    with pytest.raises(RecordError, match=r"matched_text_index is 1, and there are 1 texts"):
        read({"text_list": ["One."], "image_info": [{"image_name": "a.png", "matched_text_index": 1}]})


DENSE = {
    "id": "v1",
    "duration": 20.0,
    "timestamps": [[0, 5.256], [5.5, 20.4]],
    "sentences": [" A dog\nruns. ", "It sleeps."],
}


def test_dense_captioning_keeps_seconds_in_the_text_and_events_in_meta(read: Read) -> None:
    sample = read(DENSE)
    assert shape_of(sample)[1] == ("assistant", ["<0.00> <5.26> A dog runs. <5.50> <20.00> It sleeps."])
    assert shape_of(sample)[0][1][0] == "video:v1"
    assert sample.meta["duration"] == 20.0
    assert sample.meta["events"][1] == {"start": 5.5, "end": 20.0, "text": "It sleeps."}
    assert read(DENSE) == sample


def test_event_localisation_asks_for_every_event_once(read: Read) -> None:
    sample = read(DENSE, format="event_localization")
    turns = shape_of(sample)
    assert [role for role, _ in turns] == ["user", "assistant"] * 2
    assert "A dog runs" in turns[0][1][1]
    assert [turns[1][1], turns[3][1]] == [["<0.00> <5.26>"], ["<5.50> <20.00>"]]


def test_reasoning_localisation_spells_times_alike(read: Read) -> None:
    sample = read(RECORDS["reasoning_localization"])
    assert shape_of(sample)[1] == ("assistant", ["<1.00> <2.50> now"])
    assert sample.meta["events"] == [{"start": 1.0, "end": 2.5, "text": "<1.00> <2.50> now"}]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"timestamps": [[0, 1]]}, "1 timestamps and 2 sentences"),
        ({"timestamps": [[0, 1], [3, 22]]}, "names 22 s, and the clip lasts 20 s"),
        ({"timestamps": [[0, 1], [3, 2]]}, "starts at 3 s and ends at 2 s"),
        ({"duration": None}, "duration is None"),
    ],
)
def test_wrong_times(changed: dict[str, Any], words: str, read: Read) -> None:
    with pytest.raises(RecordError, match=words):
        read({**DENSE, **changed})


def test_clip_named_by_an_id_without_extension_is_found(read: Read, tmp_path: Path) -> None:
    (tmp_path / "v1.mkv").write_bytes(b"")
    assert shape_of(read(DENSE, media_root=str(tmp_path)))[0][1][0] == f"video:{tmp_path}/v1.mkv"
    (tmp_path / "v1.mp4").write_bytes(b"")
    with pytest.raises(RecordError, match=r"any of 2 files"):
        read(DENSE, media_root=str(tmp_path))


def test_record_that_fits_none_names_the_key_and_the_nearest_format(read: Read) -> None:
    record = {"image": "a.png", "conversation": [ASKED, ANSWERED]}
    words = "data.jsonl:7: fits no format .*'llava', where the key 'conversations' is missing .is it 'conversation'"
    with pytest.raises(RecordError, match=words) as error:
        read(record)
    assert error.value.kind == "no format"


@pytest.mark.parametrize(
    ("record", "words", "kind"),
    [
        ({"conversations": [ASKED, {"from": "gpt", "value": " "}]}, r"conversations\[1\] is an empty answer", "empty"),
        ({"conversations": [ASKED]}, "ends without an answer", "empty"),
        ({"conversations": []}, "0 turns", "empty"),
        ({"conversations": [ANSWERED, ASKED, ANSWERED]}, "first turn is the assistant's", "malformed"),
        ({"conversations": [{"from": "humn", "value": "?"}]}, "role is 'humn'.*did you mean 'human'", "malformed"),
        ({"conversations": [ASKED, {"from": "gpt", "vale": "x"}]}, "did you mean 'value'", "malformed"),
        ({"conversations": [ASKED, ANSWERED], "tools": "[{}]"}, "tools is given", "malformed"),
        ({"conversations": "text"}, "conversations is a str; it must be a list", "malformed"),
        ({"messages": [QUESTION, {"role": "system", "content": "x"}, ANSWER]}, "must come first", "malformed"),
        ({"image": b"no picture", "caption": "x"}, "10 bytes that are no readable picture", "undecodable"),
        ({"image": {"bytes": None, "path": None}, "caption": "x"}, "holds none of bytes, path, url", "missing"),
    ],
)
def test_broken_records(record: dict[str, Any], words: str, kind: str, read: Read) -> None:
    with pytest.raises(RecordError, match=words) as error:
        read(record)
    assert str(error.value).startswith("data.jsonl:7: ")
    assert error.value.kind.startswith(kind)


def test_unknown_format_names_the_nearest(read: Read) -> None:
    with pytest.raises(ConfigError, match=r"'llama'.*did you mean 'llava'"):
        read(RECORDS["llava"], format="llama")


def test_forced_format_reads_by_its_own_keys(read: Read) -> None:
    with pytest.raises(RecordError, match=r"conversations is missing"):
        read(RECORDS["openai"], format="llava")


def test_id_is_the_records_own_or_follows_from_its_content(read: Read) -> None:
    record = RECORDS["llava"]
    assert read({**record, "id": 12}).id == "12"
    plain = read(record)
    assert len(plain.id) == 32
    assert read(dict(reversed(record.items()))).id == plain.id
    assert read({**record, "image": "b.png"}).id != plain.id


def test_plain_values_of_other_keys_go_to_meta(read: Read) -> None:
    assert read({**RECORDS["llava"], "score": 0.5, "boxes": [1]}).meta == {"score": 0.5}


def test_clip_of_bytes_and_of_frames(read: Read) -> None:
    data = io.BytesIO()
    Image.new("RGB", (4, 4)).save(data, "PNG")
    stored = read({"video": {"bytes": b"clip"}, "caption": "x"}).messages[0].content[0]
    assert isinstance(stored, VideoPart)
    assert stored.url is not None
    assert base64.b64decode(stored.url.partition(",")[2]) == b"clip"
    frames = read({"videos": [[data.getvalue(), data.getvalue()]], "caption": "x"}).messages[0].content[0]
    assert isinstance(frames, VideoPart)
    assert frames.video is not None
    assert [frame.size for frame in frames.video] == [(4, 4), (4, 4)]


def test_records_of_the_documentation_are_what_it_says(read: Read, root: Path, picture: Path) -> None:
    text = (root / "docs" / "data-formats.md").read_text(encoding="utf-8")
    examples = re.findall(r"^### `(\w+)`\n```json\n(.*?)\n```", text, flags=re.MULTILINE | re.DOTALL)
    assert {name for name, _ in examples} == set(FORMATS)
    for name, example in examples:
        record = json.loads(example.replace("a.png", picture.name))
        found = recognise(record)
        assert found is not None
        assert name in (found.name, "event_localization")
        assert read(record, format=name, media_root=str(picture.parent)).messages[-1].learned


def test_urls_of_other_stores_are_not_read_for_a_record(read: Read) -> None:
    with pytest.raises(RecordError, match="memory:// is not the store of the media root"):
        read({"image": "memory://x/a.png", "caption": "x"}, media_root="/m")


def test_empty_columns_do_not_make_a_format(read: Read) -> None:
    columns = {"text_list": None, "image_info": None, "conversations": None, "QA": None, "objects": None, "images": []}
    assert shape_of(read({**columns, **RECORDS["openai"]}))[0] == ("user", ["What is it?"])


def test_frames_are_plain_files(read: Read) -> None:
    with pytest.raises(RecordError, match="/dev/zero: no such file"):
        read({"video": ["/dev/zero"], "videos": [["/dev/zero"]], "caption": "x"})


def test_whatever_a_record_holds_it_is_read_or_refused(read: Read, picture: Path) -> None:
    numbers = [0, -1, True, 1e308, float("nan"), 10**400]
    texts = ["", b"x", "\0", "<image>", "\ud800"]
    nested = [[], {}, [None], [[]], [1, 2], {"type": "image"}, {"role": "user"}, {"bytes": 3}, {"path": {"path": {}}}]
    odd: list[Any] = [None, *numbers, *texts, *nested]
    swift = {"objects": {"ref": ["a"], "bbox": [[0, 0, 1, 1]]}, "images": [str(picture)]}
    turns = [{"role": "user", "content": "<ref-object>"}, {"role": "assistant", "content": "<bbox>"}]
    records = [*RECORDS.values(), {**swift, "messages": turns}, DENSE]
    drawn = random.Random(0)
    num_refused = 0
    for _ in range(3000):
        record = copy.deepcopy(drawn.choice(records))
        for _ in range(drawn.randint(1, 2)):
            _replace_somewhere(record, drawn, odd)
        try:
            read(record, format=drawn.choice([*[None] * len(FORMATS), *FORMATS]))
        except RecordError:
            num_refused += 1
    assert 1000 < num_refused < 3000


def _replace_somewhere(node: Any, drawn: random.Random, odd: list[Any]) -> None:
    """Puts something odd in place of a value at a random depth."""
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    key = drawn.choice(keys)
    below = node[key]
    if isinstance(below, dict | list) and below and drawn.random() < 0.7:
        _replace_somewhere(below, drawn, odd)
    else:
        node[key] = copy.deepcopy(drawn.choice(odd))


def test_boxes_of_a_record_become_dense_labels_and_its_meta_and_answers_are_kept(read: Read) -> None:
    told = {"boxes": [{"label": "cat", "box": [-1, 2.5, 9, 4]}], "meta": {"events": [[0, 1]]}, "answers": [["a cat"]]}
    sample = read({**RECORDS["llava"], **told})
    assert sample.objects == (LabelledBox(label="cat", box=(-1, 2.5, 9, 4)),)
    assert sample.meta == {"events": [[0, 1]], "answers": [["a cat"]]}
    with pytest.raises(RecordError, match=r"boxes\[0\].box is .*give left, top, right, bottom"):
        read({**RECORDS["llava"], "boxes": [{"label": "cat", "box": [9, 0, 1, 1]}]})


def test_names_that_chain_stores_are_refused(read: Read) -> None:
    with pytest.raises(RecordError, match="may not chain stores"):
        read({"image": "a.png::https://a.org/b", "caption": "x"}, media_root="memory://bucket")


def test_an_error_knows_the_id_that_the_sample_would_have() -> None:
    """So that what cannot be read has a name that outlives re-ordering."""
    written = {"id": "seven", "messages": [{"role": "user", "content": "q"}]}
    nameless = {"messages": [{"role": "user", "content": "q"}]}
    found = []
    for record in (written, nameless, {**nameless}, {**nameless, "note": "x"}):
        with pytest.raises(RecordError) as error:
            to_sample(record, place="data.jsonl:7", source="s")
        found.append(pickle.loads(pickle.dumps(error.value)).id)
    assert found[0] == "seven"
    assert found[1] == found[2] != found[3]
    assert len(str(found[1])) == 32
    with pytest.raises(RecordError) as error:
        to_sample([1], place="data.jsonl:7", source="s")  # type: ignore[arg-type]
    assert error.value.id is None
