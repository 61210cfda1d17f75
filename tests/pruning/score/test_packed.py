"""Our models on packed rows: the same numbers as one sample at a time, and as the plain forward gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.pruning.score.little import mixed_records, write_records
from torch.nn import functional as F

from nvila.data.encode import SampleEncoder
from nvila.model import NVILAForConditionalGeneration
from nvila.processing import NVILAProcessor
from nvila.pruning.score.data import Corpus
from nvila.pruning.score.models import load_scorer
from nvila.pruning.score.options import DataOptions, RunOptions
from nvila.pruning.score.packed import PackedScorer
from nvila.types import Sample

OPTIONS = RunOptions(dtype="float32", device="cpu")


def samples_of(folder: Path) -> list[Sample]:
    corpus = Corpus(DataOptions(data=str(write_records(folder / "d.jsonl", mixed_records()))))
    return [read.sample for number in range(len(corpus)) if (read := corpus.read(number)).sample is not None]


def test_a_packed_row_gives_each_sample_its_own_log_p(pair: tuple[str, str], tmp_path: Path) -> None:
    scorer = load_scorer(pair[0], OPTIONS)
    samples = list(enumerate(samples_of(tmp_path)))
    together = scorer.encoder.prepare(samples)
    assert [batch.keys for batch in together.ready] == [tuple(range(20))]
    packed = scorer.log_p(together.ready[0])
    for key, sample in samples:
        (alone,) = scorer.log_p(scorer.encoder.prepare([(key, sample)]).ready[0])
        assert packed[key].num_tokens == alone.num_tokens
        assert packed[key].log_p == pytest.approx(alone.log_p, abs=1e-4)
    assert len({round(found.log_p, 3) for found in packed}) == 20


def test_log_p_is_that_of_the_answer_and_its_end(pair: tuple[str, str], tmp_path: Path) -> None:
    """Against all logits of the model's own forward, on labels that the data layer made."""
    scorer = load_scorer(pair[0], OPTIONS)
    model = NVILAForConditionalGeneration.from_pretrained(pair[0], dtype=torch.float32).eval()
    encoder = SampleEncoder(NVILAProcessor.from_pretrained(pair[0]))
    sample = samples_of(tmp_path)[1]
    encoded = encoder(sample)
    with torch.inference_mode():
        logits = model(
            input_ids=encoded.input_ids[None], pixel_values=encoded.pixel_values, block_sizes=encoded.block_sizes
        ).logits[0]
    wanted = -F.cross_entropy(logits[:-1], encoded.labels[1:], reduction="sum")
    (found,) = scorer.log_p(scorer.encoder.prepare([(0, sample)]).ready[0])
    assert found.log_p == pytest.approx(float(wanted), abs=1e-4)
    assert found.num_tokens == len("It is very 1.") + 1, "the text's bytes, and the end of the turn"


def test_rows_keep_to_the_budget_and_lose_nobody(pair: tuple[str, str], tmp_path: Path) -> None:
    scorer = load_scorer(pair[0], OPTIONS)
    planned = [scorer.encoder.plan(key, sample) for key, sample in enumerate(samples_of(tmp_path))]
    largest = max(one.num_tokens for one in planned)
    rows = list(scorer.encoder.rows(planned, largest - 1))
    assert sorted(one.key for row in rows for one in row) == list(range(20))
    assert all(sum(one.num_tokens for one in row) < largest or len(row) == 1 for row in rows)
    assert len(rows) < 20


def test_the_limit_is_the_models_or_the_users(pair: tuple[str, str]) -> None:
    assert load_scorer(pair[0], OPTIONS).encoder.max_tokens == 512
    assert load_scorer(pair[0], RunOptions(device="cpu", max_tokens=40)).encoder.max_tokens == 40
    assert load_scorer(pair[0], RunOptions(device="cpu", max_tokens=4000)).encoder.max_tokens == 512


def test_on_a_cpu_attention_goes_by_segments_and_makes_no_mask(
    pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = load_scorer(pair[0], OPTIONS)
    by_mask = NVILAForConditionalGeneration.from_pretrained(pair[0], dtype=torch.float32, attn_implementation="sdpa")
    other = PackedScorer(by_mask, NVILAProcessor.from_pretrained(pair[0]), OPTIONS)
    (row,) = scorer.encoder.prepare(list(enumerate(samples_of(tmp_path)))).ready
    masked = [found.log_p for found in other.log_p(row)]
    monkeypatch.setattr("transformers.masking_utils.create_causal_mask", None)
    monkeypatch.setattr("transformers.models.qwen2.modeling_qwen2.create_causal_mask", None)
    assert [found.log_p for found in scorer.log_p(row)] == pytest.approx(masked, abs=1e-4)
    with pytest.raises(TypeError):
        other.log_p(row)
