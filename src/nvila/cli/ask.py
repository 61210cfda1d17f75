"""`nvila ask`: a question about images and videos, and its answer on standard output with nothing else there.

Options are checked first, then media are read, then the model is loaded: what is wrong is said as early as can be.
The steps themselves are in `answering`; here are the command, the terminal, and the conversation of `--interactive`.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

import typer

from nvila.cli import answering
from nvila.cli.answering import STDIN, Answer, AskSettings
from nvila.errors import MediaError, NVILAError, PromptError, nearest
from nvila.utils import progress

if TYPE_CHECKING:
    from nvila.engine import Engine

COMMANDS = {
    "/image": "/image PATH adds an image to your next question",
    "/video": "/video PATH adds a video to your next question",
    "/reset": "/reset forgets the conversation",
    "/quit": "/quit, or Ctrl-D, leaves",
}


def ask(
    prompt: str | None = typer.Argument(None, help="The question. With --interactive it may be left out."),
    model: str = typer.Option(AskSettings.model, "--model", help="nvila-mini, a checkpoint folder, or a hub id."),
    adapter: str | None = typer.Option(
        AskSettings.adapter, "--adapter", help="What `nvila finetune` made of that model: the folder OUT/adapter."
    ),
    image: list[str] = typer.Option([], "--image", help="Image: a file, a URL, or - for standard input. Repeatable."),
    video: list[str] = typer.Option([], "--video", help="Video: a file, a folder of frames, or a URL. Repeatable."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object: text, token counts, times."),
    num_frames: int | None = typer.Option(
        AskSettings.num_frames, "--num-frames", help="Frames taken from each video; the checkpoint's number by default."
    ),
    max_tiles: int | None = typer.Option(
        AskSettings.max_tiles, "--max-tiles", help="Most tiles of each image; by default one image alone is tiled."
    ),
    max_new_tokens: int = typer.Option(
        AskSettings.max_new_tokens, "--max-new-tokens", help="Most tokens of the answer."
    ),
    system: str | None = typer.Option(AskSettings.system, "--system", help="System prompt, in place of the usual one."),
    interactive: bool = typer.Option(False, "--interactive", help="Hold a conversation; /quit or Ctrl-D leaves."),
    device: str = typer.Option(AskSettings.device, "--device", help="auto, cpu, cuda or cuda:N."),
    dtype: str = typer.Option(AskSettings.dtype, "--dtype", help="auto, bfloat16, float16 or float32."),
    vision: str | None = typer.Option(
        AskSettings.vision, "--vision", help="Number format of the vision tower: w8a8. By default the checkpoint's own."
    ),
    language: str | None = typer.Option(
        AskSettings.language, "--language", help="Number format of the decoder: w4a16. By default the checkpoint's own."
    ),
    allow_private_urls: bool = typer.Option(
        AskSettings.allow_private_urls, "--allow-private-urls", help="Fetch URLs that lead to private addresses too."
    ),
    url_timeout: float = typer.Option(AskSettings.url_timeout_s, "--url-timeout", help="Seconds for one download."),
) -> None:
    """Ask about images and videos, and print the answer."""
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # it reports damage to standard error, and raises besides
    settings = AskSettings(
        model=model,
        adapter=adapter,
        num_frames=num_frames,
        max_tiles=max_tiles,
        max_new_tokens=max_new_tokens,
        system=system,
        device=device,
        dtype=dtype,
        vision=vision,
        language=language,
        allow_private_urls=allow_private_urls,
        url_timeout_s=url_timeout,
    )
    if prompt is None and not interactive:
        raise PromptError("there is no prompt; write a question, or hold a conversation with --interactive")
    if prompt is not None:
        answering.check_prompt(prompt)
    stdin = _stdin_for(image, video, interactive)
    chat = open_chat(settings, image, video, stdin)
    say = _print_json if as_json else _print_text
    if prompt is not None:
        say(chat, prompt)
    if interactive:
        converse(chat, say, sys.stdin)


@dataclass(kw_only=True)
class Chat:
    """A conversation under way: the turns so far, and media that wait for the next question."""

    settings: AskSettings
    engine: Engine
    messages: list[dict[str, Any]]
    waiting: list[dict[str, Any]] = field(default_factory=list)

    def add_image(self, source: str) -> None:
        """Read an image for the next question. Raises MediaError."""
        self.waiting += answering.read_images([source], policy=self.settings.policy)

    def add_video(self, source: str) -> None:
        """Read a video for the next question. Raises MediaError."""
        self.waiting += answering.read_videos(
            [source], processor=self.engine.processor, num_frames=self.settings.num_frames, policy=self.settings.policy
        )

    def reset(self) -> None:
        """Forget everything but the system prompt."""
        self.messages = answering.system_messages(self.settings.system)
        self.waiting = []

    def answer(self, prompt: str, on_text: Callable[[str], None]) -> Answer:
        """Answer the next question; a question that fails leaves the conversation as it was."""
        turn = answering.user_message(prompt, self.waiting)
        answer = answering.generate_answer(
            [*self.messages, turn], engine=self.engine, settings=self.settings, on_text=on_text
        )
        self.messages += [turn, {"role": "assistant", "content": answer.text}]
        self.waiting = []
        return answer


def open_chat(settings: AskSettings, images: list[str], videos: list[str], stdin: BinaryIO | None) -> Chat:
    """A conversation whose first question has these media; loads them and the model. Raises NVILAError's children."""
    with progress.status("starting, reading images") as line:
        parts = answering.read_images(images, policy=settings.policy, stdin=stdin)
        line.update("loading the processor")
        processor = answering.load_processor(settings)
        line.update("reading videos")
        parts += answering.read_videos(
            videos, processor=processor, num_frames=settings.num_frames, policy=settings.policy
        )
        messages = answering.system_messages(settings.system)
        line.update("loading the model")
        engine = answering.load_engine(settings, processor)
    return Chat(settings=settings, engine=engine, messages=messages, waiting=parts)


def converse(chat: Chat, say: Callable[[Chat, str], None], lines: TextIO) -> None:
    """Questions line by line until /quit or the end of `lines`; an error costs its question, not the conversation."""
    _note("ask away; " + "; ".join(COMMANDS.values()))
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        try:
            line = lines.readline()
            if not line or line.strip() == "/quit":
                return
            if line.strip():
                _take_line(chat, say, line.strip())
        except NVILAError as error:
            _note(f"error: {' '.join(str(error).split())}")
        except KeyboardInterrupt:
            _note("interrupted; /quit leaves")


def _take_line(chat: Chat, say: Callable[[Chat, str], None], line: str) -> None:
    command, _, argument = line.partition(" ")
    if not command.startswith("/"):
        say(chat, line)
    elif command == "/reset":
        chat.reset()
    elif command in ("/image", "/video") and argument.strip():
        add = chat.add_image if command == "/image" else chat.add_video
        add(argument.strip())
    else:
        known = "; ".join(COMMANDS.values())
        raise PromptError(f"{command} is no complete command{nearest(command, COMMANDS)}; {known}")


def _print_text(chat: Chat, prompt: str) -> None:
    """Print the answer: piece by piece on a terminal, and otherwise at once when it is whole."""
    is_terminal = sys.stdout.isatty()
    with ExitStack() as until_first_text:
        until_first_text.enter_context(progress.status("looking"))

        def show(piece: str) -> None:
            if is_terminal:
                until_first_text.close()
                print(_harmless(piece), end="", flush=True)

        answer = chat.answer(prompt, show)
    print("" if is_terminal else answer.text, flush=True)


def _print_json(chat: Chat, prompt: str) -> None:
    with progress.status("looking"):
        answer = chat.answer(prompt, lambda _: None)
    print(json.dumps(asdict(answer), ensure_ascii=False), flush=True)


def _harmless(text: str) -> str:
    """`text` without control characters: what a model writes must not steer a terminal."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


def _stdin_for(images: list[str], videos: list[str], interactive: bool) -> BinaryIO | None:
    """Standard input, if one image is to be read from it. Raises MediaError where it cannot be."""
    if STDIN in videos:
        raise MediaError("a video cannot be read from standard input (-); give a file, a folder of frames, or a URL")
    count = images.count(STDIN)
    if count == 0:
        return None
    if count > 1:
        raise MediaError(f"standard input (-) is given for {count} images, and holds 1; give the others as files")
    if interactive:
        raise MediaError("standard input (-) cannot be an image and the conversation; give the image as a file")
    if sys.stdin.isatty():
        raise MediaError("standard input (-) is a terminal, not an image; pipe one: nvila ask --image - ... < a.png")
    return sys.stdin.buffer


def _note(text: str) -> None:
    print(f"nvila: {text}", file=sys.stderr)
