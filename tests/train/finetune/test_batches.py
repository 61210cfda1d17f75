"""The batches of a fine-tuning: steps of samples as they come, and not sorted by size, which would be by answer."""

from __future__ import annotations

import random
from statistics import fmean, pstdev

from nvila.data.packing import Item, PackingOptions, RowPacker
from nvila.train.finetune.options import FinetuneOptions
from nvila.train.finetune.recipe import plan_batches
from nvila.train.finetune.survey import Survey


def test_samples_of_nearly_one_size_are_not_sorted_by_it() -> None:
    rng = random.Random(0)
    sizes = [200 + rng.choice((0, 1, 2, 5, 7)) for _ in range(400)]  # one picture and question, five answers
    total = sum(sizes)
    survey = Survey(num_samples=400, num_tokens=total, num_tiles=400, longest=207, most_tiles=1, densest=1 / 200)
    batches, steps = plan_batches(FinetuneOptions(data="x"), survey, 4096)
    options = PackingOptions(
        max_tokens=batches.max_tokens, rows_per_step=batches.rows_per_step, window=batches.window, pool=batches.pool
    )
    packed = list(RowPacker[Item](options).pack(Item(number, size) for number, size in enumerate(sizes)))
    means = [fmean(item.num_tokens for row in step for item in row) for step in packed]
    by_chance = pstdev(sizes) / 16**0.5
    assert pstdev(means) < 1.5 * by_chance
    assert len(packed) <= steps + 1
