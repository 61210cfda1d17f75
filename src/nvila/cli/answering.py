"""From a question and its media to an answer with its numbers: what `nvila ask` does between reading and printing.

Free functions in the order of a request: load the model into an engine, read media, generate. Greedy decoding only.
torch and transformers are imported inside, so that the command's help comes without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from nvila.errors import ConfigError, NVILAError, PromptError

if TYPE_CHECKING:
    import torch

    from nvila.engine import Engine
    from nvila.processing.policy import MediaPolicy

STDIN = "-"
MAX_TILES = 256


@dataclass(frozen=True, kw_only=True)
class AskSettings:
    """How a question is asked. Raises ConfigError for counts out of range."""

    model: str = "nvila-mini"
    adapter: str | None = None
    """A folder that `nvila finetune` wrote for that model."""
    num_frames: int | None = None
    """Frames taken from each video; None takes the checkpoint's number."""
    max_tiles: int | None = None
    """Most tiles of each image; None follows the checkpoint, which tiles an image that comes alone."""
    max_new_tokens: int = 128
    system: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    vision: str | None = None
    """Number format of the vision tower, "w8a8"; None leaves it as the checkpoint has it."""
    language: str | None = None
    """Number format of the decoder, "w4a16"; None leaves it as the checkpoint has it."""
    allow_private_urls: bool = False
    url_timeout_s: float = 20.0

    def __post_init__(self) -> None:
        counts = {"num-frames": self.num_frames, "max-tiles": self.max_tiles, "max-new-tokens": self.max_new_tokens}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ConfigError(f"--{name} is {count}; give a whole number from 1")
        if not 0 < self.url_timeout_s < float("inf"):
            raise ConfigError(f"--url-timeout is {self.url_timeout_s:g}; give a number of seconds above 0")
        if self.max_tiles is not None and self.max_tiles > MAX_TILES:
            raise ConfigError(f"--max-tiles is {self.max_tiles}, over the limit of {MAX_TILES}; give fewer")
        if self.vision is not None or self.language is not None:
            from nvila.engine.round import check_formats

            check_formats(self.vision, self.language)

    @property
    def policy(self) -> MediaPolicy:
        """The limits on media that these settings stand for."""
        from nvila.processing.policy import MediaPolicy

        return MediaPolicy(allow_private_addresses=self.allow_private_urls, timeout_s=self.url_timeout_s)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer, how many tokens went in and out, and how long it took."""

    text: str
    num_prompt_tokens: int
    num_image_tokens: int
    """Those of the prompt's tokens that stand for pixels, of images and of videos."""
    num_generated_tokens: int
    """With the token that ends the answer, where it came to its end."""
    ttft_s: float
    """Seconds from the decoded media to the first token: tiling, vision encoding, prefill."""
    tokens_per_s: float | None
    """Decoding speed after the first token; None for a single token."""


def load_processor(settings: AskSettings) -> Any:
    """The checkpoint's NVILAProcessor. Raises CheckpointError or ConfigError."""
    from nvila.processing import NVILAProcessor

    if settings.adapter is None:
        return NVILAProcessor.from_pretrained(settings.model)
    from nvila.adapters.export import load_processor as load_adapted
    from nvila.adapters.store import check_base, read_card

    card = read_card(Path(settings.adapter))
    check_base(card, Path(settings.adapter), settings.model)
    return load_adapted(settings.model, card)


def load_model(settings: AskSettings) -> Any:
    """The checkpoint's model on its device, in evaluation mode. Raises CheckpointError or ConfigError."""
    from nvila.model import NVILAForConditionalGeneration
    from nvila.utils.device import choose_device, choose_dtype

    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    with _memory_errors_named(device):
        if settings.adapter is None:
            return NVILAForConditionalGeneration.from_pretrained(settings.model, dtype=dtype).to(device).eval()
        from nvila.adapters.merge import attach_saved, merge_in_place

        # In the dtype of its own, so that the adapter meets the numbers that it was trained beside.
        model = NVILAForConditionalGeneration.from_pretrained(settings.model, dtype="auto")
        attach_saved(model, Path(settings.adapter))
        merge_in_place(model, dtype)
        return model.to(device).eval()


def load_engine(settings: AskSettings, processor: Any) -> Engine:
    """An engine for one question at a time. Raises CheckpointError or ConfigError."""
    from nvila.engine import Engine, EngineConfig
    from nvila.engine.round import round_in_place

    model = load_model(settings)
    with _memory_errors_named(model.device):
        round_in_place(model, vision=settings.vision, language=settings.language)
        return Engine(model, processor, EngineConfig(max_running=1))


def read_images(sources: Sequence[str], *, policy: MediaPolicy, stdin: BinaryIO | None = None) -> list[dict[str, Any]]:
    """Content parts of the images at `sources` (paths, URLs, "-" for `stdin`), upright and decoded.

    Raises MediaError.
    """
    from nvila.processing.media import load_image

    parts = []
    for source in sources:
        if source == STDIN and stdin is not None:
            image = load_image(stdin, exif_transpose=True, policy=policy, name="standard input")
        else:
            image = load_image(source, exif_transpose=True, policy=policy)
        parts.append({"type": "image", "image": image})
    return parts


def read_videos(
    sources: Sequence[str], *, processor: Any, num_frames: int | None, policy: MediaPolicy
) -> list[dict[str, Any]]:
    """Content parts of the videos at `sources` (files, folders of frames, URLs), sampled and decoded.

    Raises MediaError.
    """
    from nvila.processing.media import load_video

    defaults = processor.video_processor
    count, fps = (num_frames, None) if num_frames else (defaults.num_frames, defaults.fps)
    parts = []
    for source in sources:
        frames = load_video(source, num_frames=count, fps=fps, exif_transpose=True, policy=policy)
        parts.append({"type": "video", "video": frames, "num_frames": len(frames)})
    return parts


def check_prompt(prompt: str) -> str:
    """`prompt`, if it says something in Unicode. Raises PromptError."""
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(f"the prompt is no valid UTF-8 at character {error.start}; correct its encoding") from error
    if not prompt.strip():
        raise PromptError("the prompt is empty; write a question")
    return prompt


def user_message(prompt: str, media: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A user's turn: the media in their order, then the question. Raises PromptError for an empty question."""
    return {"role": "user", "content": [*media, {"type": "text", "text": check_prompt(prompt)}]}


def system_messages(system: str | None) -> list[dict[str, Any]]:
    """The start of a conversation: an explicit system prompt takes the place of the template's own."""
    return [] if system is None else [{"role": "system", "content": check_prompt(system)}]


def generate_answer(
    messages: Sequence[dict[str, Any]], *, engine: Engine, settings: AskSettings, on_text: Callable[[str], None]
) -> Answer:
    """The greedy answer to a conversation; `on_text` gets each piece of it as soon as its characters are whole.

    Raises PromptError for a conversation that is malformed or too long.
    """
    from nvila.engine import SamplingParams

    with _memory_errors_named(engine.model.device):
        handle = engine.submit(
            list(messages),
            SamplingParams(max_new_tokens=settings.max_new_tokens),
            template_options={"max_tiles": settings.max_tiles, "exif_transpose": True},
        )
        for piece in handle.pieces():
            on_text(piece)
    completion = handle.result()
    ttft_s, speed = completion.ttft_s, completion.tokens_per_s
    assert ttft_s is not None
    return Answer(
        text=completion.text,
        num_prompt_tokens=completion.num_prompt_tokens,
        num_image_tokens=completion.num_media_tokens,
        num_generated_tokens=len(completion.token_ids),
        ttft_s=round(ttft_s, 4),
        tokens_per_s=None if speed is None else round(speed, 2),
    )


@contextmanager
def _memory_errors_named(device: torch.device) -> Iterator[None]:
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise NVILAError(
            f"{device} is out of memory ({str(error).splitlines()[0]}); lower --max-tiles or --num-frames, "
            "or use --device cpu"
        ) from error
