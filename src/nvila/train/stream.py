"""The endless stream of batches of one stage, rendered as they are needed.

A batch depends on (seed, stage, step, rank) alone, so a resumed training sees what an uninterrupted one would have
seen. With several worker processes, worker w makes every step that leaves w when divided by their number, and the
DataLoader takes turns between them: the order stays.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from nvila.data.corpus import Assets, Split, generate
from nvila.processing.chat import IGNORED
from nvila.train.encode import Encoded, SampleEncoder, collate
from nvila.train.notes import BatchNotes, SampleNote
from nvila.train.recipe import Source, Stage

PROBE_INDEX = 1 << 40
"""Samples of the probe are numbered from here, those of training from 0."""


class BatchStream(IterableDataset[dict[str, Any]]):
    """Batches of `stage` from `first_step` on: what `encode.collate` gives, and its notes."""

    num_micro_batches = 1

    def __init__(
        self,
        stage: Stage,
        assets: Assets,
        encoder: SampleEncoder,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        self.stage = stage
        self.assets = assets
        self.encoder = encoder
        self.seed = seed
        self.first_step = 0
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        start, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if worker is not None:
            torch.set_num_threads(1)
        step = self.first_step + start
        while True:
            yield self.batch(step)
            step += stride

    def loader(self, num_workers: int) -> DataLoader[Any]:
        """The stream, made by so many processes; 0 makes it in this one."""
        return DataLoader(
            self,
            batch_size=None,
            num_workers=num_workers,
            prefetch_factor=6 if num_workers else None,
            multiprocessing_context="fork" if num_workers else None,
        )

    def state_dict(self, step: int) -> dict[str, Any]:
        """What the batches from `step` on depend on."""
        return {"step": step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after `state`."""
        self.first_step = int(state["step"])

    def batch(self, step: int) -> dict[str, Any]:
        """The batch of one step."""
        stage = self.stage
        rng = np.random.default_rng([self.seed, zlib.crc32(stage.name.encode()), step, self.rank])
        chosen = choose_sources(stage, rng)
        difficulty = difficulty_at(stage, step)
        first = (step * self.world_size + self.rank) * stage.batch_size
        encoded = [
            self._encode(stage.source[choice], "train", first + index, difficulty, rng)
            for index, choice in enumerate(chosen)
        ]
        return self._arrange(encoded, chosen)

    def probe(self, source: int, num_samples: int, step: int) -> dict[str, Any]:
        """A batch of held-out samples of one source, as difficult as those of `step`; else always the same ones."""
        rng = np.random.default_rng([self.seed, source])
        encoded = [
            self._encode(
                self.stage.source[source], "heldout", PROBE_INDEX + index, difficulty_at(self.stage, step), rng
            )
            for index in range(num_samples)
        ]
        return self._arrange(encoded, [source] * num_samples)

    def _encode(self, source: Source, split: Split, index: int, difficulty: float, rng: np.random.Generator) -> Encoded:
        size = source.sizes[int(rng.integers(len(source.sizes)))]
        seed = self.seed + zlib.crc32(self.stage.name.encode())
        sample = generate(
            source.task, self.assets, split=split, seed=seed, index=index, size=size, difficulty=difficulty
        )
        return self.encoder(sample, spell_answer=source.spell, max_frames=source.frames)

    def _arrange(self, encoded: Sequence[Encoded], sources: Sequence[int]) -> dict[str, Any]:
        """A collated batch with its notes."""
        batch = collate(encoded, self.encoder.pad_id)
        num_tokens = sum(len(item.input_ids) for item in encoded)
        notes = BatchNotes(
            samples=tuple(
                SampleNote(item.id, self.stage.source[source].label)
                for item, source in zip(encoded, sources, strict=True)
            ),
            num_tokens=num_tokens,
            num_learned=int((batch["labels"] != IGNORED).sum()),
            num_padding=batch["input_ids"].numel() - num_tokens,
            num_tiles=sum(len(item.tiles) for item in encoded),
        )
        return {**batch, "notes": notes}


def choose_sources(stage: Stage, rng: np.random.Generator) -> list[int]:
    """The source of each sample of a batch: a bucket by the weights of its sources, then sources within it."""
    weights = np.array([source.weight for source in stage.source])
    buckets = np.array([source.bucket for source in stage.source])
    bucket = buckets[rng.choice(len(weights), p=weights / weights.sum())]
    weights = np.where(buckets == bucket, weights, 0.0)
    return [int(place) for place in rng.choice(len(weights), size=stage.batch_size, p=weights / weights.sum())]


def difficulty_at(stage: Stage, step: int) -> float:
    """0..1, rising from the stage's start to 1 over its `difficulty_steps`."""
    if step >= stage.difficulty_steps:
        return 1.0
    return stage.difficulty_start + (1.0 - stage.difficulty_start) * step / stage.difficulty_steps
