"""A fine-tuning from its options to an adapter: look at the data, plan, refuse or train, score, save.

Nothing is loaded before data, memory and disk were looked at. The same command goes on with a run that stopped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from safetensors import SafetensorError

from nvila import config as config_files
from nvila.adapters.store import Card, fingerprint, save_adapter
from nvila.data.encode import EncodeOptions
from nvila.data.mixture import Mixture, MixtureConfig, data_config
from nvila.data.text_pairs import TextAndChatEncoder
from nvila.errors import ConfigError, DataError, NVILAError
from nvila.layouts import open_tokenizer, read_settings, resolve
from nvila.model import NVILAConfig
from nvila.processing import NVILAProcessor
from nvila.processing.tokens import prepare_tokenizer
from nvila.train import stages
from nvila.train.finetune import survey as surveys
from nvila.train.finetune.evaluate import HeldOut, KeepBest, Score, best_file, best_of, read_scores
from nvila.train.finetune.measure import read_base_config
from nvila.train.finetune.options import FinetuneOptions
from nvila.train.finetune.plan import FinetunePlan, Room, make_plan, remedies, this_room, work_of
from nvila.train.finetune.recipe import STAGE, make_recipe, token_limit
from nvila.train.finetune.survey import Survey
from nvila.train.plan import shown_bytes
from nvila.train.recipe import Recipe, Visual
from nvila.train.start import build_processor
from nvila.train.trainer import StageTrainer
from nvila.utils.atomic import atomic_write_text
from nvila.utils.device import choose_device, has_fast_bf16

ADAPTER = "adapter"
RECIPE_FILE = "recipe.toml"
MIXTURE_FILE = "mixture.toml"
SURVEY_FILE = "survey.json"
_CHECKPOINTS = 4
"""Most copies of what learns that lie on disk at a time: two checkpoints, one being written, the best and the last."""
_TORCH_WRITES = ("inline_container.cc", "PytorchStreamWriter")
"""What torch's RuntimeErrors name when a file cannot be written."""

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class _Looked:
    """The data as they will be trained on, and what was found by looking at them."""

    config: MixtureConfig
    """Without samples that are too long, where they are left out."""
    survey: Survey
    key: str
    lists: dict[Path, str] = field(default_factory=dict)
    """Files that the mixture names and that have to be written with it: ids of samples that are left out."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A fine-tuning that was looked at and planned, and not yet begun."""

    options: FinetuneOptions
    recipe: Recipe
    plan: FinetunePlan
    looked: _Looked
    held_out: HeldOut | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a fine-tuning left. `scores` are by step, with step 0 before it; `best` is the one that was kept."""

    adapter: Path | None
    """None where the run was interrupted."""
    scores: list[Score]
    best: Score | None


def prepare(
    options: FinetuneOptions,
    out: Path,
    *,
    overrides: Sequence[str] = (),
    force: bool = False,
    memory: int | None = None,
    tell: Tell = lambda text: None,
) -> Prepared:
    """Checks the data, makes the recipe with its `overrides` (`stage.0.x=y`), and plans it for this machine.

    `memory`: bytes to plan with in place of what is free. Tells the survey and the plan. Raises NVILAError's children
    for data, options or memory that will not do; `force` lets the data's and the memory's pass, and tells them.
    """
    place = _writable_place(out)
    config = _base_config(options)
    limit = token_limit(options, config)
    processor = _processor(options, config)
    encode = EncodeOptions(max_tokens=limit)
    looked = _look(options, processor, encode, out, force=force, tell=tell)
    held_out = _look_at_held_out(options, processor, encode, force=force, tell=tell)
    survey = looked.survey
    tell(survey.text(limit))
    ranks = stages.process_state().num_processes
    device = choose_device()
    bf16 = has_fast_bf16(device)
    recipe = make_recipe(options, config, survey, out / MIXTURE_FILE, bf16=bf16, num_ranks=ranks)
    recipe = config_files.overridden(recipe, overrides)
    room = this_room(device, bf16=recipe.run.bf16, memory=memory)
    plan = make_plan(recipe, survey, room, num_ranks=ranks)
    tell(plan.text())
    _refuse_what_does_not_fit(recipe, survey, plan, room, force=force, tell=tell, num_ranks=ranks)
    _refuse_full_disk(plan, out, place)
    return Prepared(
        options=options,
        recipe=recipe,
        plan=plan,
        looked=looked,
        held_out=None if held_out is None else _held_out(held_out, options, processor, encode, recipe),
    )


def run(prepared: Prepared, out: Path, *, tell: Tell = lambda text: None) -> Result:
    """Trains, or goes on, in the folder `out`, and writes `out/adapter`.

    Raises ConfigError when `out` holds a run of other settings, and what the trainer raises.
    """
    recipe, options = prepared.recipe, prepared.options
    check_run_folder(recipe, out)
    ranks = stages.process_state()
    if ranks.is_main_process:
        _write_inputs(prepared, out)
    ranks.wait_for_everyone()

    per_token, per_tile = work_of(recipe, prepared.looked.survey)

    def extend(trainer: StageTrainer) -> None:
        trainer.meter.count_by(
            lambda counts: per_token * (counts.tokens + counts.padding_tokens) + per_tile * counts.tiles
        )
        if prepared.held_out is not None:
            every = options.eval_every or max(1, recipe.stage[0].steps // 5)
            trainer.add_callback(KeepBest(trainer, prepared.held_out, every=every, best_by=options.best_by))

    with disk_errors(out):
        learner = stages.run_recipe(recipe, out, extend=extend)
        if not stages.is_finished(recipe, out):
            tell(f"interrupted; the same command goes on from the last checkpoint in {out / STAGE}")
            return Result(adapter=None, scores=[], best=None)
        scores = read_scores(out / STAGE)
        best = best_of(scores, options.best_by)
        if best is not None:
            stages.load_weights(learner, best_file(out / STAGE, best.step), recipe.adapters)
        if ranks.is_main_process:
            save_adapter(learner.model, _card(prepared, best), out / ADAPTER)
        ranks.wait_for_everyone()
    return Result(adapter=out / ADAPTER, scores=scores, best=best)


def check_run_folder(recipe: Recipe, out: Path) -> None:
    """Raises ConfigError where `out` holds a run of other settings, naming the first of them."""
    path = out / RECIPE_FILE
    if not path.is_file():
        return
    before, now = (text.splitlines() for text in (path.read_text(encoding="utf-8"), config_files.dump(recipe)))
    odd = next((pair for pair in zip(before, now, strict=False) if pair[0] != pair[1]), None)
    if odd is not None:
        raise ConfigError(
            f"{out}: holds a run of other settings ({odd[0]}, and now {odd[1]}); give another --out, or remove it"
        )


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turns what libraries raise when a disk is full into one error that names the folder."""
    try:
        yield
    except NVILAError:
        raise
    except (SafetensorError, RuntimeError) as error:
        text = str(error)
        if not isinstance(error, SafetensorError) and not any(words in text for words in _TORCH_WRITES):
            raise
        free = shutil.disk_usage(_nearest_there(out)).free
        raise ConfigError(
            f"{out}: a checkpoint cannot be written ({text.splitlines()[0][:120]}), {shown_bytes(free)} are free; "
            "free some and give the same command again"
        ) from error


def _base_config(options: FinetuneOptions) -> NVILAConfig:
    config = read_base_config(options.model)
    for name, value in vars(Visual(max_tiles=options.max_tiles)).items():
        if value is not None:
            setattr(config, name, value)
    return config


def _processor(options: FinetuneOptions, config: NVILAConfig) -> NVILAProcessor:
    """As the trainer will have it."""
    tokenizer = open_tokenizer(read_settings(resolve(options.model)).tokenizer_dir)
    prepare_tokenizer(tokenizer)
    return build_processor(config.visual, tokenizer)


def _look(
    options: FinetuneOptions,
    processor: NVILAProcessor,
    encode: EncodeOptions,
    out: Path,
    *,
    force: bool,
    tell: Tell,
) -> _Looked:
    """Reads the data, unless an earlier start of the same run has."""
    config = data_config(options.data, format=options.format, media_root=options.media_root)
    mixture = Mixture.open(config)
    key = surveys.survey_key(mixture, config, encode, options.model, options.max_tiles, options.too_long, force)
    known = surveys.read_survey(out / SURVEY_FILE, key)
    if known is not None:
        return _Looked(config=config_files.load(MixtureConfig, out / MIXTURE_FILE), survey=known, key=key)
    surveys.check_sources(config, epochs=options.epochs, force=force, tell=tell)
    measured = surveys.measure_samples(mixture, processor, encode, options.too_long)
    survey = surveys.summed(mixture, measured, options, encode.max_tokens or 0, force=force)
    config, lists = surveys.without_dropped(config, measured, out)
    return _Looked(config=config, survey=survey, key=key, lists=lists)


def _refuse_what_does_not_fit(
    recipe: Recipe, survey: Survey, plan: FinetunePlan, room: Room, *, force: bool, tell: Tell, num_ranks: int
) -> None:
    """Raises ConfigError, with both numbers and what would fit, unless `force`."""
    if plan.fits:
        return
    words = f"this needs {shown_bytes(plan.total)}, and {shown_bytes(room.memory)} are free on {room.name}"
    if force:
        tell(f"{words}; going on all the same (--force)")
        return
    ways = "; or ".join(remedies(recipe, survey, room, num_ranks=num_ranks))
    raise ConfigError(f"{words}; what fits: {ways}; or try it all the same with --force")


def _writable_place(out: Path) -> Path:
    """`out`, or the nearest folder above it that is there. Raises ConfigError where `out` cannot be made or written."""
    place = _nearest_there(out)
    if not place.is_dir():
        raise ConfigError(f"{place}: is a file; give another --out")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(f"{place}: cannot be written; give another --out, or mend its permissions")
    return place


def _nearest_there(path: Path) -> Path:
    """`path`, or the nearest above it that is there."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def _refuse_full_disk(plan: FinetunePlan, out: Path, place: Path) -> None:
    """Raises ConfigError where the disk of `place` has no room for the checkpoints of `out`."""
    needed, free = _CHECKPOINTS * plan.checkpoint_bytes, shutil.disk_usage(place).free
    if needed > free:
        raise ConfigError(
            f"{out}: its checkpoints need up to {shown_bytes(needed)}, and {shown_bytes(free)} are free there; free "
            "some, or give an --out on another disk"
        )


def _look_at_held_out(
    options: FinetuneOptions, processor: NVILAProcessor, encode: EncodeOptions, *, force: bool, tell: Tell
) -> Mixture | None:
    """The held-out data, checked as the training's are; None where there are none.

    `format` and `media_root` hold for them too, unless they are a mixture. Raises DataError for what cannot be scored.
    """
    if options.eval is None:
        return None
    is_mixture = options.eval.endswith(".toml")
    format, media_root = (None, None) if is_mixture else (options.format, options.media_root)
    config = data_config(options.eval, format=format, media_root=media_root)
    surveys.check_sources(config, force=force, tell=tell)
    mixture = Mixture.open(config)
    measured = [one for source in surveys.measure_samples(mixture, processor, encode, "truncate") for one in source]
    faults = [one.fault or f"sample {one.id} is too long" for one in measured if one.fault or one.is_dropped]
    if len(faults) == len(measured):
        raise DataError(
            f"{options.eval}: none of {len(measured):,} held-out samples can be scored ({faults[0]}); mend the data"
        )
    if faults:
        tell(f"{options.eval}: {len(faults):,} of {len(measured):,} held-out samples are not scored ({faults[0]})")
    return mixture


def _held_out(
    mixture: Mixture, options: FinetuneOptions, processor: NVILAProcessor, encode: EncodeOptions, recipe: Recipe
) -> HeldOut:
    return HeldOut(
        mixture,
        TextAndChatEncoder(processor, replace(encode, too_long="truncate")),
        limit=options.eval_samples,
        pad_id=processor.tokenizer.pad_token_id,
        workers=recipe.run.workers,
    )


def _write_inputs(prepared: Prepared, out: Path) -> None:
    """What the recipe names: the mixture, and lists of ids; and the survey, for the next start."""
    for path, text in prepared.looked.lists.items():
        atomic_write_text(path, text)
    mixture = Path(prepared.recipe.stage[0].mixture)
    atomic_write_text(mixture, config_files.dump(prepared.looked.config))
    surveys.write_survey(mixture.with_name(SURVEY_FILE), prepared.looked.key, prepared.looked.survey)
    atomic_write_text(out / "plan.txt", prepared.plan.text() + "\n")


def _card(prepared: Prepared, best: Score | None) -> Card:
    options, recipe = prepared.options, prepared.recipe
    base = str(Path(options.model).absolute()) if Path(options.model).is_dir() else options.model
    visual = {name: value for name, value in vars(recipe.stage[0].visual).items() if value is not None}
    return Card(
        base=base,
        fingerprint=fingerprint(options.model),
        options=recipe.adapters,
        train=recipe.stage[0].train,
        visual=visual,
        scores={} if best is None else {"exact": best.exact, "loss": best.loss, "step": float(best.step)},
    )
