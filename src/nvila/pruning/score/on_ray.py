"""A pass on a Ray cluster: chunks are dealt out to workers, each of which holds the model and puts its parts down.

Data, models and the folder of scores must be reachable from every machine under the same paths. What a worker that died
was at is scored again by another; finished parts stay, so that a cluster that died altogether is gone on with too.
Ray is imported when it is used: `pip install "nvila[ray]"`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nvila.errors import ConfigError, NVILAError
from nvila.pruning.score.batches import Scorer
from nvila.pruning.score.data import Corpus
from nvila.pruning.score.models import load_scorer
from nvila.pruning.score.options import RunOptions
from nvila.pruning.score.passes import Broken, Pass, run_pass
from nvila.pruning.scores import finished_parts

_ERRORS = {kind.__name__: kind for kind in NVILAError.__subclasses__()}


def run_pass_on_ray(
    corpus: Corpus,
    one: Pass,
    chunks: Sequence[int],
    folder: Path,
    *,
    run: RunOptions,
    num_workers: int,
    on_samples: Callable[[int], None] = lambda count: None,
) -> None:
    """Score `chunks` with `num_workers` workers, each with the model on a GPU of its own where the cluster has GPUs.

    A cluster that is connected to is used (`RAY_ADDRESS`), else one on this machine. Each worker judges the share of
    broken samples by what it reads itself. Raises ConfigError where Ray is missing, and what `run_pass` raises.
    """
    try:
        import ray
        import ray.data
        from ray.exceptions import RayError
    except ImportError as error:
        raise ConfigError('--ray needs Ray Data; install it with: pip install "nvila[ray]"') from error
    ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    num_gpus = 1 if run.device != "cpu" and ray.cluster_resources().get("GPU", 0) else 0
    work = ray.data.from_items([{"chunk": chunk} for chunk in chunks], override_num_blocks=len(chunks)).map_batches(
        _Worker,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(num_workers, len(chunks))),
        num_gpus=num_gpus,
        fn_constructor_kwargs={"corpus": corpus, "one": one, "folder": folder.resolve(), "run": run},
    )
    try:
        for row in work.iter_rows():
            if row["error"]:
                raise _ERRORS.get(row["kind"], NVILAError)(row["error"])
            on_samples(int(row["num_samples"]))
    except RayError as error:
        raise ConfigError(f"Ray could not score: {str(error).strip().splitlines()[-1]}") from error


class _Worker:
    """A process of the cluster with the model in it."""

    def __init__(self, corpus: Corpus, one: Pass, folder: Path, run: RunOptions) -> None:
        self._corpus = corpus
        self._pass = one
        self._folder = folder
        self._run = run
        self._scorer: Scorer | None = None
        self._broken = Broken(run.max_broken)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Scores the chunks of a batch; an error of the user's making is told, since Ray would bring its text alone."""
        wanted = [int(chunk) for chunk in batch["chunk"]]
        try:
            self._score(wanted)
        except NVILAError as error:
            return {"num_samples": [0], "error": [str(error)], "kind": [type(error).__name__]}
        num_samples = sum(len(self._corpus.chunk(chunk)) for chunk in wanted)
        return {"num_samples": [num_samples], "error": [""], "kind": [""]}

    def _score(self, wanted: Sequence[int]) -> None:
        """A part that lies there already, of a worker that died, stays."""
        done = finished_parts(self._folder)
        left = [chunk for chunk in wanted if chunk not in done]
        if not left:
            return
        if self._scorer is None:
            self._scorer = load_scorer(self._pass.model, self._run)
        run_pass(self._corpus, self._pass, self._scorer, left, self._folder, run=self._run, broken=self._broken)
