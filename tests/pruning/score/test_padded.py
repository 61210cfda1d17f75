"""Any model of transformers: a Qwen2-VL and a LLaVA from a configuration alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.media_files import noise
from tests.pruning.score.little import byte_tokenizer, little_qwen, write_llava
from torch.nn import functional as F

from nvila.errors import CheckpointError, DataError
from nvila.pruning.score.batches import Planned
from nvila.pruning.score.models import load_scorer
from nvila.pruning.score.options import RunOptions
from nvila.pruning.score.padded import PaddedEncoder, PaddedScorer
from nvila.pruning.score.spelling import Answer, find_answers, spell
from nvila.types import ImagePart, Message, Part, Sample, TextPart

OPTIONS = RunOptions(dtype="float32", device="cpu")


def turn(role: Any, *parts: Part | str, learned: bool = True) -> Message:
    content = tuple(TextPart(text=part) if isinstance(part, str) else part for part in parts)
    return Message(role=role, content=content, learned=learned)


def picture(width: int, height: int, seed: int = 0) -> ImagePart:
    return ImagePart(image=noise(width, height, seed))


def chats() -> list[tuple[int, Sample]]:
    """One turn and several, pictures in the first and in the last, none at all, an answer that is not learned."""
    conversations = [
        (turn("user", picture(40, 24), "What?"), turn("assistant", "A cat.")),
        (turn("user", "hello"), turn("assistant", "good day")),
        (
            turn("user", picture(24, 24), "a"), turn("assistant", "same"),
            turn("user", picture(16, 24, 1), "b", picture(32, 8, 2)), turn("assistant", "same"),
        ),
        (
            turn("system", "brief"), turn("user", "x", picture(8, 8)), turn("assistant", "skip", learned=False),
            turn("user", "y"), turn("assistant", "été 猫"),
        ),
    ]  # fmt: skip
    return [(key, Sample(id=f"s{key}", source="t", messages=one)) for key, one in enumerate(conversations)]


def answer_texts(scorer: PaddedScorer, key: int) -> str:
    (batch,) = scorer.encoder.prepare([chats()[key]]).ready
    ids = batch.inputs["input_ids"][0][batch.answers[0]]
    return str(scorer.encoder._processor.tokenizer.decode(ids))


@pytest.fixture(scope="module")
def qwen() -> PaddedScorer:
    model, processor = little_qwen()
    return PaddedScorer(model, processor, OPTIONS)


def test_the_answers_tokens_are_found_among_those_of_the_pictures(qwen: PaddedScorer) -> None:
    assert answer_texts(qwen, 0) == "A cat.<|im_end|>"
    assert answer_texts(qwen, 1) == "good day<|im_end|>"
    assert answer_texts(qwen, 2) == "same<|im_end|>same<|im_end|>"
    assert answer_texts(qwen, 3) == "été 猫<|im_end|>"


def test_qwen2_vl_is_scored_as_its_own_forward_says(qwen: PaddedScorer) -> None:
    """By hand from all logits of each sample alone; the scorer gets them in one padded batch."""
    prepared = qwen.encoder.prepare(chats())
    assert prepared.failed == {}
    (batch,) = prepared.ready
    assert (batch.inputs["attention_mask"] == 0).any(), "something is padded"
    found = qwen.log_p(batch)
    for key, one in enumerate(chats()):
        (alone,) = qwen.encoder.prepare([one]).ready
        with torch.inference_mode():
            logits = qwen.model(**alone.inputs).logits[0].float()
        places = torch.tensor(alone.answers[0])
        wanted = -F.cross_entropy(logits[places - 1], alone.inputs["input_ids"][0, places], reduction="sum")
        assert found[key].log_p == pytest.approx(float(wanted), abs=1e-4)
        assert found[key].num_tokens == len(places)
    assert found[0].num_tokens == len("A cat.") + 1


def test_logits_of_all_places_give_the_same(qwen: PaddedScorer) -> None:
    """For models whose forward knows no `logits_to_keep`."""
    (batch,) = qwen.encoder.prepare(chats()).ready
    wanted = qwen.log_p(batch)
    qwen._picks_logits = False
    try:
        found = qwen.log_p(batch)
    finally:
        qwen._picks_logits = True
    assert [one.log_p for one in found] == pytest.approx([one.log_p for one in wanted], abs=1e-5)


def test_sizes_are_told_from_headers(qwen: PaddedScorer) -> None:
    for key, sample in chats():
        planned = qwen.encoder.plan(key, sample)
        (batch,) = qwen.encoder.prepare([(key, sample)]).ready
        assert planned.num_tokens == batch.inputs["input_ids"].shape[1]
        assert planned.group == ("text" if key == 1 else "pictures")


def test_rows_hold_samples_of_like_length(qwen: PaddedScorer) -> None:
    planned = [Planned(0, 30, 1, "pictures"), Planned(1, 10, 0, "text"), Planned(2, 12, 1, "pictures")]
    planned += [Planned(3, 11, 0, "text"), Planned(4, 9, 0, "text"), Planned(5, 99, 0, "text")]
    planned += [Planned(6, 5, 1, "alone"), Planned(7, 5, 1, "alone")]
    rows = [[one.key for one in row] for row in qwen.encoder.rows(planned, 24)]
    assert rows == [[6], [7], [2], [0], [4, 1], [3], [5]]


def test_a_broken_picture_is_a_status_and_spares_its_neighbours(qwen: PaddedScorer, tmp_path: Path) -> None:
    broken = Sample(
        id="b", source="t", messages=(turn("user", ImagePart(path=str(tmp_path / "no.png"))), turn("assistant", "a"))
    )
    prepared = qwen.encoder.prepare([chats()[0], (9, broken), chats()[1]])
    assert prepared.failed[9][0] == "broken_media"
    assert "no.png" in prepared.failed[9][1]
    assert [batch.keys for batch in prepared.ready] == [(0, 1)]


def test_what_the_processor_refuses_is_tried_alone(qwen: PaddedScorer) -> None:
    """A text that spells the placeholder of a picture upsets the count of the whole batch."""
    odd = Sample(id="o", source="t", messages=(turn("user", "<|image_pad|>"), turn("assistant", "a")))
    prepared = qwen.encoder.prepare([chats()[0], (9, odd), chats()[1]])
    scored = {
        key: found.log_p for batch in prepared.ready for key, found in zip(batch.keys, qwen.log_p(batch), strict=True)
    }
    assert {0, 1} <= set(scored)
    (alone,) = qwen.encoder.prepare([chats()[0]]).ready
    assert scored[0] == pytest.approx(qwen.log_p(alone)[0].log_p, abs=1e-4)


def test_a_folder_of_another_model_is_loaded_by_auto_classes(tmp_path: Path) -> None:
    scorer = load_scorer(str(write_llava(tmp_path)), OPTIONS)
    assert isinstance(scorer, PaddedScorer)
    (batch,) = scorer.encoder.prepare(chats()[:2]).ready
    together = scorer.log_p(batch)
    for key in (0, 1):
        (alone,) = scorer.encoder.prepare([chats()[key]]).ready
        assert together[key].log_p == pytest.approx(scorer.log_p(alone)[0].log_p, abs=1e-4)
        assert -1000 < together[key].log_p < 0
        assert not math.isnan(together[key].log_p)


def test_templates_that_look_ahead_are_refused() -> None:
    _, processor = little_qwen()
    processor.chat_template = processor.chat_template.replace("{{ message['role'] }}", "{{ messages | length }}")
    with pytest.raises(DataError, match="message 1: the chat template writes it otherwise"):
        spell(processor, [{"role": "user", "content": []}, {"role": "assistant", "content": []}], [True, True])


def test_answers_are_looked_for_from_the_last_to_the_first() -> None:
    ids = [7, 1, 2, 9, 9, 1, 2, 8]
    assert find_answers(ids, [Answer((1, 2), 1), Answer((1, 2), 0)]) == [2, 5, 6]
    with pytest.raises(DataError, match="answer 0: its 2 tokens are not among the 8"):
        find_answers(ids, [Answer((2, 1), 0)])


def test_processors_that_cannot_serve() -> None:
    _, processor = little_qwen()
    processor.chat_template = None
    with pytest.raises(CheckpointError, match="has no chat template"):
        PaddedEncoder(processor, OPTIONS, max_positions=512)
    assert byte_tokenizer().is_fast
