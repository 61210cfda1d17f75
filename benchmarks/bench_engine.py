"""Figure 5 side by side: NVILA in our engine against Qwen2-VL in other engines, in one run on one machine.

    python benchmarks/engine_peers/make_env.py openvino vllm
    python benchmarks/bench_engine.py --threads 2 --rounds 3 --out benchmarks/results/bench_engine.json
    python benchmarks/bench_engine.py --quick

NVILA-Lite and NVILA ("base") of --size, their ablation row by row, and Qwen2-VL of the same size in transformers, vLLM
and OpenVINO GenAI. All weights are random, from a fixed seed, made once under --cache (about 27 GB for all at 2b); no
answer means anything, and every answer has --new-tokens tokens whatever it says. Pixels are made here, the same for
all, other ones for every request: nothing can be reused.

A contender is a process in an environment of its own. It is started anew in every round, so one holds weights at a
time; then it answers a word (start-up: from the start of the process to its first token, imports included, files in
the page cache), a picture that warms it up, every input alone, and so many pictures at once. Rounds go forwards and
backwards through the contenders; figures are medians over rounds. --warm all asks every input twice and drops the
first, for engines that prepare themselves for each shape.

Protocols: "natural" leaves every model its own tokens for the same pixels; "aligned-lite" and "aligned-base" resize
pictures for the peers so that Qwen2-VL has about as many tokens for them as that NVILA has. Answers are equally long
everywhere. Memory is the most that was resident, mapped files counted: while loading, and from then on.

TTFT starts before preprocessing, with decoded pixels. Its split is our engine's own, and by hooks in transformers; the
other engines do not tell. "of roof" is the share of the tokens a second that reading weights and cache at the measured
bandwidth allows. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent / "engine_peers"))  # shared with peers that have no nvila

from ceilings import ceilings
from contenders import CONTENDERS, Contender, Places
from inputs import Job
from make_env import CACHE
from process import ContenderError, Process
from report import FAMILIES, Rows, add_ceilings, case_lines, median_of, serving_lines, targets

from nvila.eval.runner import processor_name
from nvila.utils.atomic import atomic_write_text

INPUTS = {
    "image": Job(kind="image", width=448, height=448),
    "page": Job(kind="image", width=1920, height=1080),
    "frames8": Job(kind="video", width=640, height=360, num_frames=8),
    "frames64": Job(kind="video", width=640, height=360, num_frames=64),
}
QUICK_SHRINK = 4
"""Sides are so much shorter at nano size."""

Found = dict[str, Any]


class Bench:
    """All rounds of all contenders; what they found is kept by contender, a list with an entry a round."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.places = Places(
            cache=options.cache, peers=options.peers, size=options.size, temporal_pool=options.temporal_pool
        )
        shrink = QUICK_SHRINK if options.size == "nano" else 1
        self.jobs = {
            name: replace(
                INPUTS[name],
                width=INPUTS[name].width // shrink,
                height=INPUTS[name].height // shrink,
                max_new_tokens=options.new_tokens,
            )
            for name in options.inputs
        }
        self.seed = 0
        self.media_tokens: dict[str, dict[str, int]] = defaultdict(dict)
        """By family and input: what peers align to."""
        self.not_run: dict[str, str] = {}
        self.rounds: dict[str, list[Found]] = defaultdict(list)

    def run(self) -> Rows:
        """Medians of all rounds."""
        for name in self.options.contenders:
            reason = self.places.prepare(name)
            if reason:
                self.not_run[name] = reason
                print(f"{name:18}not run: {reason}", flush=True)
        for number in range(self.options.rounds):
            names = [name for name in self.options.contenders if name not in self.not_run]
            for name in names if number % 2 == 0 else reversed(names):
                began = time.perf_counter()
                found = self.round_of(name)
                self.rounds[name].append(found)
                state = found.get("failed", "done")
                print(f"round {number + 1}, {name}: {state}, {time.perf_counter() - began:.0f} s", flush=True)
        return {name: self.medians(name) for name in self.options.contenders}

    def round_of(self, name: str) -> Found:
        """Start, warm, measure, end; what was measured before a failure is kept beside "failed"."""
        contender, python = CONTENDERS[name], self.places.python(name)
        assert python is not None
        script = Path(__file__).parent / "engine_peers" / contender.runner
        settings = {
            "folder": str(self.places.folder(contender)),
            "vision": contender.vision,
            "language": contender.language,
            "device": self.options.device,
            "threads": self.options.threads,
            "kv_gib": self.options.kv_gib,
        }
        log = self.options.cache / "logs" / f"{name.replace('/', '-')}.log"
        found: Found = {"cases": defaultdict(dict), "bursts": {}}
        try:
            with Process(python, script, settings, log, self.options.time_limit) as process:
                self.measure(process, contender, found)
        except ContenderError as error:
            found["failed"] = str(error)
        return found

    def measure(self, process: Process, contender: Contender, found: Found) -> None:
        found["load_s"] = process.ready()
        first = process.ask(Job(kind="text", max_new_tokens=1))
        found["startup_s"] = None if "failed" in first else time.perf_counter() - process.started_at
        found["load_peak_mb"] = process.peak_mb()
        process.forget_peak()
        process.ask(self.fresh(self.jobs[self.options.inputs[0]]))
        for name, job in self.jobs.items():
            for protocol, asked in self.protocols(contender, name, job).items():
                if self.options.warm == "all":
                    process.ask(self.fresh(asked))
                case = process.ask(self.fresh(asked))
                found["cases"][name][protocol] = case
                if contender.state in ("compressed", "quantised") and "failed" not in case:
                    self.media_tokens[contender.family][name] = case["num_media_tokens"]
        small = replace(self.jobs[self.options.inputs[0]], max_new_tokens=self.options.burst_tokens)
        for count in self.options.concurrency:
            burst = process.ask(*(self.fresh(small) for _ in range(count)), together=True)
            if "failed" not in burst:
                burst["requests_per_s"] = count / burst["seconds"]
            found["bursts"][str(count)] = burst
        found["serve_peak_mb"] = process.peak_mb()

    def protocols(self, contender: Contender, name: str, job: Job) -> dict[str, Job]:
        """How the contender is asked about an input; families whose tokens are not known yet align nobody."""
        asked = {"natural": job}
        if not contender.is_ours:
            for family in FAMILIES:
                if name in self.media_tokens[family]:
                    asked[f"aligned-{family}"] = replace(job, aligned_tokens=self.media_tokens[family][name])
        return {protocol: one for protocol, one in asked.items() if protocol.split("-")[0] in self.options.protocols}

    def fresh(self, job: Job) -> Job:
        """The job with pixels that nobody has seen."""
        self.seed += 1
        return replace(job, seed=self.seed)

    def medians(self, name: str) -> Found:
        """Over the rounds; a contender that never started was not run."""
        if name in self.not_run:
            return {"not_run": self.not_run[name]}
        rounds = self.rounds[name]
        if not any(found["cases"] for found in rounds):
            return {"not_run": next((found["failed"] for found in rounds if "failed" in found), "nothing was asked")}
        protocols = {
            case: sorted({p for found in rounds for p in found["cases"].get(case, {})}, reverse=True)
            for case in self.jobs
        }
        cases = {
            case: {p: median_of([f["cases"][case][p] for f in rounds if p in f["cases"].get(case, {})]) for p in names}
            for case, names in protocols.items()
        }
        bursts = {
            str(count): median_of([f["bursts"][str(count)] for f in rounds if str(count) in f["bursts"]])
            for count in self.options.concurrency
        }
        keys = ("startup_s", "load_s", "load_peak_mb", "serve_peak_mb")
        rest = {key: median_of([{key: found[key]} for found in rounds if found.get(key)]).get(key) for key in keys}
        failures = [found["failed"] for found in rounds if "failed" in found]
        return {"cases": cases, "bursts": bursts, **rest, "failures": failures}


def heading(options: argparse.Namespace) -> Found:
    """The machine's ceilings, and what else a figure needs."""
    device = torch.device(options.device)
    small = options.size == "nano"
    found = ceilings(device, megabytes=16 if small else 1024, side=512 if small else 2048, seconds=0.1 if small else 2)
    print(
        f"ceilings: {found['read_bytes_per_s'] / 1e9:.1f} GB/s read, "
        f"{found['bf16_flop_per_s'] / 1e9:,.0f} GFLOP/s bf16, {found['int8_op_per_s'] / 1e9:,.0f} GOP/s int8"
    )
    return {
        "benchmark": "engine",
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "device": options.device,
        "cpus": os.cpu_count(),
        "threads": options.threads,
        "size": options.size,
        "rounds": options.rounds,
        "new_tokens": options.new_tokens,
        "burst_tokens": options.burst_tokens,
        "temporal_pool": options.temporal_pool,
        "warm": options.warm,
        "versions": {name: version(name) for name in ("nvila", "torch", "transformers")},
        "date": date.today().isoformat(),
        "seed": 0,
        "ceilings": found,
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="nano size, one round, our own engine: to see that it runs"
    )
    parser.add_argument("--size", choices=("2b", "8b", "nano"))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS)
    parser.add_argument("--inputs", nargs="+", choices=INPUTS)
    parser.add_argument("--protocols", nargs="+", choices=("natural", "aligned"), default=["natural", "aligned"])
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--new-tokens", type=int, default=32, help="of every answer")
    parser.add_argument("--concurrency", nargs="*", type=int, help="requests at once, about the first of --inputs")
    parser.add_argument("--burst-tokens", type=int, default=16, help="of an answer among several")
    parser.add_argument("--warm", choices=("first", "all"), default="first", help="inputs that are asked once before")
    parser.add_argument(
        "--temporal-pool", type=int, default=4, help="frames that become one where compressed (Table 2)"
    )
    parser.add_argument("--kv-gib", type=int, default=1, help="KV cache of engines that take a size")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of ours and of transformers")
    parser.add_argument("--time-limit", type=float, default=1800.0, help="seconds that one answer may take")
    parser.add_argument("--cache", type=Path, default=CACHE / "bench_engine", help="folder of checkpoints and logs")
    parser.add_argument("--peers", type=Path, default=CACHE / "peers", help="folder of environments (make_env.py)")
    parser.add_argument("--out", type=Path, help="file that the JSON is written to, after the tables")
    options = parser.parse_args(arguments)
    options.size = options.size or ("nano" if options.quick else "2b")
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.inputs = options.inputs or (["image", "frames8"] if options.quick else list(INPUTS))
    ours = [name for name, contender in CONTENDERS.items() if contender.family == "lite"]
    options.contenders = options.contenders or (ours if options.quick else list(CONTENDERS))
    if options.concurrency is None:
        options.concurrency = [1, 2] if options.quick else [1, 4, 16]
    options.cache, options.peers = (folder.expanduser().resolve() for folder in (options.cache, options.peers))
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    report = heading(options)
    rows = Bench(options).run()
    add_ceilings(rows, report["ceilings"])
    found = targets(rows, on_gpu=options.device == "cuda")
    print("\n".join(case_lines(rows, options.inputs)))
    print("\n".join(serving_lines(rows, options.concurrency)))
    if options.size == "nano":
        print("\nnano: it runs; the targets are for 2b, and what they say here means nothing")
    print("\n" + "\n".join(target.line() for target in found))
    report |= {"rows": rows, "targets": [target.plain() for target in found]}
    if options.out:
        atomic_write_text(options.out, json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
