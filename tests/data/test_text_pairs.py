"""Captions from conversations, plain text in windows, and text files as a source of samples."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from tests.data.test_encode import make_processor
from tests.tiny import make_tokenizer

from nvila.data import text_pairs
from nvila.data.collate import collate_packed
from nvila.data.encode import EncodeOptions, SampleEncoder
from nvila.data.mixture import Mixture, MixtureConfig, MixtureStream, SourceConfig
from nvila.data.text_pairs import (
    MAX_WORDS,
    TextAndChatEncoder,
    TextSource,
    caption_of,
    encode_captions,
    encode_text,
    is_plain_text,
    plain_text,
    text_windows,
)
from nvila.errors import ConfigError, DataError
from nvila.types import ImagePart, Message, Part, Sample, TextPart, VideoPart


@pytest.fixture(autouse=True)
def index_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVILA_INDEX", str(tmp_path / "index-cache"))


def conversation(*turns: tuple[str, str], media: tuple[Part, ...] = (ImagePart(path="a.png"),)) -> Sample:
    messages: list[Message] = []
    for number, (question, answer) in enumerate(turns):
        lead = media if number == 0 else ()
        messages.append(Message(role="user", content=(*lead, TextPart(text=question))))
        messages.append(Message(role="assistant", content=(TextPart(text=answer),)))
    return Sample(id="s", source="set", messages=tuple(messages))


def captions(sample: Sample) -> set[str | None]:
    """What twenty generators make of it."""
    return {caption_of(sample, np.random.default_rng(seed)) for seed in range(20)}


def test_a_short_answer_needs_its_question_and_a_sentence_does_not() -> None:
    assert captions(conversation(("\nHow many\n circles?", "3"))) == {"How many circles? 3"}
    assert captions(conversation(("What is it?", "A red fox in\nthe snow."))) == {"A red fox in the snow"}


def test_facts_are_drawn_from_several_turns() -> None:
    sample = conversation(("What?", "a fox"), ("Where?", "left"), ("Hungry?", "Yes."), ("Which?", "B"))
    assert captions(sample) == {"What? a fox. Where? left", "Where? left. What? a fox"}
    assert captions(conversation(("A fox?", "Yes"), ("A cat?", "no."))) == {
        "A fox? Yes. A cat? no",
        "A cat? no. A fox? Yes",
    }
    many = conversation(*((f"What is {number}?", f"thing {number}") for number in range(6)))
    assert len(captions(many)) > 10
    assert all(caption is not None and caption.count("?") == 3 for caption in captions(many))
    assert caption_of(many, np.random.default_rng(4)) == caption_of(many, np.random.default_rng(4))


def test_captions_keep_within_the_words() -> None:
    words = " ".join(str(number) for number in range(60))
    assert captions(conversation(("What?", words))) == {" ".join(words.split()[:MAX_WORDS])}
    assert captions(conversation((f"{words} what?", "a fox"))) == {
        " ".join(f"{words} what? a fox".split()[-MAX_WORDS:])
    }
    both = captions(conversation(("What?", words), ("Which?", "a fox")))
    assert both == {" ".join(words.split()[:MAX_WORDS]), "Which? a fox"}


@pytest.mark.parametrize(
    "sample",
    [
        conversation(("What?", "a fox"), media=()),
        conversation(("What?", "a fox"), media=(VideoPart(path="a.mp4"),)),
        conversation(("What?", "foxes"), media=(ImagePart(path="a.png"), ImagePart(path="b.png"))),
        conversation(("What?", " ")),
        Sample(id="s", source="set", messages=conversation(("What?", "")).messages[:1]),
    ],
)
def test_what_has_no_caption(sample: Sample) -> None:
    assert captions(sample) == {None}


def test_answers_that_are_not_learned_say_nothing() -> None:
    messages = list(conversation(("What?", "a fox"), ("Where?", "left")).messages)
    messages[1] = Message(role="assistant", content=messages[1].content, learned=False)
    sample = Sample(id="s", source="set", messages=(Message(role="system", content=(TextPart(text="x"),)), *messages))
    assert captions(sample) == {"Where? left"}
    assert plain_text(sample) == "Where?\nleft"


def test_plain_text_of_a_conversation_has_no_media() -> None:
    parts = (TextPart(text="See"), ImagePart(path="a.png"), TextPart(text=" this: "))
    sample = conversation(("what?\n", "a fox"), ("where?", " left\nof it"), media=parts)
    assert plain_text(sample) == "See this: what?\na fox\nwhere?\nleft\nof it"
    assert not is_plain_text(sample)


def test_captions_become_padded_ids() -> None:
    tokenizer = make_tokenizer()
    ids, mask = encode_captions(["abc", "a", "abcdef"], tokenizer, max_tokens=4)
    assert mask.tolist() == [[True, True, True, False], [True, False, False, False], [True] * 4]
    assert tokenizer.decode(ids[2]) == "abcd"
    assert ids[0, :3].tolist() == ids[2, :3].tolist()
    assert ids[~mask].tolist() == [tokenizer.pad_token_id] * 4
    with pytest.raises(DataError, match="caption 1 of 2 has 0 tokens"):
        encode_captions(["a", ""], tokenizer)
    with pytest.raises(DataError, match="0 captions"):
        encode_captions([], tokenizer)


@pytest.mark.parametrize(("num_letters", "lengths"), [(1, [2]), (7, [5, 4]), (8, [5, 5]), (9, [5, 5, 2])])
def test_windows_predict_every_token_once(num_letters: int, lengths: list[int]) -> None:
    tokenizer = make_tokenizer()
    text = "abcdefghijkl"[:num_letters]
    windows = text_windows(text, tokenizer, 5)
    assert [len(window) for window in windows] == lengths
    predicted = [token for window in windows for token in window[1:]]
    assert tokenizer.decode([windows[0][0], *predicted]) == text + tokenizer.eos_token


def test_windows_of_what_cannot_be_cut() -> None:
    tokenizer = make_tokenizer()
    assert text_windows("", tokenizer, 8) == []
    with pytest.raises(ConfigError, match="has 1 tokens; give at least 2"):
        text_windows("abc", tokenizer, 1)
    for token in ("<image>", "<|im_end|>", "[PAD]"):
        with pytest.raises(DataError, match=r"^book.txt:1: the text spells"):
            encode_text(f"one {token} two", tokenizer, 8, name="book.txt:1")


def test_encoded_text_is_learned_whole_and_packs() -> None:
    tokenizer = make_tokenizer()
    encoded = encode_text("a long sentence", tokenizer, 10, name="t")
    assert [one.id for one in encoded] == ["t#0", "t#1"]
    assert [one.num_tiles for one in encoded] == [0, 0]
    assert all(torch.equal(one.labels, one.input_ids) for one in encoded)
    batch = collate_packed([encoded], pad_id=tokenizer.pad_token_id)
    assert (batch["labels"] != -100).sum() == len("a long sentence")  # all but the first, and the end token


def said(text: str) -> Sample:
    return Sample(id="p", source="books", messages=(Message(role="assistant", content=(TextPart(text=text),)),))


def test_one_encoder_takes_text_and_conversations() -> None:
    processor = make_processor()
    encoder = TextAndChatEncoder(processor, EncodeOptions(max_tokens=80))
    encoded = encoder(said("plain words"))
    assert processor.tokenizer.decode(encoded.labels) == "plain words<|im_end|>"
    assert encoded.id == "p"
    assert encoder.size(said("plain words")) == (encoded.num_tokens, 0)
    talk = conversation(("where?", "left"), media=())
    assert torch.equal(encoder(talk).labels, SampleEncoder(processor)(talk).labels)
    assert encoder.size(talk) == SampleEncoder(processor).size(talk)
    assert TextAndChatEncoder(processor)(said("x" * 900)).num_tokens == 901


def test_text_over_the_limit_is_refused_or_cut() -> None:
    encoder = TextAndChatEncoder(make_processor(), EncodeOptions(max_tokens=80))
    with pytest.raises(DataError, match="sample p of books: has 101 tokens, over the limit of 80"):
        encoder(said("x" * 100))
    with pytest.raises(DataError, match="sample p of books: has 0 tokens"):
        encoder.size(said(""))
    cutting = TextAndChatEncoder(make_processor(), EncodeOptions(max_tokens=80, too_long="truncate"))
    assert cutting.size(said("x" * 100)) == (80, 0)
    assert cutting(said("x" * 100)).num_tokens == 80


def texts(source: TextSource) -> list[str]:
    return [plain_text(source[index]) for index in range(len(source))]


def write(folder: Path, **contents: str | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / f"{name}.txt").write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


@pytest.mark.parametrize("block", [7, 1 << 22])
def test_documents_and_paragraphs(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_pairs, "_BLOCK_BYTES", block)
    books = write(tmp_path / "books", b=b"\xef\xbb\xbf\n one\r\ntwo\r\n \t\r\n\r\nthr\xc3\xa9e", a="four\n\n", c=" \n")
    write(books / "deeper", d="five")
    (books / ".hidden.txt").write_text("no")
    (books / "notes.md").write_text("no")
    whole = TextSource(str(books))
    assert texts(whole) == ["four", "one\ntwo\n \t\n\nthrée", "five"]
    assert whole[0].source == whole.name == "books"
    assert is_plain_text(whole[0])
    parts = TextSource(str(books), unit="paragraph", name="own")
    assert texts(parts) == ["four", "one\ntwo", "thrée", "five"]
    assert [parts.place(index) for index in range(4)] == ["a.txt:1", "b.txt:2", "b.txt:6", "d.txt:1"]
    assert texts(TextSource(str(books / "?.txt"), unit="paragraph")) == texts(parts)[:3]
    assert texts(TextSource(str(books / "a.txt"))) == ["four"]


@pytest.mark.parametrize("block", [50, 1 << 22])
@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("\n".join(["x" * 29] * 5), [59, 59, 29]),  # behind a line
        ("word " * 20 + "\nnext", [65, 35 + 4]),  # behind a word, the rest of the line with the next
        ("é" * 100, [66, 66, 66, 2]),  # behind a character
    ],
)
def test_long_texts_are_cut(
    block: int, text: str, sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_pairs, "_BLOCK_BYTES", block)
    source = TextSource(str(write(tmp_path / "books", a=text)), max_bytes=67)
    pieces = texts(source)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(len(piece.encode()) <= 67 for piece in pieces)
    assert [len(piece.encode()) for piece in pieces] == [pytest.approx(size, abs=1) for size in sizes]


def test_pieces_have_ids_of_their_content_and_travel_to_workers(tmp_path: Path) -> None:
    source = TextSource(str(write(tmp_path / "books", a="one\n\ntwo")), unit="paragraph")
    moved = TextSource(str(write(tmp_path / "moved", z="two\n\nzero\n\none")), unit="paragraph")
    assert [moved[index].id for index in (2, 0)] == [source[index].id for index in (0, 1)]
    assert len({moved[index].id for index in range(3)}) == 3
    assert texts(pickle.loads(pickle.dumps(source))) == ["one", "two"]


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    books = write(tmp_path / "books", a="one")
    assert texts(TextSource(str(books))) == ["one"]
    write(books, a="one more")
    assert texts(TextSource(str(books))) == ["one more"]


def test_text_in_a_store() -> None:
    with fsspec.open("memory://shelf/a.txt", "wb") as file:
        file.write(b"one\n\ntwo\n")
    for path in ("memory://shelf", "memory://shelf/*.txt", "memory://shelf/a.txt"):
        assert texts(TextSource(path, unit="paragraph")) == ["one", "two"]


def test_bytes_that_are_no_text_are_named_and_others_are_read(tmp_path: Path) -> None:
    source = TextSource(str(write(tmp_path / "books", a=b"one\n\nt\xffo\n\nthree")), unit="paragraph")
    with pytest.raises(DataError, match=r"^a\.txt:3: byte 6 of the file is no UTF-8"):
        source[1]
    assert plain_text(source[2]) == "three"
    damaged = TextSource(str(write(tmp_path / "damaged", a=b"\x80" * 500)), max_bytes=64)
    with pytest.raises(DataError, match=r"a\.txt:1: byte 0 of the file is no UTF-8"):
        damaged[0]


def test_places_without_text(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path / "none", r"no \.txt file there"),
        (write(tmp_path / "empty", a=" \n"), "its 1 files hold 0 words"),
        (tmp_path, r"its 1 files hold 0 words"),
        ("unknown-store://a", "cannot be reached"),
    ):
        with pytest.raises(DataError, match=words):
            TextSource(str(path))
    with pytest.raises(ConfigError, match="max_bytes is 3; give at least 64"):
        TextSource(str(tmp_path), max_bytes=3)
    with pytest.raises(ConfigError, match="unit is 'page'"):
        TextSource(str(tmp_path), unit="page")  # type: ignore[arg-type]


def first_window(sample: Sample) -> list[int]:
    return text_windows(plain_text(sample), make_tokenizer(), 8)[0]


def test_a_mixture_holds_plain_text_and_goes_on_after_a_stop(tmp_path: Path) -> None:
    path = str(write(tmp_path / "books", a="\n\n".join(f"part {number}" for number in range(9))))
    config = MixtureConfig(name="m", source=(SourceConfig(name="books", path=path),))

    def stream() -> MixtureStream[Any]:
        mixture = Mixture(config, [TextSource(path, name="books", unit="paragraph")])
        return MixtureStream(mixture, first_window, seed=3, num_epochs=1)

    whole = list(stream())
    assert len({tuple(window) for window in whole}) == 9
    stopped, resumed = stream(), stream()
    begun = [window for _, window in zip(range(4), stopped, strict=False)]
    resumed.load_state_dict(stopped.state_dict())
    assert begun + list(resumed) == whole
