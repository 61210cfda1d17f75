"""Text for what comes before the five stages: captions for the image-text loss, and plain text for the decoder.

A caption is made of a conversation's own answers, so that any data set of questions about pictures also pairs pictures
with text. The trade: a caption says what somebody asked for, not all that is to be seen. Plain text is cut into
windows, all tokens of which are learned; no chat template stands around it. Files of plain text are a source of
samples with one turn, the assistant's (`nvila.data.formats` reads conversations, and wants a question first).

Leaves out the losses (`nvila.train.contrast`) and joining windows into rows (`nvila.data.packing`).

Letters: B captions, L tokens.
"""

from __future__ import annotations

import re
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import PurePath
from typing import IO, Any, Literal

import fsspec
import numpy as np
import torch
from fsspec.implementations.local import LocalFileSystem

from nvila.data.encode import Encoded, SampleEncoder, Size
from nvila.data.formats.base import RecordError
from nvila.data.formats.drafts import sample_id
from nvila.data.formats.files import DataFile
from nvila.data.formats.index import Arrays, CachedArrays
from nvila.errors import ConfigError, DataError
from nvila.types import ImagePart, Message, Sample, TextPart, VideoPart

MAX_FACTS = 3
MAX_WORDS = 40
"""Of a caption; SigLIP's own hold up to 64 tokens."""
STATEMENT_WORDS = 5
"""An answer of as many words stands for itself; a shorter one says something only behind its question."""
_SAYS_LITTLE = re.compile(r"(?:yes|no|true|false|[a-z])[.!]?", re.IGNORECASE)
"""Answers that a picture cannot be known by: the words would be the same for its opposite."""

Unit = Literal["document", "paragraph"]
SUFFIX = ".txt"
PIECE_BYTES = 8192
_SHORTEST_PIECE = 64
_BLOCK_BYTES = 1 << 22
_BOM = b"\xef\xbb\xbf"


def caption_of(sample: Sample, rng: np.random.Generator) -> str | None:
    """A short text about the only picture of `sample`, from up to MAX_FACTS of its learned answers, up to MAX_WORDS.

    Which ones, and in which order, is drawn from `rng`; a bare yes, no or letter is taken only where nothing else was
    answered. None where there is no picture, more than one or a clip, and where nothing is answered.
    """
    media = [part for message in sample.messages for part in message.content if not isinstance(part, TextPart)]
    turns = [(question, answer) for question, answer in _turns(sample) if answer]
    if len(media) != 1 or not isinstance(media[0], ImagePart) or not turns:
        return None
    telling = [turn for turn in turns if not _SAYS_LITTLE.fullmatch(turn[1])] or turns
    chosen: list[str] = []
    num_words = 0
    for place in rng.permutation(len(telling))[:MAX_FACTS]:
        fact = _fact(*telling[place])
        num_words += len(fact.split())
        if chosen and num_words > MAX_WORDS:
            break
        chosen.append(fact)
    return ". ".join(fact.rstrip(".") for fact in chosen)


def encode_captions(
    captions: Sequence[str], tokenizer: Any, *, max_tokens: int = 64
) -> tuple[torch.Tensor, torch.Tensor]:
    """ids (B, L) long, padded on the right, and their mask (B, L) bool; each caption is cut at `max_tokens`.

    Raises DataError for no captions, and for one without tokens.
    """
    rows = [_tokens(caption, tokenizer)[:max_tokens] for caption in captions]
    if not rows:
        raise DataError("a batch has 0 captions; give at least 1")
    if [] in rows:
        raise DataError(f"caption {rows.index([])} of {len(rows)} has 0 tokens; leave its sample out")
    lengths_B1 = torch.tensor([[len(row)] for row in rows])
    mask_BL = torch.arange(int(lengths_B1.max())) < lengths_B1
    ids_BL = torch.full(mask_BL.shape, tokenizer.pad_token_id, dtype=torch.long)
    ids_BL[mask_BL] = torch.tensor([token for row in rows for token in row])
    return ids_BL, mask_BL


def plain_text(sample: Sample) -> str:
    """The questions and learned answers of `sample`, each on a line of its own; without media and system message.

    Of a sample of a `TextSource` it is the text. Empty where nothing is answered.
    """
    return "\n".join(text for turn in _turns(sample) for text in turn if text)


def is_plain_text(sample: Sample) -> bool:
    """Whether nobody asks and nothing is shown: text that no chat template fits, for `encode_text`."""
    return all(message.role == "assistant" for message in sample.messages)


def text_windows(text: str, tokenizer: Any, length: int) -> list[list[int]]:
    """The ids of `text` and the tokenizer's end token, in windows of 2 to `length` tokens.

    A window starts with the last token of the one before, so every token but the first is predicted exactly once.
    None for text without tokens. Raises DataError for text that spells a special token, which would end a turn or ask
    for a picture, and ConfigError for a `length` under 2.
    """
    if length < 2:
        raise ConfigError(f"a window of text has {length} tokens; give at least 2, one to read and one to predict")
    ids = _tokens(text, tokenizer)
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    spelled = next((token for token in ids if token in special), None)
    if spelled is not None:
        raise DataError(f"the text spells {tokenizer.convert_ids_to_tokens(spelled)}; remove it, or drop the text")
    if not ids:
        return []
    ids.append(tokenizer.eos_token_id)
    return [ids[start : start + length] for start in range(0, len(ids) - 1, length - 1)]


def encode_text(text: str, tokenizer: Any, max_tokens: int, *, name: str = "text") -> list[Encoded]:
    """The windows of `text` for the decoder alone: no media, all tokens learned, ids `name`#0, `name`#1 ...

    Raises as `text_windows`, a DataError with the name in front.
    """
    try:
        windows = text_windows(text, tokenizer, max_tokens)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    tensors = [torch.tensor(window, dtype=torch.long) for window in windows]
    return [Encoded(id=f"{name}#{place}", input_ids=ids, labels=ids.clone()) for place, ids in enumerate(tensors)]


class TextAndChatEncoder(SampleEncoder):
    """A `SampleEncoder` for mixtures that hold plain text as well: it gets no chat template, and is learned whole.

    Text over `max_tokens` is refused or loses its end, as the options say; a `TextSource` with `max_bytes` that fit
    loses none.
    """

    def __call__(self, sample: Sample) -> Encoded:
        """One window for plain text, all else as `SampleEncoder`. Raises DataError that names the sample."""
        return self._window(sample) if is_plain_text(sample) else super().__call__(sample)

    def size(self, sample: Sample) -> Size:
        """The size that `__call__` gives the sample."""
        return Size(self._window(sample).num_tokens, 0) if is_plain_text(sample) else super().size(sample)

    def _window(self, sample: Sample) -> Encoded:
        limit = self.options.max_tokens
        name = f"sample {sample.id} of {sample.source}"
        windows = encode_text(plain_text(sample), self.processor.tokenizer, limit or sys.maxsize, name=name)
        if not windows:
            raise DataError(f"{name}: has 0 tokens that are learned; drop it")
        if len(windows) > 1 and self.options.too_long == "error":
            num_tokens = 1 + sum(window.num_tokens - 1 for window in windows)
            raise DataError(
                f"{name}: has {num_tokens} tokens, over the limit of {limit}; raise it, or lower the max_bytes of its "
                "source"
            )
        return replace(windows[0], id=sample.id)


class TextSource:
    """Pieces of text files by index: a `SampleSource`, each sample of which holds one turn, the assistant's.

    A piece is a document (a file) or a paragraph (blank lines stand between), cut behind a line, a word or, where there
    is neither, a character, so that none is over `max_bytes`. Opening reads every file once, ever; the places of the
    pieces are kept in the user's cache (`$NVILA_INDEX`).
    """

    def __init__(
        self, path: str, *, name: str | None = None, unit: Unit = "document", max_bytes: int = PIECE_BYTES
    ) -> None:
        """`path`: a .txt file, a folder with such files at any depth, a glob, or an fsspec URL of these.

        Raises DataError when there is no text, ConfigError for a unit or a `max_bytes` that is out of range.
        """
        if unit not in ("document", "paragraph"):
            raise ConfigError(f"unit is {unit!r}; give 'document' or 'paragraph'")
        if max_bytes < _SHORTEST_PIECE:
            raise ConfigError(f"max_bytes is {max_bytes}; give at least {_SHORTEST_PIECE}")
        self.name = name or PurePath(path.rstrip("/")).stem or path
        self._files = find_texts(path)
        self._indices = [_index(file, unit, max_bytes) for file in self._files]
        self._borders = [0, *accumulate(len(index["starts"]) for index in self._indices)]
        if not len(self):
            raise DataError(f"{path}: its {len(self._files)} files hold 0 words; give text")

    def __len__(self) -> int:
        return self._borders[-1]

    def __getitem__(self, index: int) -> Sample:
        """Piece `index` of `len`, its id a hash of its text. Raises DataError naming file, line and byte."""
        file, offsets, number = self._find(index)
        start = int(offsets["starts"][number])
        data = file.read(start, int(offsets["ends"][number]))
        try:
            text = data.decode("utf-8").replace("\r\n", "\n").strip()
        except UnicodeDecodeError as error:
            place, byte = self.place(index), start + error.start
            raise RecordError(f"{place}: byte {byte} of the file is no UTF-8; convert it", kind="unreadable") from error
        if not text:
            raise RecordError(f"{self.place(index)}: holds nothing but space; drop it", kind="empty answer")
        turn = Message(role="assistant", content=(TextPart(text=text),))
        return Sample(id=sample_id({"text": text}), source=self.name, messages=(turn,))

    def place(self, index: int) -> str:
        """`book.txt:17`, the line on which piece `index` starts."""
        file, offsets, number = self._find(index)
        return f"{file.name}:{int(offsets['lines'][number])}"

    def _find(self, index: int) -> tuple[DataFile, CachedArrays, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: piece {index} of {len(self)}")
        number = bisect_right(self._borders, index) - 1
        return self._files[number], self._indices[number], index - self._borders[number]


def find_texts(path: str) -> list[DataFile]:
    """The .txt files that `path` stands for, in the order of their paths. Raises DataError when there is none."""
    try:
        fs, inner = fsspec.core.url_to_fs(path)
        names = fs.find(inner) if fs.isdir(inner) else fs.glob(inner) if fsspec.core.has_magic(inner) else [inner]
        found = sorted(name for name in names if _is_text(name) and fs.isfile(name))
    except (OSError, ImportError, ValueError) as error:
        raise DataError(f"{path}: cannot be reached: {error}; check the path and your access") from error
    if not found:
        raise DataError(f"{path}: no {SUFFIX} file there; give such a file, a folder or a pattern of them")
    store = None if isinstance(fs, LocalFileSystem) else fs
    return [DataFile(path=name, fs=store) for name in found]


def _is_text(name: str) -> bool:
    file = PurePath(name)
    return file.suffix.lower() == SUFFIX and not file.name.startswith(".")


def _turns(sample: Sample) -> Iterator[tuple[str, str]]:
    """Each learned answer, and the question right before it or an empty text."""
    question = ""
    for message in sample.messages:
        text = "".join(part.text for part in message.content if not isinstance(part, ImagePart | VideoPart)).strip()
        if message.role == "assistant" and message.learned:
            yield question, text
        question = text if message.role == "user" else ""


def _fact(question: str, answer: str) -> str:
    """The answer by itself or behind its question, in one line of at most MAX_WORDS; the answer's words come first."""
    words = answer.split()[:MAX_WORDS]
    if len(words) >= STATEMENT_WORDS:
        return " ".join(words)
    return " ".join([*question.split()[len(words) - MAX_WORDS :], *words])


def _tokens(text: str, tokenizer: Any) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _index(file: DataFile, unit: Unit, max_bytes: int) -> CachedArrays:
    return CachedArrays((*file.identity(), "text", unit, str(max_bytes)), partial(_build, file, unit, max_bytes))


def _build(file: DataFile, unit: Unit, max_bytes: int) -> Arrays:
    """`starts` and `ends` of the pieces in bytes, and the `lines` (from 1) on which they start."""
    pieces = {name: array("Q") for name in ("starts", "ends", "lines")}
    is_open = False
    with file.open() as handle:
        offset, line = _skip_mark(handle), 1
        for run in _runs(handle, max_bytes):
            is_blank = not run.strip()
            too_long = is_open and offset + len(run) - pieces["starts"][-1] > max_bytes
            is_open &= not (too_long or (is_blank and unit == "paragraph"))
            if not is_blank and not is_open:
                is_open = True
                for name, value in (("starts", offset), ("ends", offset), ("lines", line)):
                    pieces[name].append(value)
            offset += len(run)
            line += run.endswith(b"\n")
            if not is_blank:
                pieces["ends"][-1] = offset
    return {name: np.array(values, dtype=np.uint64) for name, values in pieces.items()}


def _skip_mark(handle: IO[bytes]) -> int:
    """Steps over a byte-order mark; how many bytes it has."""
    size = len(_BOM) if handle.read(len(_BOM)) == _BOM else 0
    handle.seek(size)
    return size


def _runs(handle: IO[bytes], max_bytes: int) -> Iterator[bytes]:
    """The lines with their ends, in runs of up to `max_bytes` where they are longer."""
    rest = b""
    while block := handle.read(_BLOCK_BYTES):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield from _cut(line + b"\n", max_bytes)
        *cut, rest = _cut(rest, max_bytes)
        yield from cut
    if rest:
        yield rest


def _cut(line: bytes, max_bytes: int) -> list[bytes]:
    """`line` in runs, each ending with a word, or at least with a character. The last is the rest, maybe empty."""
    runs = []
    start = 0
    while len(line) - start > max_bytes:
        run = line[start : start + max_bytes]
        end = max(run.rfind(b" "), run.rfind(b"\t")) + 1
        runs.append(run[: end or _last_character(run)])
        start += len(runs[-1])
    return [*runs, line[start:]]


def _last_character(run: bytes) -> int:
    """Where the last character starts, or the end of what is no UTF-8: a byte that goes on is 10xxxxxx."""
    return max((place for place in range(len(run) - 4, len(run)) if run[place] & 0xC0 != 0x80), default=len(run))
