"""What `nvila finetune` is asked for, with the paper's recommendation as the default.

Paper, section 2.3 and Table 5: LoRA or QLoRA on the decoder, the layer norms alone on the vision tower, and a learning
rate for the tower that is 5 to 50 times smaller than the decoder's. Rank, rate and batch are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nvila.errors import ConfigError

TooLong = Literal["error", "drop", "truncate"]
ADAPTER_RATE = 1e-4
FULL_RATE = 2e-5
MAX_TOKENS = 4096


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """One fine-tuning. Raises ConfigError for values out of range or that contradict each other."""

    data: str
    """A data set in any format, or a mixture (.toml)."""
    model: str = "nvila-mini"
    format: str | None = None
    media_root: str | None = None
    vision: Literal["ln", "lora", "full", "frozen"] = "ln"
    language: Literal["lora", "qlora", "full", "frozen"] = "lora"
    projector: Literal["full", "frozen"] = "full"
    lr: float | None = None
    """Of the decoder and the projector; None: 1e-4, or 2e-5 where the whole decoder learns."""
    lr_ratio: float = 10.0
    """The decoder's rate over the vision tower's."""
    rank: int = 16
    epochs: float = 1.0
    batch: int = 16
    """Samples of an optimiser step."""
    max_tokens: int | None = None
    """Most tokens of a sample; None: what the model takes, at most 4096."""
    max_tiles: int | None = None
    """Most tiles of a picture, in training and afterwards; None keeps the checkpoint's number."""
    packing: bool = True
    too_long: TooLong = "error"
    eval: str | None = None
    """A held-out data set."""
    eval_every: int = 0
    """Steps between held-out scores; 0: a fifth of the training."""
    eval_samples: int = 256
    best_by: Literal["exact", "loss"] = "exact"
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.vision, self.language, self.projector) == ("frozen", "frozen", "frozen"):
            raise ConfigError("vision, language and projector are all frozen; nothing would be learned, train one")
        for name in ("rank", "batch", "eval_samples", "max_tokens", "max_tiles"):
            value = vars(self)[name]
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}; give a whole number from 1")
        for name in ("lr", "lr_ratio", "epochs"):
            value = vars(self)[name]
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"--{name.replace('_', '-')} is {value:g}; give a number above 0")
        if self.eval_every < 0:
            raise ConfigError(f"--eval-every is {self.eval_every}; give a number of steps, or 0 for a fifth of them")

    @property
    def train(self) -> tuple[Literal["vision", "projector", "llm"], ...]:
        """Parts that learn, as a stage names them."""
        methods = {"vision": self.vision, "projector": self.projector, "llm": self.language}
        return tuple(part for part, method in methods.items() if method != "frozen")  # type: ignore[misc]

    @property
    def rate(self) -> float:
        """The decoder's learning rate."""
        if self.lr is not None:
            return self.lr
        return FULL_RATE if self.language == "full" else ADAPTER_RATE


def parse_ratios(text: str) -> tuple[float, ...]:
    """ "1,5,10,50" as numbers, each once and above 0. Raises ConfigError."""
    try:
        ratios = tuple(dict.fromkeys(float(item) for item in text.split(",") if item.strip()))
    except ValueError as error:
        raise ConfigError(
            f"--sweep-lr-ratio is {text!r}; give numbers with commas between, such as 1,5,10,50"
        ) from error
    if not ratios or not all(0 < ratio < float("inf") for ratio in ratios):
        raise ConfigError(f"--sweep-lr-ratio is {text!r}; give numbers above 0, such as 1,5,10,50")
    return ratios
