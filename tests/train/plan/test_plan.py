"""The plan of a training against real steps of small models: operations, saved activations, bytes of states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.tiny import IMAGE_ID, make_config
from torch.utils.flop_counter import FlopCounterMode

from nvila.errors import ConfigError
from nvila.model import NVILAConfig, NVILAForConditionalGeneration
from nvila.ops.losses import token_losses
from nvila.train.plan import Estimate, Workload, estimate, format_estimate
from nvila.train.plan.parts import sizes
from nvila.train.plan.published import architecture
from nvila.train.precision.convert import apply_precision
from nvila.train.precision.optimizer import Fp8AdamW
from nvila.train.precision.optimizer_state import state_bytes
from nvila.train.precision.options import PrecisionOptions
from nvila.train.precision.saved import held_bytes

VISION = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4}
TEXT = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "vocab_size": 320}
STAGES = {
    "stage 1": ("projector",),
    "stage 2": ("vision", "projector"),
    "stage 3": ("projector", "llm"),
    "stages 4 and 5": ("vision", "projector", "llm"),
    "the tower alone": ("vision",),
    "the decoder alone": ("llm",),
}
S2 = {"image_mode": "dynamic_s2", "s2_scales": (56, 112, 168)}
NUM_TEXT = 150
ONE_TOKEN = {"tokens_per_step": 1, "tiles_per_step": 1, "sample_length": 1}


def small_config(**visual: Any) -> NVILAConfig:
    return make_config(vision=VISION, text=TEXT, **visual)


def small_model(
    config: NVILAConfig,
    trainable: tuple[str, ...],
    *,
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float32,
    checkpointing: tuple[str, ...] = (),
) -> NVILAForConditionalGeneration:
    config._attn_implementation = attention
    torch.manual_seed(0)
    model = NVILAForConditionalGeneration(config).to(dtype).train()
    parts = {"vision": model.vision_tower, "projector": model.mm_projector, "llm": model.llm}
    for name, part in parts.items():
        part.requires_grad_(name in trainable)
    tower = model.vision_tower.vision_model
    tower.encoder.layers[-1].requires_grad_(False)
    tower.post_layernorm.requires_grad_(False)
    for name, part in (("vision", tower), ("llm", model.llm)):
        if name in checkpointing:
            part.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def batch(config: NVILAConfig, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """One conversation with a picture of 14 tiles, of which 9 reach the projector with Dynamic-S2."""
    merged = 9 if config.s2_scales else 14
    num_visual = merged * config.visual.tokens_per_tile
    ids = torch.full((1, num_visual + NUM_TEXT), 7)
    ids[0, :num_visual] = IMAGE_ID
    pixels = torch.randn(14, 3, 56, 56, generator=torch.Generator().manual_seed(1)).to(dtype)
    blocks = [(3, 3)] if config.s2_scales else None
    labels = ids.masked_fill(ids == IMAGE_ID, 3)
    return {"input_ids": ids, "pixel_values": pixels, "labels": labels, "block_sizes": blocks, "use_cache": False}


def planned(config: NVILAConfig, inputs: dict[str, Any], **workload: Any) -> Estimate:
    tokens, tiles = inputs["input_ids"].numel(), len(inputs["pixel_values"])
    sizes_of_step = {"tokens_per_step": tokens, "tiles_per_step": tiles, "sample_length": tokens}
    return estimate(config, Workload(**{**sizes_of_step, "chunked_loss": False, **workload}))


def with_full_attention(result: Estimate, tokens: int) -> float:
    """The plan's operations, if the decoder computed the masked half of its scores too, as its eager code does."""
    masked = sum(entry.total for entry in result.flops if entry.name == "llm, attention")
    return result.total_flops + masked * (2 * tokens / (tokens + 1) - 1)


@pytest.mark.parametrize("trainable", STAGES.values(), ids=STAGES)
@pytest.mark.parametrize("checkpointing", [(), ("vision", "llm")], ids=["plain", "again"])
def test_operations_of_each_stage(trainable: tuple[str, ...], checkpointing: tuple[str, ...]) -> None:
    config = small_config()
    inputs = batch(config)
    model = small_model(config, trainable, attention="eager", checkpointing=checkpointing)
    with FlopCounterMode(display=False) as counter:
        model(**inputs).loss.backward()
    result = planned(config, inputs, trainable=trainable, checkpointing=checkpointing)
    expected = with_full_attention(result, inputs["input_ids"].numel())
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    "visual",
    [
        S2,
        {"projector_type": "mlp_downsample_3x3_fix"},
        {"projector_type": "token_learner"},
        {"projector_type": "perceiver_resampler"},
        {"vision_select_layer": -3},
    ],
    ids=["Dynamic-S2", "3x3", "token learner", "perceiver", "an earlier layer"],
)
def test_operations_of_each_projector(visual: dict[str, Any]) -> None:
    config = small_config(**visual)
    inputs = batch(config)
    with FlopCounterMode(display=False) as counter:
        small_model(config, STAGES["stage 2"], attention="eager")(**inputs).loss.backward()
    expected = with_full_attention(planned(config, inputs, trainable=STAGES["stage 2"]), inputs["input_ids"].numel())
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


def test_operations_of_a_forward_pass_by_part() -> None:
    config = small_config(**S2)
    inputs = batch(config)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        small_model(config, (), attention="eager")(**inputs)
    result = {entry.name: entry.forward for entry in planned(config, inputs).flops}
    counted = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    prefix = "NVILAForConditionalGeneration."
    assert result["vision, matrices"] + result["vision, attention"] == counted[prefix + "vision_tower"]
    assert result["projector"] == counted[prefix + "mm_projector"]
    assert result["language head"] == counted[prefix + "llm.lm_head"]


def test_frozen_parts_rest_unless_something_before_them_learns() -> None:
    config = small_config()
    inputs = batch(config)

    def backward(*trainable: str) -> dict[str, float]:
        result = planned(config, inputs, trainable=trainable)
        return {entry.name: entry.backward / entry.forward for entry in result.flops}

    first = backward("projector")
    assert (first["vision, matrices"], first["vision, attention"], first["projector"]) == (0, 0, 2)
    assert (first["llm, matrices"], first["llm, attention"], first["language head"]) == (1, 2, 1)
    assert backward("vision")["projector"] == 1
    assert backward("llm")["projector"] == 0


def saved_bytes(model: torch.nn.Module, forward: Callable[[], torch.Tensor]) -> int:
    """Bytes that a forward pass leaves for the backward one, the model's own weights not counted."""
    loss, held = held_bytes(forward, model.parameters())
    assert loss.requires_grad
    return held


@pytest.mark.parametrize("trainable", STAGES.values(), ids=STAGES)
@pytest.mark.parametrize("checkpointing", [(), ("vision", "llm")], ids=["plain", "again"])
@pytest.mark.parametrize("weights", ["bf16", "fp32"])
def test_saved_activations(trainable: tuple[str, ...], checkpointing: tuple[str, ...], weights: str) -> None:
    config = small_config(**S2)
    dtype = torch.bfloat16 if weights == "bf16" else torch.float32
    inputs = batch(config, dtype)
    model = small_model(config, trainable, dtype=dtype, checkpointing=checkpointing)
    with torch.autocast("cpu", torch.bfloat16, enabled=weights == "fp32"):
        measured = saved_bytes(model, lambda: model(**inputs).loss)
    needed = planned(config, inputs, trainable=trainable, checkpointing=checkpointing, weights=weights).memory
    # Copies of weights in layers that run again are the autocast cache's, where autograd does not see them.
    cached = sum(2 * sizes(config).linear[part] for part in checkpointing if part in trainable)
    copies = max(0, needed.bf16_copies - cached)
    # What the loss keeps of the logits is the third of their buffer that is there after the forward pass.
    activations = needed.vision_activations + needed.projector_activations + needed.llm_activations
    assert measured == pytest.approx(activations + copies + needed.logits / 3, rel=0.1)


@pytest.mark.parametrize(
    "visual",
    [{"projector_type": kind} for kind in ("mlp_downsample_3x3_fix", "token_learner", "perceiver_resampler")],
    ids=["3x3", "token learner", "perceiver"],
)
def test_saved_activations_of_each_projector(visual: dict[str, Any]) -> None:
    config = small_config(**visual)
    model = small_model(config, ("projector",), dtype=torch.bfloat16)
    inputs = batch(config, torch.bfloat16)
    with torch.no_grad():
        x_NPC = model.encode_tiles(inputs["pixel_values"])
    measured = saved_bytes(model, lambda: model.mm_projector(x_NPC).sum())
    needed = planned(config, inputs, trainable=("projector",), weights="bf16").memory
    assert measured == pytest.approx(needed.projector_activations, rel=0.15)


@pytest.mark.parametrize("trainable", STAGES.values(), ids=STAGES)
def test_weights_gradients_and_states_are_exact(trainable: tuple[str, ...]) -> None:
    config = small_config()
    model = small_model(config, trainable)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned)
    for parameter in learned:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    states = sum(state[name].nbytes for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq"))
    result = planned(config, batch(config), trainable=trainable)
    assert result.memory.weights == sum(parameter.nbytes for parameter in model.parameters())
    assert result.memory.gradients == sum(parameter.nbytes for parameter in learned)
    assert result.memory.optimizer == states
    assert sum(entry.trained for entry in result.parameters.values()) == sum(p.numel() for p in learned)


def test_states_by_precision_and_sharding() -> None:
    config = small_config()
    inputs = batch(config)
    count = sum(entry.total for entry in planned(config, inputs).parameters.values())
    learned = sum(entry.trained for entry in planned(config, inputs).parameters.values())
    mixed = planned(config, inputs, weights="bf16", master_weights=True).memory
    assert (mixed.weights, mixed.gradients, mixed.master_weights, mixed.optimizer) == (
        2 * count,
        2 * learned,
        4 * learned,
        8 * learned,
    )
    assert planned(config, inputs, weights="bf16").memory.optimizer == 4 * learned
    sharded = planned(config, inputs, num_gpus=8, sharding="fsdp").memory
    assert sharded.weights == pytest.approx(4 * count / 8, abs=1)
    assert sharded.optimizer == pytest.approx(8 * learned / 8, abs=1)
    assert planned(config, inputs, num_gpus=8).memory.communication == 4 * learned


@pytest.mark.parametrize("trainable", [("projector",), ("vision", "projector", "llm")], ids=["stage 1", "stage 5"])
@pytest.mark.parametrize("weights", ["bf16", "fp32"])
def test_saved_activations_in_fp8(trainable: tuple[str, ...], weights: str) -> None:
    config = make_config(
        vision={**VISION, "hidden_size": 128, "intermediate_size": 256}, text={**TEXT, "hidden_size": 128}
    )
    dtype = torch.bfloat16 if weights == "bf16" else torch.float32
    inputs = batch(config, dtype)
    model = small_model(config, trainable, dtype=dtype)
    apply_precision(model, PrecisionOptions(inputs=True, norms=True, activations=True, vision=True))
    with torch.autocast("cpu", torch.bfloat16, enabled=weights == "fp32"):
        measured = saved_bytes(model, lambda: model(**inputs).loss)
    workload = {"trainable": trainable, "weights": weights}
    needed = planned(config, inputs, **workload, fp8_activations=("vision", "llm")).memory
    activations = needed.vision_activations + needed.projector_activations + needed.llm_activations
    assert measured == pytest.approx(activations + needed.bf16_copies + needed.logits / 3, rel=0.15)
    plain = planned(config, inputs, **workload).memory
    assert needed.llm_activations < 0.6 * plain.llm_activations


def test_bytes_of_fp8_states_are_exact() -> None:
    config = small_config()
    model = small_model(config, ("projector", "llm"))
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = Fp8AdamW(learned, lr=1e-3)
    for parameter in learned:
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer.step()
    needed = planned(config, batch(config), trainable=("projector", "llm"), optimizer="fp8").memory
    assert needed.optimizer == state_bytes(optimizer)
    large = estimate(architecture("8b").config(), Workload(**ONE_TOKEN, optimizer="fp8"))
    assert large.memory.optimizer < 2.3 * sum(entry.trained for entry in large.parameters.values())


@pytest.mark.parametrize("trainable", [("projector",), ("projector", "llm")], ids=["frozen head", "trained head"])
def test_operations_of_the_chunked_loss(trainable: tuple[str, ...]) -> None:
    config = small_config()
    inputs = batch(config)
    count = inputs["input_ids"].numel()
    head = torch.randn(320, 96, requires_grad="llm" in trainable)
    hidden = torch.randn(count, 96, requires_grad=True)
    targets = torch.full((count,), 5)
    targets[count // 2 :] = -100

    def added_in_place(_total: Any, left: Any, right: Any, **_: Any) -> int:
        return 2 * left[0] * left[1] * right[1]

    # The counter does not know this one.
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: added_in_place}) as counter:
        token_losses(hidden, head, targets, chunk=16).losses.sum().backward()
    plan = planned(config, inputs, trainable=trainable, chunked_loss=True, learned_share=(count // 2) / count)
    assert plan.flops[-1].name == "language head"
    assert plan.flops[-1].total == counter.get_total_flops()


def test_the_chunked_loss_never_holds_all_logits() -> None:
    config = architecture("8b").config()
    workload = {"tokens_per_step": 16384, "tiles_per_step": 0, "sample_length": 16384, "trainable": ("projector",)}
    full = estimate(config, Workload(**workload, chunked_loss=False)).memory
    assert full.logits == 16384 * 151648 * 12
    assert estimate(config, Workload(**workload)).memory.logits < full.logits / 20


def test_time_follows_rates_and_gpus() -> None:
    config = small_config()
    inputs = batch(config)
    one = planned(config, inputs, steps=10, gpu="a100", mfu=0.5)
    assert one.seconds_per_step == pytest.approx(one.total_flops / 312e12 / 0.5)
    assert one.seconds == pytest.approx(10 * one.seconds_per_step)
    assert planned(config, inputs, gpu="a100", mfu=0.5, num_gpus=4).seconds_per_step == one.seconds_per_step / 4
    fast = planned(config, inputs, gpu="h100", fp8_linears=("llm",))
    slow = planned(config, inputs, gpu="h100")
    matrices = next(entry.total for entry in slow.flops if entry.name == "llm, matrices")
    saved = matrices * (1 / 989e12 - 1 / 1979e12) / 0.4
    assert slow.seconds_per_step - fast.seconds_per_step == pytest.approx(saved)


def test_micro_batches_are_even_unless_given() -> None:
    config = small_config()
    sizes = {"tokens_per_step": 1001, "tiles_per_step": 30, "sample_length": 100, "num_gpus": 2}
    even = Workload(**sizes, grad_accumulation=5)
    assert (even.largest_tokens, even.largest_tiles) == (101, 3)
    given = Workload(**sizes, grad_accumulation=5, micro_tokens=303, micro_tiles=9)
    both = [estimate(config, workload).memory for workload in (even, given)]
    assert both[1].llm_activations == 3 * both[0].llm_activations
    assert both[1].vision_activations == 3 * both[0].vision_activations


def test_the_table_says_what_was_estimated() -> None:
    result = estimate(
        architecture("8b").config(),
        Workload(
            tokens_per_step=4_096_000,
            tiles_per_step=24_576,
            sample_length=2000,
            steps=5000,
            num_gpus=128,
            grad_accumulation=4,
            sharding="fsdp",
            trainable=("projector",),
        ),
    )
    text = format_estimate(result)
    lines = [line.split() for line in text.splitlines()]
    assert ["vision", "413.33", "M", "0"] in lines
    assert ["projector", "62.43", "M", "62.43", "M"] in lines
    assert ["a", "step", "4,096,000", "24,576"] in lines
    assert ["5,000", "steps", "20,480,000,000", "122,880,000"] in lines
    assert ["weights", "241.05", "MiB"] in lines
    assert "on 128 h100s at 40% of the peak rate" in text
    assert all(line == line.rstrip() for line in text.splitlines())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"trainable": ("projectr",)}, "trainable names 'projectr' .did you mean 'projector'"),
        ({"trainable": ()}, "trainable names no part"),
        ({"checkpointing": ("projector",)}, "checkpointing names 'projector'.*known: vision, llm"),
        ({"optimizer": "adam"}, "did you mean 'adamw'"),
        ({"sharding": "fsdp2"}, "did you mean 'fsdp'"),
        ({"weights": "bf32"}, "weights names 'bf32'"),
        ({"gpu": "H100"}, "gpu names 'H100'.*known: a100, h100"),
        ({"mfu": 40.0}, "mfu is 40.0, not above 0"),
        ({"num_gpus": 0}, "num_gpus is 0; give at least 1"),
        ({"tiles_per_step": -1}, "tiles_per_step is -1"),
        ({"master_weights": True}, "set weights to 'bf16'"),
    ],
)
def test_wrong_workloads_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Workload(**{"tokens_per_step": 10, "tiles_per_step": 1, "sample_length": 10, **wrong})
