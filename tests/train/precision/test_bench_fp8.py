"""The search of the FP8 benchmark for the largest batch: it costs minutes of a GPU where it errs."""

from __future__ import annotations

import pytest
import torch
from benchmarks.fp8_row import MIX, Kind, is_out_of_memory, largest_batch, make_config, sample_of

from nvila.model import NVILAConfig, NVILAForConditionalGeneration


def searched(most: int, limit: float = 1000.0, largest: int = 256, has_failure: bool = True) -> tuple[int, list[int]]:
    """What the search finds, and what it tried, where a batch takes 100 bytes and as many more as `most` just allow."""
    tried = []

    def peak_of(count: int) -> float | None:
        tried.append(count)
        peak = 100 + 900 * count / (most + 0.5)
        return None if has_failure and peak > limit else peak

    found, ended = largest_batch(peak_of, limit, largest, lambda: True)
    assert ended
    return found, tried


@pytest.mark.parametrize("has_failure", [True, False])
@pytest.mark.parametrize("most", [0, 1, 2, 3, 4, 5, 7, 12, 31])
def test_it_finds_the_largest_batch_in_few_tries(most: int, has_failure: bool) -> None:
    found, tried = searched(most, has_failure=has_failure)
    assert found == most
    assert len(tried) <= 5
    assert len(set(tried)) == len(tried)


def test_large_batches_are_found_within_a_sixteenth_and_never_above_the_cap() -> None:
    found, tried = searched(100)
    assert 94 <= found <= 100
    assert len(tried) <= 5
    assert searched(1000, largest=48)[0] == 48


def test_memory_that_grows_faster_than_a_line_is_halved_down() -> None:
    tried = []

    def peak_of(count: int) -> float | None:
        tried.append(count)
        return None if count > 9 else 100.0 + count

    assert largest_batch(peak_of, 1000.0, 256, lambda: True) == (9, True)
    assert len(tried) <= 12


def test_a_search_without_time_says_so_and_keeps_what_it_has() -> None:
    answers = iter([True, False])
    assert largest_batch(lambda count: 10.0 * count, 1000.0, 256, lambda: next(answers)) == (2, False)


def test_memory_errors_are_known_under_the_compilers_wrapping() -> None:
    inner = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    wrapped = RuntimeError("backend='inductor' raised")
    wrapped.__cause__ = inner
    assert is_out_of_memory(inner)
    assert is_out_of_memory(wrapped)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize("name", ["nano", "2b", "lite-2b"])
@pytest.mark.parametrize("kind", MIX, ids=lambda kind: kind.name)
def test_a_sample_has_the_tiles_and_tokens_that_the_model_asks_for(name: str, kind: Kind) -> None:
    config = make_config(name, 1, False)
    with torch.device("meta"):
        model = NVILAForConditionalGeneration(config)
    sample = sample_of(config, kind)
    assert sample.num_tiles == (model.num_image_tiles(kind.grid) if kind.grid else 0)
    features = torch.empty(sample.num_tiles, *model_features(config), device="meta")
    tokens = sum(len(one) for one in model._project(features, [kind.grid])) if kind.grid else 0
    assert sample.num_tokens == tokens + kind.num_words


def model_features(config: NVILAConfig) -> tuple[int, int]:
    """Patches of a tile and the tower's width."""
    return (config.visual.tile_size // config.visual.patch_size) ** 2, config.vision_config.hidden_size
