"""What `make train-demo` does before and after the training: little assets first, then an honest look at the result.

    python recipes/nano/demo.py prepare FOLDER   # fonts, words and texts, from what is installed already
    python recipes/nano/demo.py show FOLDER      # has FOLDER/model read held-out words, and says how many it read

Nothing is downloaded. The fonts are two faces of DejaVu, which matplotlib brings along, the words those of the shipped
model's tokenizer. One word in ten is held out (`nvila.data.corpus.splits`) and is never drawn or spelled in training;
the faces are the same on both sides, which is what makes ten minutes enough.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nvila.data.corpus import Assets, generate, tokenizer_words
from nvila.data.corpus.text import short_word
from nvila.eval.metrics import accepted, cer, exact
from nvila.eval.runner import Answerer, conversation, model_answerer, run_task
from nvila.eval.task import Task
from nvila.layouts import read_settings, resolve
from nvila.types import ImagePart

FACES = {"DejaVuSansMono.ttf": "Book", "DejaVuSansMono-Bold.ttf": "Bold"}
NUM_TEXTS = 20_000
NUM_CELLS = 16
"""Letters and dots of a text: as many as a picture has visual tokens."""
NUM_SHOWN = 8
WORDS = Task(name="words", generator="short_word", metrics={"exact": exact, "cer": cer}, num_samples=200)
CLIPS = Task(name="clips", generator="motion", metrics={"accepted": accepted}, num_samples=48)


def main(arguments: Sequence[str]) -> None:
    """`prepare FOLDER` or `show FOLDER`."""
    match list(arguments):
        case ["prepare", folder]:
            prepare(Path(folder))
        case ["show", folder]:
            show(Path(folder))
        case _:
            sys.exit(__doc__)


def prepare(folder: Path, *, num_texts: int = NUM_TEXTS) -> Assets:
    """Writes `assets/` and `texts.jsonl` into `folder`, and returns the assets."""
    assets = write_assets(folder / "assets")
    write_texts(folder / "texts.jsonl", assets, num_texts)
    return assets


def write_assets(folder: Path) -> Assets:
    """Assets of the corpus with two faces, a few hundred words and no pictures."""
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    fonts = []
    for name, style in FACES.items():
        shutil.copyfile(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, folder / name)
        font = {"path": name, "family": "DejaVu Sans Mono", "style": style}
        fonts.append({**font, "superfamily": "dejavu", "mono": True})
    (folder / "fonts.json").write_text(json.dumps(fonts), encoding="utf-8")
    (folder / "words.txt").write_text("\n".join(known_words()) + "\n", encoding="utf-8")
    (folder / "pictures.json").write_text("[]", encoding="utf-8")
    np.save(folder / "pictures.npy", np.zeros((0, 96, 96, 4), dtype=np.uint8))
    return Assets.load(folder)


def known_words() -> list[str]:
    """The words of three to five letters in the shipped model's tokenizer."""
    path = Path(read_settings(resolve("nvila-mini")).tokenizer_dir) / "tokenizer.json"
    pieces = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
    return sorted({piece.removeprefix("Ġ").lower() for piece in pieces if re.fullmatch("Ġ?[A-Za-z]{3,5}", piece)})


def write_texts(path: Path, assets: Assets, count: int) -> None:
    """Conversations for the decoder alone: a word among dots, as it will find letters among visual tokens later."""
    rng = np.random.default_rng(0)
    whole = set(tokenizer_words(assets))  # one token each, where pictures are answered letter by letter
    lines = []
    while len(lines) < count:
        word = short_word(rng, assets, "train")
        if word in whole:
            continue
        place = int(rng.integers(NUM_CELLS - len(word) + 1))
        shown = f"{'.' * place}{word}".ljust(NUM_CELLS, ".")
        turns = [{"from": "human", "value": f"{shown}\nWhat does it say?"}, {"from": "gpt", "value": word}]
        lines.append(json.dumps({"conversations": turns}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def show(folder: Path, *, words: Task = WORDS, clips: Task = CLIPS) -> None:
    """Scores `folder`/model on held-out words and clips, and prints some pictures with its answers, right or wrong."""
    from nvila.model import NVILAForConditionalGeneration
    from nvila.processing import NVILAProcessor

    model: Any = NVILAForConditionalGeneration.from_pretrained(folder / "model", dtype="float32").eval()
    answer = model_answerer(model, NVILAProcessor.from_pretrained(folder / "model"))
    assets = Assets.load(folder / "assets")
    read, seen = (run_task(task, answer, assets, seed=0, limit=None, batch_size=50) for task in (words, clips))
    share, missed = read["metrics"]["exact"], read["metrics"]["cer"]
    lines = [
        f"words: {round(share * words.num_samples)} of {words.num_samples} pictures read to the last letter "
        f"({share:.0%}; letter error rate {missed:.0%}). They show words, {len(assets.words('heldout'))} in all, that "
        "the training never showed, in the faces that it did show.",
        f"clips: {seen['metrics']['accepted']:.0%} of {clips.num_samples} told which way a shape moves (chance: 25%).",
        "The first pictures, named after the word that is to be read, and the answers:",
        *examples(folder / "words", answer, assets, words),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def examples(folder: Path, answer: Answerer, assets: Assets, task: Task) -> list[str]:
    """Writes some of the task's pictures, and gives "PICTURE -> answer" for each."""
    folder.mkdir(exist_ok=True)
    samples = [
        generate(task.generator, assets, split="heldout", seed=0, index=index, size=task.size)
        for index in range(NUM_SHOWN)
    ]
    answers = answer([conversation(sample) for sample in samples], task.max_new_tokens)
    lines = []
    for number, (sample, given) in enumerate(zip(samples, answers, strict=True), start=1):
        picture = sample.messages[0].content[0]
        assert isinstance(picture, ImagePart)
        assert picture.image is not None
        path = folder / f"{number}-{sample.meta['answer']}.png"
        picture.image.save(path)
        lines.append(f"  {path} -> {given}")
    return lines


if __name__ == "__main__":
    main(sys.argv[1:])
