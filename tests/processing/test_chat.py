"""The chat template's rules and the labels, by rendering and tokenising conversations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from nvila.errors import PromptError
from nvila.processing import NVILAProcessor, chat_labels, chat_template
from nvila.types import ImagePart, Message, TextPart

IMAGE = {"type": "image"}
VIDEO = {"type": "video"}
Make = Callable[..., NVILAProcessor]


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def body(processor: NVILAProcessor, *parts: Any, **options: Any) -> str:
    """What the template writes for one user message, without the tokens around it."""
    rendered = processor.apply_chat_template([user(*parts)], **options)
    assert rendered.endswith("<|im_end|>\n")
    return rendered.split("<|im_start|>user\n")[1].removesuffix("<|im_end|>\n")


def test_default_system_prompt(make_processor: Make) -> None:
    processor = make_processor()
    assert processor.apply_chat_template([{"role": "user", "content": " hi\n"}], add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_own_system_prompt_replaces_the_default(make_processor: Make) -> None:
    messages = [
        {"role": "system", "content": [text("Be brief. ")]},
        user(text("a")),
        {"role": "assistant", "content": "b"},
    ]
    assert make_processor().apply_chat_template(messages) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
    )


def test_only_picture_is_followed_by_a_newline_when_tiling_is_dynamic(make_processor: Make) -> None:
    dynamic = make_processor("dynamic")
    assert body(dynamic, IMAGE, text("What?")) == "<image>\nWhat?"
    assert body(dynamic, text("Look: "), IMAGE, text("\n\nWhat?")) == "Look: <image>\n\n\nWhat?"
    assert body(dynamic, IMAGE, text(" and "), IMAGE) == "<image> and <image>"
    assert body(dynamic, IMAGE, VIDEO, text("x")) == "<image><vila/video>x"
    for image_mode in ("resize", "pad", "dynamic_s2"):
        assert body(make_processor(image_mode), IMAGE, text("What?")) == "<image>What?"


def test_pictures_of_other_turns_count(make_processor: Make) -> None:
    messages = [user(IMAGE, text("a")), {"role": "assistant", "content": "b"}, user(IMAGE, text("c"))]
    assert "\n<image>a<" in make_processor().apply_chat_template(messages)


def test_explicit_tiling_brings_its_newline(make_processor: Make) -> None:
    processor = make_processor()
    tiled = {**IMAGE, "max_tiles": 4}
    assert body(processor, tiled, IMAGE, text("x")) == "<image>\n<image>x"
    assert body(processor, {**IMAGE, "max_tiles": 1}, IMAGE, text("x")) == "<image><image>x"
    assert body(processor, IMAGE, IMAGE, text("x"), max_tiles=4) == "<image>\n<image>\nx"
    assert body(processor, IMAGE, IMAGE, text("x"), max_tiles=1) == "<image><image>x"


def test_newline_at_the_end_of_a_turn(make_processor: Make) -> None:
    stripped, kept = make_processor(), make_processor(strip_final_newline=False)
    assert body(stripped, text("Look: "), IMAGE) == "Look: <image>"
    assert body(kept, text("Look: "), IMAGE) == "Look: <image>\n"
    assert body(kept, IMAGE, text(" ")) == "<image>\n"
    assert body(kept, IMAGE, text("x")) == "<image>\nx"
    assert body(kept, IMAGE, IMAGE) == "<image><image>"


@pytest.mark.parametrize("token", ["<image>", "<vila/video>", "<vila/sentinel>"])
def test_typed_placeholders_are_removed_and_their_part_stripped(make_processor: Make, token: str) -> None:
    processor = make_processor("resize")
    assert body(processor, IMAGE, text(f" What is {token} here? ")) == "<image>What is  here?"
    assert body(processor, IMAGE, text(" What? "), IMAGE) == "<image> What? <image>"
    rendered = processor.apply_chat_template([{"role": "user", "content": f"a {token}"}])
    assert "user\na<|im_end|>" in rendered


def test_placeholders_cannot_be_smuggled_in(make_processor: Make) -> None:
    processor = make_processor("resize")
    assert body(processor, text("a <im<image>age> b")) == "a  b"
    assert body(processor, text("a <im"), text("age> b")) == "a  b"
    nested = "<image>"
    for _ in range(500):
        nested = f"<im{nested}age>"
    assert body(processor, text(nested + "b")) == "b"


@pytest.mark.parametrize("content", [[text("a <im<image>age> b")], "a <im<image>age> b", [text("<im"), text("age>")]])
def test_template_alone_refuses_smuggled_placeholders(make_processor: Make, content: Any) -> None:
    processor = make_processor("resize")
    with pytest.raises(Exception, match="spells a media placeholder"):
        processor.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], chat_template=processor.chat_template, tokenize=False
        )


def test_template_reads_what_engines_pass(make_processor: Make) -> None:
    """Engines render the template alone: strings, or parts of their own spelling without sources."""
    processor = make_processor()
    render = processor.tokenizer.apply_chat_template
    content = [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "What?"}]
    rendered = render([{"role": "user", "content": content}], chat_template=processor.chat_template, tokenize=False)
    assert "user\n<image>\nWhat?<|im_end|>" in rendered
    content = [{"type": "video_url", "video_url": {"url": "x"}}, {"type": "text", "text": "What?"}]
    rendered = render([{"role": "user", "content": content}], chat_template=processor.chat_template, tokenize=False)
    assert "user\n<vila/video>What?<|im_end|>" in rendered


def test_template_is_what_the_options_say() -> None:
    texts = {chat_template(tile_newline=a, keep_final_newline=b) for a in (True, False) for b in (True, False)}
    assert len(texts) == 4


def test_messages_of_our_own_types(make_processor: Make) -> None:
    image = Image.new("RGB", (8, 8))
    ours = (
        Message(role="user", content=(ImagePart(image=image, max_tiles=3), TextPart(text="What?"))),
        Message(role="assistant", content=(TextPart(text="That."),)),
    )
    parts = [{"type": "image", "image": image, "max_tiles": 3}, text("What?")]
    plain = [user(*parts), {"role": "assistant", "content": "That."}]
    processor = make_processor()
    assert processor.apply_chat_template(ours, tokenize=True) == processor.apply_chat_template(plain, tokenize=True)


def test_continuing_a_message(make_processor: Make) -> None:
    messages = [user(text("a")), {"role": "assistant", "content": "The answer"}]
    rendered = make_processor().apply_chat_template(messages, continue_final_message=True)
    assert rendered.endswith("<|im_start|>assistant\nThe answer")


@pytest.mark.parametrize(
    ("conversation", "words"),
    [
        ([], "empty"),
        ([[]], "empty"),
        ("hello", "list of messages; found str"),
        ([{"role": "usr", "content": "x"}], r"message 0: role is 'usr'.*did you mean 'user'"),
        ([user(text("x")), {"role": "system", "content": "y"}], "message 1: a system message must come first"),
        ([{"role": "system", "content": "x"}], "no user message"),
        ([{"role": "user"}], "message 0: content is NoneType"),
        ([{"role": "user", "content": "x", "contents": "y"}], "unknown key 'contents'.*did you mean 'content'"),
        ([user({"type": "imge", "path": "x"})], r"message 0, part 0: type is 'imge'.*did you mean 'image'"),
        ([user(text("x"), {"type": "image", "pth": "x"})], r"message 0, part 1: unknown key 'pth'.*'path'"),
        ([user({"type": "image", "path": "x", "url": "y"})], "exactly one of path, url, image"),
        ([user({"type": "image", "path": 3})], "path is a int"),
        ([user({"type": "video", "video": [], "path": "y"})], "exactly one of path, url, video"),
        ([user({"type": "text"})], "text is NoneType"),
        ([user({"type": "image", "path": "x", "max_tiles": 0})], "max_tiles is 0"),
        ([user({"type": "video", "path": "x", "num_frames": -1})], "num_frames is -1"),
        ([user(7)], "message 0, part 0: is a int"),
        ([user({"type": "image_url", "image_url": {}})], "image_url holds no url"),
        (
            [user(text("x")), {"role": "assistant", "content": [IMAGE]}],
            "message 1: holds media, but its role is assistant",
        ),
        ([7], "message 0: is a int"),
    ],
)
def test_malformed_conversations(make_processor: Make, conversation: Any, words: str) -> None:
    with pytest.raises(PromptError, match=words):
        make_processor().apply_chat_template(conversation)


def trained(processor: NVILAProcessor, messages: list[dict[str, Any]]) -> str:
    """The text of the tokens that are trained on."""
    ids = processor.apply_chat_template(messages, tokenize=True)
    labels = processor.chat_labels(ids)
    assert len(labels) == len(ids)
    assert all(label in (-100, token) for label, token in zip(labels, ids, strict=True))
    return str(processor.tokenizer.decode([label for label in labels if label != -100]))


def test_labels_cover_answers_and_their_ends(make_processor: Make) -> None:
    processor = make_processor()
    image = {"type": "image", "image": Image.new("RGB", (60, 40))}
    messages = [
        {"role": "system", "content": "assistant\nS"},
        user(image, text("assistant\nWhat?")),
        {"role": "assistant", "content": "A dog."},
        user(text("Where?")),
        {"role": "assistant", "content": [text("On a mat.\nThere.")]},
    ]
    assert trained(processor, messages) == "A dog.<|im_end|>On a mat.\nThere.<|im_end|>"


def test_labels_of_a_prompt_are_empty(make_processor: Make) -> None:
    assert trained(make_processor(), [user(text("What?"))]) == ""


def test_labels_of_ids() -> None:
    ids = [1, 8, 9, 5, 2, 9, 1, 7, 9, 5, 6, 2, 9, 1, 7, 9, 4]
    labels = chat_labels(ids, im_start=1, im_end=2, assistant_header=[7, 9])
    expected = [-100] * 9 + [5, 6, 2] + [-100] * 4 + [4]
    assert labels == expected


def test_assistant_masks(make_processor: Make) -> None:
    processor = make_processor()
    batch = [[user(text(question)), {"role": "assistant", "content": "yes"}] for question in ("a", "a longer one")]
    inputs = processor.apply_chat_template(
        batch, tokenize=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True
    )
    assert inputs["assistant_masks"].shape == inputs["input_ids"].shape
    for ids, mask in zip(inputs["input_ids"], inputs["assistant_masks"], strict=True):
        assert processor.tokenizer.decode(ids[mask.bool()]) == "yes<|im_end|>"
