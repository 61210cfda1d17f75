"""Peak memory of encoding tiles, against their number: SigLIP-so400m's width at 448 px, random weights, three layers.

The ceiling is what must be kept: the features of one group of tiles, and the tokens of all. Layers do not add up
without gradients, so three stand for twenty-seven. Each count runs in a process of its own; the last line is JSON.

    python benchmarks/bench_vision_memory.py [--tiles 1 13 64 128] [--budget-mib 512]
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
from datetime import date


def measure(num_tiles: int, budget: int) -> dict[str, float]:
    """Bytes over the model's own, at the peak of encoding `num_tiles` frames into tokens, in bfloat16."""
    import torch

    from nvila import NVILAConfig, NVILAForConditionalGeneration

    vision = {
        "hidden_size": 1152, "num_hidden_layers": 3, "num_attention_heads": 16, "intermediate_size": 4304,
        "image_size": 448, "patch_size": 14, "vision_use_head": False,
    }  # fmt: skip
    text = {
        "model_type": "qwen2", "hidden_size": 1536, "num_hidden_layers": 1, "num_attention_heads": 12,
        "num_key_value_heads": 2, "intermediate_size": 64, "vocab_size": 64,
    }  # fmt: skip
    config = NVILAConfig(vision, text, image_mode="resize", dtype=torch.bfloat16)
    model = NVILAForConditionalGeneration(config).to(torch.bfloat16).eval()
    model.vision_memory_budget = budget
    pixels = torch.zeros(num_tiles, 3, 448, 448, dtype=torch.bfloat16)
    with torch.no_grad():
        model.get_image_features(pixels[:1])  # one-time buffers of the matrix library
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        tokens = model.get_image_features(pixels).pooler_output
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    kept = sum(token.numel() * token.element_size() for token in tokens)
    return {"tiles": num_tiles, "peak_mib": round(peak / 2**20, 1), "tokens_mib": round(kept / 2**20, 1)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiles", type=int, nargs="+", default=[1, 13, 64, 128])
    parser.add_argument("--budget-mib", type=int, default=512)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.budget_mib * 2**20)))
        return
    print(f"budget for activations: {options.budget_mib} MiB")
    rows = []
    for tiles in options.tiles:
        command = [sys.executable, __file__, "--one", str(tiles), "--budget-mib", str(options.budget_mib)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append(json.loads(output.splitlines()[-1]))
        print(f"{tiles:5d} tiles: peak {rows[-1]['peak_mib']:8.1f} MiB, of which tokens {rows[-1]['tokens_mib']:.1f}")
    report = {
        "rows": rows,
        "budget_mib": options.budget_mib,
        "machine": platform.processor(),
        "date": str(date.today()),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
