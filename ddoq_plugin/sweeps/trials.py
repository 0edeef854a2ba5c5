"""Students under Ray Tune: one trial trains one student; actors are reused, so that torch is imported once a worker.

Every finished trial is on disk before Tune hears of it. Tune schedules, spreads over a cluster and survives lost
workers; resuming is done by leaving out the rows that are there."""

import functools
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from ..config import SweepConfig
from ..errors import StoreError
from ..outputs import writing
from ..progress import bar, track
from ..record import failure, make_row, write_row
from .grid import SetSpec
from .log import own_warnings, worker_title, write_log
from .session import SweepSession
from .worker import Shared, open_session
from .worker_pool import ATTEMPTS, GIB


@dataclass(frozen=True)
class Trial:
    """A student to train: on a set, or (None) on all data for ``kind``; ``keys`` are the rows that share its result."""

    set: SetSpec | None
    kind: str
    student: str
    seed: int
    keys: tuple[str, ...]


Described = tuple[Trial, dict[str, dict[str, Any]]]
"""A trial with what is known of its rows, by key."""


def run_trials(
    config: SweepConfig,
    shared: Shared,
    trials: Sequence[Described],
    row_folder: Path,
    *,
    local: bool,
    progress: bool,
) -> None:
    """Train every trial, under Ray Tune or (``local``) in this process.

    A trial whose worker or node dies is begun again, ``ATTEMPTS`` times in all. Raises StoreError where a disk refuses
    the rows."""
    session = functools.partial(open_session, config.model_dump_json(), "train", shared)
    if local:
        _here(functools.cache(session), trials, row_folder, progress=progress)
        return
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # the rows are the log
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # it would end the trials and go on as if all were well
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # its banners ignore verbose=0
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "16")
    shown = bar(len(trials), "students", show=progress)

    refused: list[str] = []

    class Progress(tune.Callback):
        def on_trial_result(self, iteration, trials, trial, result, **info):
            if result.get("refused"):
                refused.append(result["refused"])

        def on_trial_complete(self, iteration, trials, trial, **info):
            shown.update(1)

        on_trial_error = on_trial_complete

    class StudentTrial(tune.Trainable):
        def setup(self, config, shared=None):
            self.shared, self.index = shared, config["trial"]
            self.session = functools.cache(shared["session"])  # kept from trial to trial

        def reset_config(self, new_config):
            self.index = new_config["trial"]
            return True

        def step(self):
            trial, rows = ray.get(self.shared["trials"])[self.index]
            return {"done": True, **train_trial(self.session, trial, rows, self.shared["rows"])}

        def save_checkpoint(self, checkpoint_dir):
            return {}

        def load_checkpoint(self, checkpoint):
            """Nothing to load: a trial is one step."""

    about = {"session": session, "trials": ray.put(trials), "rows": row_folder}
    asked = config.resources.of("train")
    resources = {"cpu": asked.cpus, "gpu": asked.gpus}
    if asked.memory_gb is not None:
        resources["memory"] = int(asked.memory_gb * GIB)
    with shown, tempfile.TemporaryDirectory(prefix="ddoq-tune-") as scratch:
        run = {"name": "students", "storage_path": scratch, "verbose": 0, "callbacks": [Progress()]}
        run["failure_config"] = tune.FailureConfig(max_failures=ATTEMPTS - 1)
        run["checkpoint_config"] = tune.CheckpointConfig(checkpoint_at_end=False)
        tune.Tuner(
            tune.with_resources(tune.with_parameters(StudentTrial, shared=about), resources),
            param_space={"trial": tune.grid_search(list(range(len(trials))))},
            tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=config.resources.max_concurrent),
            run_config=tune.RunConfig(**run),
        ).fit()
    if refused:
        raise StoreError(refused[0])


def _here(
    session: Callable[[], SweepSession], trials: Sequence[Described], row_folder: Path, *, progress: bool
) -> None:
    """Train every trial in this process, one after the other."""
    threads = torch.get_num_threads()
    try:
        for trial, rows in track(trials, "students", show=progress):
            refused = train_trial(session, trial, rows, row_folder)["refused"]
            if refused:
                raise StoreError(refused)
    finally:
        torch.set_num_threads(threads)


def train_trial(
    session: Callable[[], SweepSession], trial: Trial, rows: dict[str, dict[str, Any]], row_folder: Path
) -> dict[str, Any]:
    """Train one student and write its rows; a failure becomes rows too, since a sweep goes on.

    Not so where a disk refuses: that is returned as ``refused``, and the rows stay missing."""
    with own_warnings() as messages:
        try:
            try:
                made, result = session().train(trial)
            except StoreError:
                raise
            except Exception as problem:
                made, result = None, failure(problem)
            with writing(row_folder, "the folder of rows"):
                for key, known in rows.items():
                    write_row(row_folder, key, make_row(known, made, result))
        except StoreError as problem:
            return {"top1": float("nan"), "refused": str(problem)}
    for message in messages:
        write_log(row_folder.parent, f"{worker_title()} {message}")
    return {"top1": result.get("top1", float("nan")), "refused": ""}
