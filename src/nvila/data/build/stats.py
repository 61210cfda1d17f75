"""How a data set is made up: lengths of questions and answers, tiles, media, and all of that by source.

Lengths are counted in characters and in a checkpoint's tokens, tiles by its processor's rule from the headers of the
media. Nothing is decoded, so this says what a data set costs, not whether it is sound (`nvila data check`).
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nvila.data.build.show import source_of, spread
from nvila.data.encode import SampleEncoder
from nvila.data.formats import open_source
from nvila.errors import DataError
from nvila.processing import NVILAProcessor
from nvila.types import ImagePart, Message, Sample, TextPart, VideoPart

MEASURES = {
    "prompt_tokens": "tokens of a question",
    "answer_tokens": "tokens of an answer",
    "prompt_characters": "characters of a question",
    "answer_characters": "characters of an answer",
    "tiles": "tiles and frames of a sample",
    "sample_tokens": "tokens of a sample, media included",
}
QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)
_BINS = 40
_PANEL = (420, 240)


@dataclass(kw_only=True)
class Stats:
    """What was counted. `values` holds every measurement by the names of MEASURES."""

    path: str
    num_samples: int = 0
    num_unreadable: int = 0
    first_error: str = ""
    values: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in MEASURES})
    sources: dict[str, Counter[str]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Counts, quantiles, means and histograms as plain data."""
        measures = {name: _described(values) for name, values in self.values.items() if values}
        counts = {"samples": self.num_samples, "unreadable": self.num_unreadable, "first_error": self.first_error}
        return {"path": self.path, **counts, "measures": measures, "sources": self.sources}


def collect(
    path: str,
    *,
    model: str = "nvila-mini",
    num: int | None = None,
    format: str | None = None,
    media_root: str | None = None,
    on_progress: Callable[[str], None] = lambda text: None,
) -> Stats:
    """Measure the data set at `path`, or `num` samples spread over it.

    Samples that cannot be read are counted and left out. Raises DataError where there is no data set, CheckpointError
    for an unknown `model`.
    """
    source = open_source(path, format=format, media_root=media_root)
    encoder = SampleEncoder(NVILAProcessor.from_pretrained(model))
    stats = Stats(path=path)
    indices = spread(len(source), num or len(source), 0)
    for number, index in enumerate(indices):
        on_progress(f"measured {number:,} of {len(indices):,} samples")
        try:
            _add(stats, encoder, source[index])
        except DataError as error:
            stats.num_unreadable += 1
            stats.first_error = stats.first_error or str(error)
    return stats


def _add(stats: Stats, encoder: SampleEncoder, sample: Sample) -> None:
    size = encoder.size(sample)
    texts = [(message.role, _text(message)) for message in sample.messages if message.role != "system"]
    ids = encoder.processor.tokenizer([text for _, text in texts], add_special_tokens=False)["input_ids"]
    for (role, text), tokens in zip(texts, ids, strict=True):
        kind = "answer" if role == "assistant" else "prompt"
        stats.values[f"{kind}_tokens"].append(len(tokens))
        stats.values[f"{kind}_characters"].append(len(text))
    stats.values["tiles"].append(size.num_tiles)
    stats.values["sample_tokens"].append(size.num_tokens)
    parts = [part for message in sample.messages for part in message.content]
    counts = stats.sources.setdefault(source_of(sample), Counter())
    counts["samples"] += 1
    counts["answers"] += sum(role == "assistant" for role, _ in texts)
    counts["images"] += sum(isinstance(part, ImagePart) for part in parts)
    counts["clips"] += sum(isinstance(part, VideoPart) for part in parts)
    stats.num_samples += 1


def _text(message: Message) -> str:
    return "".join(part.text for part in message.content if isinstance(part, TextPart))


def _described(values: Sequence[int]) -> dict[str, Any]:
    array = np.asarray(values)
    counts, edges = np.histogram(array, bins=_bins(array))
    quantiles = {f"p{round(100 * share)}": float(np.quantile(array, share)) for share in QUANTILES}
    histogram = {"edges": edges.tolist(), "counts": counts.tolist()}
    return {"count": len(array), "mean": float(array.mean()), **quantiles, "histogram": histogram}


def _bins(array: np.ndarray) -> np.ndarray:
    """Edges half-way between whole numbers, at most 40 of them up to the 99th percentile, the rest in the last."""
    low, high, top = int(array.min()), int(np.quantile(array, 0.99)), int(array.max())
    step = max(1, -(-(high - low + 1) // _BINS))
    edges = np.arange(low, high + step + 1, step) - 0.5
    edges[-1] = max(edges[-1], top + 0.5)
    return edges


def table(stats: Stats) -> str:
    """The figures as text."""
    lines = [f"{stats.path}: {stats.num_samples:,} samples"]
    if stats.num_unreadable:
        lines.append(f"{stats.num_unreadable:,} more cannot be read; the first: {stats.first_error}")
    lines.append(f"{'':36s}{'mean':>9s}{'least':>8s}{'median':>8s}{'90 %':>8s}{'99 %':>8s}{'most':>8s}")
    for name, called in MEASURES.items():
        if values := stats.values[name]:
            shown = [f"{np.quantile(values, share):8.0f}" for share in QUANTILES]
            lines.append(f"{called:36s}{np.mean(values):9.1f}{''.join(shown)}")
    lines.append(f"{'source':28s}{'samples':>10s}{'share':>8s}{'answers':>10s}{'images':>9s}{'clips':>8s}")
    for source, counts in sorted(stats.sources.items(), key=lambda item: (-item[1]["samples"], item[0])):
        share = 100 * counts["samples"] / stats.num_samples
        lines.append(
            f"{source[:27]:28s}{counts['samples']:10,d}{share:7.1f}%{counts['answers']:10,d}{counts['images']:9,d}"
            f"{counts['clips']:8,d}"
        )
    return "\n".join(lines)


def draw(stats: Stats) -> bytes:
    """A PNG with a histogram of each measure and the share of each source."""
    panels = [_histogram(MEASURES[name], values) for name, values in stats.values.items() if values]
    panels.append(_shares({source: counts["samples"] for source, counts in stats.sources.items()}))
    rows = -(-len(panels) // 2)
    image = Image.new("RGB", (2 * _PANEL[0], rows * _PANEL[1]), "white")
    for number, panel in enumerate(panels):
        image.paste(panel, (number % 2 * _PANEL[0], number // 2 * _PANEL[1]))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _histogram(title: str, values: Sequence[int]) -> Image.Image:
    array = np.asarray(values)
    counts, edges = np.histogram(array, bins=_bins(array))
    panel, pen = _panel(f"{title} (mean {array.mean():.1f}, n {len(array):,})")
    left, top, right, bottom = 40, 40, _PANEL[0] - 15, _PANEL[1] - 30
    width = (right - left) / len(counts)
    for number, count in enumerate(counts):
        height = (bottom - top) * count / max(1, counts.max())
        x = left + number * width
        pen.rectangle((x, bottom - height, x + max(1, width - 1), bottom), fill=(60, 110, 180))
    pen.line((left, bottom, right, bottom), fill="black")
    font = ImageFont.load_default(10)
    last = len(counts) - 1
    for number in sorted({0, last // 2, last}):
        label = f"{edges[number] + 0.5:.0f}" + ("+" if number == last and number else "")
        pen.text((left + (number + 0.5) * width, bottom + 4), label, fill="black", font=font, anchor="ma")
    pen.text((left - 4, top), f"{counts.max():,}", fill="black", font=font, anchor="rm")
    return panel


def _shares(samples: Mapping[str, int]) -> Image.Image:
    """The ten largest sources as bars, the others together."""
    panel, pen = _panel("samples by source")
    ranked = sorted(samples.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ranked[10:])
    rows = [*ranked[:10], *([("others", rest)] if rest else [])]
    most = max((count for _, count in rows), default=1)
    font = ImageFont.load_default(10)
    for number, (source, count) in enumerate(rows):
        y = 38 + number * 17
        pen.text((110, y + 6), source[:18], fill="black", font=font, anchor="rm")
        length = (_PANEL[0] - 190) * count / most
        pen.rectangle((116, y, 116 + length, y + 12), fill=(60, 110, 180))
        pen.text((120 + length, y + 6), f"{count:,}", fill="black", font=font, anchor="lm")
    return panel


def _panel(title: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    panel = Image.new("RGB", _PANEL, "white")
    pen = ImageDraw.Draw(panel)
    pen.text((12, 10), title, fill="black", font=ImageFont.load_default(12))
    return panel, pen
