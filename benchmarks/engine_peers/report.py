"""Medians of what was measured, the tables, and the targets. Reads and writes plain dictionaries alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Rows = dict[str, dict[str, Any]]
"""By contender: "not_run" with a reason, or "cases" (by input, then protocol), "startup_s", "requests_per_s" ..."""

PEERS = ("transformers", "vllm", "openvino")
INT4_PEERS = ("openvino",)
FAMILIES = ("lite", "base")
SPLIT = ("preprocessing_s", "vision_s", "projector_s", "prefill_s")
TTFT_TARGETS = {"image": 1.6, "page": 2.2, "frames8": 2.2, "frames64": 2.2}


def median_of(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The medians of all numbers; where every round failed, the last reason under "failed"."""
    good = [result for result in results if "failed" not in result]
    if not good:
        return {"failed": results[-1]["failed"] if results else "not reached"}
    found: dict[str, Any] = {}
    for key in good[0]:
        values = [result[key] for result in good if result[key] is not None]
        numbers = all(isinstance(value, int | float) for value in values)
        found[key] = (statistics.median(values) if numbers else values[-1]) if values else None
    return found


def add_ceilings(rows: Rows, ceilings: dict[str, float]) -> None:
    """What memory and arithmetic allow at best, beside our own cases: `decode_share` of the tokens a second that
    reading the weights and the cache allows, and `floor_s`, the tower at the int8 rate and the prompt at the bf16 one.
    """
    fastest = max(ceilings["int8_op_per_s"], ceilings["bf16_flop_per_s"])
    for _, case in cases_of(rows):
        if "decode_bytes" not in case:
            continue
        case["floor_s"] = case["vision_flop"] / fastest + case["prefill_flop"] / ceilings["bf16_flop_per_s"]
        if case["decode_tokens_per_s"] is not None:
            most = ceilings["read_bytes_per_s"] / case["decode_bytes"]
            case["decode_share"] = case["decode_tokens_per_s"] / most


def cases_of(rows: Rows) -> Iterator[tuple[str, dict[str, Any]]]:
    """Contender and numbers of every case that was measured."""
    for name, row in rows.items():
        for by_protocol in row.get("cases", {}).values():
            for case in by_protocol.values():
                if "failed" not in case:
                    yield name, case


def case_lines(rows: Rows, inputs: Sequence[str]) -> list[str]:
    """A table an input: tokens, the time to the first token and its split, decoding."""
    head = (
        f"{'':18}{'protocol':15}{'media':>6}{'prompt':>7}{'TTFT s':>9}{'prepare':>9}{'vision':>9}{'project':>9}"
        f"{'prefill':>9}{'tokens/s':>10}{'of roof':>9}"
    )
    lines = []
    for name in inputs:
        lines += ["", name, head]
        for contender, row in rows.items():
            if "not_run" in row:
                lines.append(f"{contender:18}not run: {row['not_run']}")
                continue
            for protocol, case in row["cases"].get(name, {}).items():
                lines.append(f"{contender:18}{protocol:15}{_numbers(case)}")
    return lines


def _numbers(case: dict[str, Any]) -> str:
    if "failed" in case:
        return f"failed: {case['failed']}"
    seconds = "".join(_cell(case.get(key), "9.3f") for key in ("ttft_s", *SPLIT))
    speed = _cell(case.get("decode_tokens_per_s"), "10.2f") + _cell(case.get("decode_share"), "9.1%")
    return f"{case['num_media_tokens']:6.0f}{case['num_prompt_tokens']:7.0f}{seconds}{speed}"


def serving_lines(rows: Rows, concurrency: Sequence[int]) -> list[str]:
    """Start-up, memory, and requests a second."""
    lines = ["", f"{'':18}{'start s':>9}{'load s':>9}{'load MB':>9}{'serve MB':>9}" + "".join(
        f"{f'{count} at once':>12}" for count in concurrency
    ) + "   requests/s"]  # fmt: skip
    for name, row in rows.items():
        if "not_run" in row:
            lines.append(f"{name:18}not run: {row['not_run']}")
            continue
        cells = [_cell(row["startup_s"], "9.2f"), _cell(row["load_s"], "9.2f")]
        cells += [_cell(row["load_peak_mb"], "9.0f"), _cell(row["serve_peak_mb"], "9.0f")]
        bursts = [row["bursts"].get(str(count), {}) for count in concurrency]
        cells += [_cell(burst.get("requests_per_s"), "12.3f") for burst in bursts]
        hows = {burst["how"] for burst in bursts if "how" in burst}
        lines.append(f"{name:18}{''.join(cells)}   {', '.join(sorted(hows))}")
    return lines


def _cell(value: float | None, form: str) -> str:
    width = int(form.split(".")[0])
    return f"{'-':>{width}}" if value is None else f"{value:{form}}"


@dataclass(frozen=True, kw_only=True)
class Target:
    """One demand. `found` is None where what it compares was not measured."""

    name: str
    wanted: float
    found: float | None
    is_most: bool = False
    """Whether `wanted` is the most that `found` may be."""

    @property
    def state(self) -> str:
        if self.found is None:
            return "not run"
        return "met" if (self.found <= self.wanted if self.is_most else self.found >= self.wanted) else "not met"

    def line(self) -> str:
        sign, found = "<=" if self.is_most else ">=", "-" if self.found is None else f"{self.found:.3g}"
        return f"{self.state:8} {self.name}: {found} (wanted {sign} {self.wanted:g})"

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "state": self.state}


def targets(rows: Rows, *, on_gpu: bool) -> list[Target]:
    """All targets for each family that took part; ratios are how many times faster ours is."""
    families = [family for family in FAMILIES if any(name.startswith(f"{family}/") for name in rows)]
    return [target for family in families for target in _family_targets(rows, family, on_gpu=on_gpu)]


def _family_targets(rows: Rows, family: str, *, on_gpu: bool) -> list[Target]:
    ours = f"{family}/all"
    found = []
    for name, wanted in TTFT_TARGETS.items():
        for protocol in ("natural", f"aligned-{family}"):
            best = _least(_value(rows, peer, name, protocol, "ttft_s") for peer in PEERS)
            ratio = _ratio(best, _value(rows, ours, name, "natural", "ttft_s"))
            found.append(
                Target(name=f"{family}: TTFT on {name}, {protocol}, best peer / ours", wanted=wanted, found=ratio)
            )
    found += _decode_targets(rows, family, on_gpu=on_gpu)
    vision = [_value(rows, f"{family}/{row}", "page", "natural", "vision_s") for row in ("compressed", "w8a8")]
    found.append(Target(name=f"{family}: tower on page, bf16 / W8A8", wanted=1.3, found=_ratio(*vision)))
    shares = [
        _ratio(_value(rows, ours, name, "natural", "preprocessing_s"), _value(rows, ours, name, "natural", "ttft_s"))
        for name in TTFT_TARGETS
    ]
    most = max((share for share in shares if share is not None), default=None)
    found.append(Target(name=f"{family}: preprocessing / TTFT, largest", wanted=0.1, found=most, is_most=True))
    best = _least(rows.get(peer, {}).get("startup_s") for peer in PEERS)
    start = _ratio(rows.get(ours, {}).get("startup_s"), best)
    found.append(
        Target(name=f"{family}: start to first token, ours / best peer", wanted=1.0, found=start, is_most=True)
    )
    if on_gpu:
        for name in TTFT_TARGETS:
            times = [_value(rows, ours, name, "natural", key) for key in ("ttft_s", "floor_s")]
            found.append(
                Target(name=f"{family}: TTFT on {name} / floor", wanted=1.6, found=_ratio(*times), is_most=True)
            )
    return found


def _decode_targets(rows: Rows, family: str, *, on_gpu: bool) -> list[Target]:
    """On the small image, where the prompt is shortest."""
    ours, key = f"{family}/all", "decode_tokens_per_s"
    speed = _value(rows, ours, "image", "natural", key)
    int4 = [rate for peer in INT4_PEERS if (rate := _value(rows, peer, "image", "natural", key)) is not None]
    plain = _value(rows, "transformers", "image", "natural", key)
    share = _value(rows, ours, "image", "natural", "decode_share")
    overhead = _value(rows, ours, "image", "natural", "overhead_share")
    return [
        Target(name=f"{family}: decoding, ours / transformers", wanted=2.8, found=_ratio(speed, plain)),
        Target(
            name=f"{family}: decoding, ours / best INT4 peer", wanted=1.15, found=_ratio(speed, max(int4, default=None))
        ),
        Target(name=f"{family}: decoding, share of the roof", wanted=0.7 if on_gpu else 0.75, found=share),
        Target(name=f"{family}: overhead of a decoding step", wanted=0.03, found=overhead, is_most=True),
    ]


def _value(rows: Rows, contender: str, name: str, protocol: str, key: str) -> float | None:
    value: float | None = rows.get(contender, {}).get("cases", {}).get(name, {}).get(protocol, {}).get(key)
    return value


def _least(values: Iterator[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None
