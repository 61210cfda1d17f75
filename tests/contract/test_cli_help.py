"""What each verb's help promises: it comes fast, without torch, and lists the documented arguments and options."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from nvila.cli.main import VERBS, main

DOCUMENTED: dict[tuple[str, ...], set[str]] = {
    ("ask",): {
        "--model",
        "--adapter",
        "--image",
        "--video",
        "--json",
        "--num-frames",
        "--max-tiles",
        "--max-new-tokens",
        "--system",
        "--interactive",
        "--device",
        "--dtype",
        "--allow-private-urls",
    },
    ("convert",): {"--layout"},
    ("train",): {"--set"},
    ("finetune",): {
        "--model",
        "--out",
        "--vision",
        "--language",
        "--projector",
        "--lr",
        "--lr-ratio",
        "--rank",
        "--epochs",
        "--batch",
        "--max-tiles",
        "--max-tokens",
        "--too-long",
        "--packing",
        "--no-packing",
        "--eval",
        "--sweep-lr-ratio",
        "--set",
        "--plan",
        "--force",
        "--merge",
        "--layout",
    },
    ("quantize",): {"--vision", "--language", "--head", "--calib", "--out", "--activations"},
    ("eval",): {"--model"},
    ("prune",): set(),
    ("prune", "score"): {
        "--large",
        "--small",
        "--model",
        "--criterion",
        "--out",
        "--format",
        "--media-root",
        "--batch-tokens",
        "--dtype",
        "--device",
        "--shard",
        "--ray",
    },
    ("prune", "select"): {"--method", "--keep", "--source", "--out", "--unscored"},
    ("prune", "report"): {"--out", "--examples"},
    ("data",): set(),
    ("data", "assets"): set(),
    ("data", "check"): {"--format", "--media-root", "--workers", "--max-tokens", "--report"},
    ("data", "fetch"): {"--families", "--dest", "--list", "--again"},
    ("data", "build"): {"--out", "--scale", "--workers", "--seed", "--split", "--families", "--material"},
    ("data", "show"): {"--out", "--num", "--seed"},
    ("data", "stats"): {"--json", "--plot"},
}


def help_of(verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*verb, "--help"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out


def test_every_verb_is_documented_here() -> None:
    assert {verb[0] for verb in DOCUMENTED} == {verb.name for verb in VERBS}


@pytest.mark.parametrize("verb", sorted(DOCUMENTED), ids=" ".join)
def test_help_lists_the_documented_options(verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of(verb, capsys)
    assert f"Usage: nvila {' '.join(verb)}" in " ".join(shown.split())
    options = set(re.findall(r"--[a-z][a-z-]*", shown))
    assert options >= DOCUMENTED[verb] | {"--help"}


@pytest.mark.parametrize("verb", sorted(DOCUMENTED), ids=" ".join)
def test_every_option_says_what_it_does(verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of(verb, capsys)
    _, _, options = shown.partition("Options:\n")
    bare = [line.strip() for line in options.splitlines() if re.fullmatch(r"  -\S+( [A-Z<\[]\S*)?", line)]
    following = dict(zip(options.splitlines(), options.splitlines()[1:], strict=False))
    assert [line for line in bare if not following.get(f"  {line}", "").startswith("    ")] == []


def test_arguments_of_convert(capsys: pytest.CaptureFixture[str]) -> None:
    usage = " ".join(help_of(("convert",), capsys).partition("Options:")[0].split())
    assert re.search(r"\bSRC\W+DST\b|\bSOURCE\W+(DESTINATION|TARGET)\b", usage.upper())


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS])
def test_help_of_a_verb_imports_no_torch(verb: str) -> None:
    program = (
        f"import sys; from nvila.cli.main import main; status = main([{verb!r}, '--help']); "
        "sys.exit(status or ('torch' in sys.modules and 3) or ('transformers' in sys.modules and 4))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
