"""FP8 optimizer states: bytes a parameter, how wrong the moments are, the loss they end at, and the time of a step.

A small decoder learns an invented language (words follow words by fixed, skewed odds). First every optimizer is given
the gradients of a float32 AdamW, so that only the moments differ: ours with and without the expansion of the dynamic
range, and torchao's AdamWFp8 (groups of 256, no expansion) if it is installed. Then each trains the decoder by itself
from the same start on the same batches. Then a step is timed on plain matrices.

The ceilings: 2 bytes a parameter for two moments in FP8; an error of 0; the float32 loss; for the step, the bytes it
must move (weights and gradients in float32, both moments read and written) at the rate of a copy measured in the same
run. The last line is JSON.

    python benchmarks/bench_fp8_optimizer.py [--quick] [--device cuda] [--steps 300] [--million-params 16]
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from datetime import date
from importlib.util import find_spec
from typing import Any

import torch
from torch.optim import AdamW
from transformers import Qwen2Config, Qwen2ForCausalLM

from nvila.eval.runner import processor_name
from nvila.train.precision.optimizer import Fp8AdamW, moment_errors
from nvila.train.precision.optimizer_state import planned_state_bytes

VOCABULARY, LENGTH, BATCH, TAIL = 512, 64, 8, 20
SETTINGS: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 0.01}
QWEN2_7B = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 151_648, "tie_word_embeddings": False,
}  # fmt: skip
Params = Iterable[torch.nn.Parameter]
Maker = Callable[[Params], torch.optim.Optimizer]


def optimizers() -> dict[str, Maker]:
    """What is compared, by name; the first is the reference."""
    makers: dict[str, Maker] = {
        "float32": lambda params: AdamW(params, fused=True, **SETTINGS),
        "ours": lambda params: Fp8AdamW(params, **SETTINGS),
        "ours, compiled": lambda params: Fp8AdamW(params, compiled=True, **SETTINGS),
        "ours, not expanded": lambda params: Fp8AdamW(params, expansion=False, **SETTINGS),
    }
    if find_spec("torchao"):
        peer = importlib.import_module("torchao.optim").AdamWFp8
        makers["torchao AdamWFp8"] = lambda params: peer(params, **SETTINGS)
    return makers


def make_model(device: str, width: int) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=width, intermediate_size=3 * width, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=VOCABULARY, use_cache=False,
    )  # fmt: skip
    return Qwen2ForCausalLM(config).to(device).train()


def batches(num_steps: int, device: str) -> Iterator[torch.Tensor]:
    """(BATCH, LENGTH) words of a language where 16 words may follow each, some far oftener than others."""
    generator = torch.Generator().manual_seed(1)
    followers = torch.randint(VOCABULARY, (VOCABULARY, 16), generator=generator)
    odds = 1 / torch.arange(1, 17).float() ** 1.5
    for _ in range(num_steps):
        words = [torch.randint(VOCABULARY, (BATCH,), generator=generator)]
        for _ in range(LENGTH - 1):
            choice = torch.multinomial(odds, BATCH, replacement=True, generator=generator)
            words.append(followers[words[-1], choice])
        yield torch.stack(words, 1).to(device)


def loss_and_gradients(model: Qwen2ForCausalLM, words: torch.Tensor) -> float:
    model.zero_grad()
    loss = model(input_ids=words, labels=words).loss
    loss.backward()
    return loss.item()


def tensor_bytes(tensor: torch.Tensor) -> int:
    """Of a plain tensor, or of the parts of one that torchao makes of several."""
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(tensor_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.numel() * tensor.element_size()


def bytes_a_param(optimizer: torch.optim.Optimizer) -> float:
    states = optimizer.state.items()
    total = sum(tensor_bytes(value) for _, state in states for value in state.values() if torch.is_tensor(value))
    return total / sum(param.numel() for param, _ in states)


def peer_errors(optimizer: torch.optim.Optimizer, reference: AdamW) -> dict[str, float]:
    """As `moment_errors`, of moments that dequantise themselves."""
    errors = {}
    for key, name in (("first", "exp_avg"), ("second", "exp_avg_sq")):
        squares = [0.0, 0.0]
        for state, expected in zip(optimizer.state.values(), reference.state.values(), strict=True):
            value, truth = state[name], expected[name]
            value = value.dequantize() if hasattr(value, "dequantize") and type(value) is not torch.Tensor else value
            squares[0] += (value.float() - truth).square().sum().item()
            squares[1] += truth.square().sum().item()
        errors[key] = (squares[0] / squares[1]) ** 0.5
    return errors


def measure_errors(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Bytes a parameter and errors of every optimizer after the float32 one's gradients."""
    model = make_model(options.device, options.width)
    twins = {name: copy.deepcopy(model) for name in optimizers()}
    twins["float32"] = model
    makers = optimizers()
    made = {name: makers[name](twin.parameters()) for name, twin in twins.items()}
    for words in batches(options.steps, options.device):
        loss_and_gradients(model, words)
        for name, twin in twins.items():
            for param, source in zip(twin.parameters(), model.parameters(), strict=True):
                param.grad = source.grad
            made[name].step()
    report: dict[str, dict[str, float]] = {}
    for name, optimizer in made.items():
        row = {"bytes_a_param": round(bytes_a_param(optimizer), 3)}
        if isinstance(optimizer, Fp8AdamW):
            row |= asdict(moment_errors(optimizer, made["float32"]))
        elif name != "float32":
            row |= peer_errors(optimizer, made["float32"])
        report[name] = row
    return report


def measure_losses(options: argparse.Namespace) -> dict[str, float]:
    """The mean loss of the last steps of a training by each."""
    losses = {}
    for name, maker in optimizers().items():
        model = make_model(options.device, options.width)
        optimizer = maker(model.parameters())
        seen = []
        for words in batches(options.steps, options.device):
            seen.append(loss_and_gradients(model, words))
            optimizer.step()
        losses[name] = statistics.mean(seen[-TAIL:])
    return losses


def seconds_of(action: Callable[[], Any], device: str, repeats: int) -> float:
    """The median of `repeats` runs after two that warm up (and compile)."""
    times = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        action()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def measure_steps(options: argparse.Namespace) -> dict[str, float]:
    """Nanoseconds a parameter of a step on square matrices of 2048; `ceiling` entries are bytes over a copy's rate."""
    num_matrices = max(1, round(options.million_params * 1e6 / 2048**2))
    num_params = num_matrices * 2048**2
    source = torch.ones(num_params, device=options.device)
    target = torch.empty_like(source)
    rate = 8 * num_params / seconds_of(lambda: target.copy_(source), options.device, options.repeats)
    times = {"ceiling of float32": 28e9 / rate, "ceiling of FP8": (12 + 4 * (1 + 4 / 128)) * 1e9 / rate}
    for name, maker in optimizers().items():
        params = [torch.nn.Parameter(torch.randn(2048, 2048, device=options.device)) for _ in range(num_matrices)]
        for param in params:
            param.grad = torch.randn_like(param)
        times[name] = 1e9 * seconds_of(maker(params).step, options.device, options.repeats) / num_params
    return times


def plan_7b() -> float:
    """Bytes a parameter of an optimizer for Qwen2 7B, from its shapes."""
    with torch.device("meta"):
        params = list(Qwen2ForCausalLM(Qwen2Config(**QWEN2_7B)).parameters())
    return planned_state_bytes(params) / sum(param.numel() for param in params)


def print_rows(title: str, rows: dict[str, float], unit: str) -> None:
    print(title)
    for name, value in rows.items():
        print(f"  {name:20s} {value:10.4f} {unit}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="few steps and small matrices, to see that it runs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--width", type=int, default=256, help="of the decoder")
    parser.add_argument("--million-params", type=float, default=16, help="of the matrices that steps are timed on")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    if options.quick:
        options.steps, options.width, options.million_params, options.repeats = 25, 128, 4, 2
    errors, whole = measure_errors(options), plan_7b()
    print(f"moments after {options.steps} steps of the float32 gradients (ceiling: 2 bytes, error 0)")
    for name, row in errors.items():
        figures = "   ".join(f"{key} {value:.4f}" for key, value in row.items())
        print(f"  {name:20s} {figures}")
    print(f"  Qwen2 7B, planned    bytes_a_param {whole:.4f}")
    losses = measure_losses(options)
    print_rows(f"mean loss of the last {TAIL} of {options.steps} steps (ceiling: float32)", losses, "nats")
    times = measure_steps(options)
    print_rows(f"a step on {options.million_params:g} million parameters, {options.device}", times, "ns a parameter")
    report = {
        "errors": errors,
        "bytes_a_param_qwen2_7b": round(whole, 4),
        "losses": losses,
        "loss_over_float32": {name: round(loss / losses["float32"] - 1, 5) for name, loss in losses.items()},
        "ns_a_param": {name: round(value, 3) for name, value in times.items()},
        "step_over_float32": round(times["ours"] / times["float32"], 2),
        "compiled_step_over_float32": round(times["ours, compiled"] / times["float32"], 2),
        "steps": options.steps,
        "width": options.width,
        "betas": SETTINGS["betas"],
        "hardware": torch.cuda.get_device_name() if options.device == "cuda" else processor_name(),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__},
        "seeds": [0, 1],
        "date": str(date.today()),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
