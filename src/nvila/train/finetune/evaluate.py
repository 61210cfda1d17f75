"""Held-out scores before, during and after a fine-tuning, and the weights that had the best.

A sample is answered right where every token of an answer is the likeliest one behind the true tokens before it, which
is when greedy decoding would give that answer; so a score costs a forward pass and no generation. `exact` is the share
of right answers, `loss` the mean over samples. An answer of many words is hardly ever exact: let `loss` decide then.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback

from nvila.data.collate import collate_padded
from nvila.data.encode import Encoded, SampleEncoder
from nvila.data.mixture import Mixture
from nvila.data.mixture.mixture import READ_ERRORS
from nvila.errors import DataError
from nvila.train.learner import Learner
from nvila.train.trainer import StageTrainer
from nvila.utils.atomic import atomic_write_text

SCORES_FILE = "scores.json"
_TOKENS_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class Score:
    """Of the weights after `step` steps."""

    step: int
    exact: float
    loss: float

    def rank(self, best_by: Literal["exact", "loss"]) -> tuple[float, float]:
        """More is better; the other number decides between equals."""
        return (self.exact, -self.loss) if best_by == "exact" else (-self.loss, self.exact)


class HeldOut:
    """The first `limit` samples of a held-out data set, spread evenly over each of its sources."""

    def __init__(self, mixture: Mixture, encoder: SampleEncoder, *, limit: int, pad_id: int, workers: int) -> None:
        self.pad_id = pad_id
        self.workers = workers
        share = max(1, limit // len(mixture.sizes))
        places = [
            (number, place * size // min(size, share))
            for number, size in enumerate(mixture.sizes)
            for place in range(min(size, share))
        ]
        self._samples = _Samples(mixture, encoder, places)
        self.num_samples = 0
        """Of those that could be read, known after the first score."""

    def score(self, learner: Learner, step: int, *, bf16: bool) -> Score:
        """Of the learner as it is. Raises DataError where no sample can be read."""
        device = next(learner.parameters()).device
        training, loss_kind = learner.training, learner.loss
        learner.eval()
        learner.loss = "answer"
        right = loss = 0.0
        count = 0
        for batch, size in self._batches():
            moved = {
                key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()
            }
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                outputs = learner(**moved)
            right += float(outputs["correct"].sum())
            loss += float(outputs["answer_loss"]) * size
            count += size
        learner.train(training)
        learner.loss = loss_kind
        if not count:
            raise DataError("no sample of the held-out data can be read; look at it with: nvila data check")
        self.num_samples = count
        return Score(step=step, exact=round(right / count, 4), loss=round(loss / count, 5))

    def _batches(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Padded batches in the order of the data, with their number of samples."""
        loader: Any = DataLoader(
            self._samples,
            batch_size=None,
            num_workers=self.workers,
            multiprocessing_context="fork" if self.workers else None,
            generator=torch.Generator().manual_seed(0),  # or else it would draw from the training's generator
        )
        waiting: list[Encoded] = []
        for sample in loader:
            if sample is None:
                continue
            longest = max([sample.num_tokens, *(one.num_tokens for one in waiting)])
            if waiting and longest * (len(waiting) + 1) > _TOKENS_AT_ONCE:
                yield collate_padded(waiting, pad_id=self.pad_id), len(waiting)
                waiting = []
            waiting.append(sample)
        if waiting:
            yield collate_padded(waiting, pad_id=self.pad_id), len(waiting)


class _Samples(Dataset[Encoded | None]):
    """Encoded samples; None for those that cannot be read, which are told before the training."""

    def __init__(self, mixture: Mixture, encoder: SampleEncoder, places: list[tuple[int, int]]) -> None:
        self._mixture = mixture
        self._encoder = encoder
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: int) -> Encoded | None:
        try:
            return self._encoder(self._mixture.sample(*self._places[place]))
        except READ_ERRORS:
            return None


class KeepBest(TrainerCallback):
    """Scores at the start, every `every` steps and at the end; keeps the weights of the best trained step.

    What was scored is in `scores.json`, so that a run that goes on scores no step twice.
    """

    def __init__(
        self, trainer: StageTrainer, held_out: HeldOut, *, every: int, best_by: Literal["exact", "loss"]
    ) -> None:
        self.trainer = trainer
        self.held_out = held_out
        self.every = every
        self.best_by = best_by
        self.folder = Path(str(trainer.args.output_dir))
        self.scores = {score.step: score for score in read_scores(self.folder)}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0 and 0 not in self.scores:
            self._score(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = state.global_step
        if step not in self.scores and (step % self.every == 0 or step >= args.max_steps):
            self._score(step)

    def _score(self, step: int) -> None:
        trainer = self.trainer
        with trainer.meter.paused():
            learner = trainer.accelerator.unwrap_model(trainer.model)
            score = self.held_out.score(learner, step, bf16=bool(trainer.args.bf16))
            is_due = trainer.control.should_log  # which logging anything takes back
            trainer.log({"held_out_exact": score.exact, "held_out_loss": score.loss})
            trainer.control.should_log = is_due
            self.scores[step] = score
            best = best_of(list(self.scores.values()), self.best_by)
            if best is score:
                trainer.write_weights(best_file(self.folder, step))
        if trainer.args.should_save:
            listed = [asdict(self.scores[step]) for step in sorted(self.scores)]
            atomic_write_text(self.folder / SCORES_FILE, json.dumps(listed, indent=1) + "\n")
            # A kill before this leaves two files, of which the scores name one.
            kept = None if best is None else best_file(self.folder, best.step)
            for path in self.folder.glob("best-*.safetensors"):
                if path != kept:
                    path.unlink()


def best_file(folder: Path, step: int) -> Path:
    """Where the weights of the best step are."""
    return folder / f"best-{step}.safetensors"


def read_scores(folder: Path) -> list[Score]:
    """The scores of a run's stage by step; none where there are none. Raises DataError for a damaged file."""
    path = folder / SCORES_FILE
    if not path.is_file():
        return []
    try:
        return [Score(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: is damaged ({error}); delete it, and best-*.safetensors beside it") from error


def best_of(scores: list[Score], best_by: Literal["exact", "loss"]) -> Score | None:
    """The best trained step; None where nothing was scored. The earliest of equals."""
    trained = [score for score in scores if score.step > 0]
    return max(trained, key=lambda score: score.rank(best_by), default=None)
