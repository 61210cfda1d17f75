"""Scoring samples for pruning: packed rows against the same model on ready tensors, and against one sample at a time.

The ceiling is the model's forward pass and its log probabilities on packed rows that lie ready in memory. Ours is a
whole pass of `nvila prune score`: records read, pictures decoded and cut, rows packed and scored, parts written. The
peer is what a short script does with transformers alone: the chat template, one sample a forward pass, a softmax over
all of its logits. All see the first question of each picture of the packaged corpus, and must find the same sums. The
last line is JSON.

    python benchmarks/bench_prune_score.py [--quick] [--model nvila-mini] [--samples 300] [--batch-tokens 2048 8192]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

from nvila.data.formats import open_source
from nvila.eval.runner import processor_name
from nvila.layouts import resolve
from nvila.model import NVILAForConditionalGeneration
from nvila.processing import NVILAProcessor
from nvila.pruning.score.batches import Ready, Scorer
from nvila.pruning.score.data import Corpus
from nvila.pruning.score.models import load_scorer
from nvila.pruning.score.options import DataOptions, RunOptions
from nvila.pruning.score.passes import Pass, read_pass, run_pass
from nvila.pruning.scores import finished_parts
from nvila.types import ImagePart, Sample, TextPart

PACKAGED = Path(__file__).parents[1] / "src" / "nvila" / "assets" / "corpus" / "train"
AGREE = 0.35
"""Natural logarithm by which sums may differ on average: bfloat16 rounds otherwise in rows of another length."""


def write_data(folder: Path, count: int) -> Path:
    """`count` pictures of the packaged corpus with their first questions, evenly chosen, as JSON lines."""
    sources = [open_source(str(shard)) for shard in sorted(PACKAGED.glob("*.tar"))]
    samples = [sample for source in sources for sample in (source[index] for index in range(len(source)))]
    shown = [(sample, picture) for sample in samples if (picture := _only_picture(sample)) is not None]
    lines = []
    for number, (sample, picture) in enumerate(shown[:: max(1, len(shown) // count)][:count]):
        picture.save(folder / f"{number}.png", compress_level=1)
        texts = [
            "".join(part.text for part in one.content if isinstance(part, TextPart)) for one in sample.messages[:2]
        ]
        turns = [{"from": "human", "value": f"<image>\n{texts[0]}"}, {"from": "gpt", "value": texts[1]}]
        lines.append(json.dumps({"id": str(number), "image": f"{number}.png", "conversations": turns}))
    path = folder / "data.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _only_picture(sample: Sample) -> Image.Image | None:
    """The picture of the first question, where it has one and nothing else."""
    media = [part for part in sample.messages[0].content if not isinstance(part, TextPart)]
    if len(media) != 1 or not isinstance(media[0], ImagePart) or media[0].image is None:
        return None
    return media[0].image.convert("RGB")


def ready_batches(scorer: Scorer, corpus: Corpus, batch_tokens: int) -> list[Ready]:
    """All samples as the model takes them, in the rows that a pass would make."""
    samples = {number: read.sample for number in range(len(corpus)) if (read := corpus.read(number)).sample is not None}
    planned = [scorer.encoder.plan(number, sample) for number, sample in samples.items()]
    rows = scorer.encoder.rows(planned, batch_tokens)
    return [
        batch for row in rows for batch in scorer.encoder.prepare([(one.key, samples[one.key]) for one in row]).ready
    ]


def forward_only(scorer: Scorer, batches: list[Ready]) -> dict[int, float]:
    """The sums of all samples by number."""
    return {key: found.log_p for batch in batches for key, found in zip(batch.keys, scorer.log_p(batch), strict=True)}


def whole_pass(scorer: Scorer, corpus: Corpus, run: RunOptions) -> dict[int, float]:
    """As `nvila prune score` does it, into a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        one = Pass(name="large", model="")
        run_pass(corpus, one, scorer, range(corpus.num_chunks), Path(folder), run=run)
        rows = [row for path in finished_parts(Path(folder)).values() for row in read_pass(path, ["log_p"])]
    return {number: row["log_p"] for number, row in enumerate(rows)}


@torch.inference_mode()
def one_at_a_time(model: Any, processor: Any, data: Path) -> dict[int, float]:
    """With transformers alone: `model` and `processor` are used as any other's would be."""
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    found = {}
    for number, line in enumerate(data.read_text(encoding="utf-8").splitlines()):
        record = json.loads(line)
        question, answer = (turn["value"].removeprefix("<image>\n") for turn in record["conversations"])
        image = Image.open(data.parent / record["image"]).convert("RGB")
        asked = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": question}]}]
        told = [*asked, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
        options: dict[str, Any] = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
        prompt = processor.apply_chat_template(asked, add_generation_prompt=True, **options)["input_ids"].shape[1]
        inputs = processor.apply_chat_template(told, **options).to(model.device, model.dtype)
        ids = inputs["input_ids"][0]
        last = prompt + int((ids[prompt:] == end).nonzero()[0, 0])
        log_p = model(**inputs).logits[0, prompt - 1 : last].float().log_softmax(-1)
        found[number] = float(log_p.gather(1, ids[prompt : last + 1, None]).sum())
    return found


def measured(contenders: Mapping[str, Callable[[], dict[int, float]]], rounds: int) -> dict[str, dict[str, Any]]:
    """Samples a second of each, the median of so many rounds in turns after one that is not timed; the sums agree."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    sums: dict[str, dict[int, float]] = {}
    for number in range(rounds + 1):
        for name, score in contenders.items():
            began = time.perf_counter()
            sums[name] = score()
            if number:
                rates[name].append(len(sums[name]) / (time.perf_counter() - began))
    first = next(iter(sums.values()))
    rows = {}
    for name, found in sums.items():
        off = statistics.fmean(abs(found[key] - value) for key, value in first.items())
        if not off <= AGREE:
            raise SystemExit(f"{name}: its sums differ by {off:.3f} on average, over {AGREE}; it does other work")
        rows[name] = {"samples_per_s": round(statistics.median(rates[name]), 2), "mean_difference": round(off, 4)}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nvila-mini", help="an NVILA: a folder, a hub id, nvila-mini")
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--batch-tokens", type=int, nargs="+", default=[2048, 8192])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="few samples, one round: does it run?")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.quick:
        options.samples, options.rounds, options.batch_tokens = 16, 1, [2048]
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(Path(folder), options.samples)
        corpus = Corpus(DataOptions(data=str(data), chunk_samples=options.samples))
        contenders: dict[str, Callable[[], dict[int, float]]] = {}
        for tokens in options.batch_tokens:
            run = RunOptions(device="cpu", dtype=options.dtype, batch_tokens=tokens)
            scorer = load_scorer(options.model, run)
            batches = ready_batches(scorer, corpus, tokens)
            contenders[f"ceiling, {tokens}"] = lambda scorer=scorer, batches=batches: forward_only(scorer, batches)
            contenders[f"ours, {tokens}"] = lambda scorer=scorer, run=run: whole_pass(scorer, corpus, run)
        root = resolve(options.model)
        peer = NVILAForConditionalGeneration.from_pretrained(root, dtype=scorer.model.dtype).eval()  # type: ignore[attr-defined]
        processor = NVILAProcessor.from_pretrained(root)
        contenders["transformers, one at a time"] = lambda: one_at_a_time(peer, processor, data)
        rows = measured(contenders, options.rounds)
        num_samples, num_tokens = len(corpus), sum(int(batch.inputs["input_ids"].numel()) for batch in batches)
    print(f"{num_samples} samples, {num_tokens} tokens, {peer.dtype}")
    for name, row in rows.items():
        print(f"{name:28} {row['samples_per_s']:8.1f} samples/s")
    report = {
        "rows": rows,
        "samples": num_samples,
        "tokens": num_tokens,
        "model": options.model,
        "dtype": str(peer.dtype),
        "threads": options.threads,
        "rounds": options.rounds,
        "machine": processor_name(),
        "num_cpus": os.cpu_count(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": str(date.today()),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
