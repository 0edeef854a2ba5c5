"""The sweep itself: check everything, make the shared stages, train the missing rows under Ray Tune, report.

A run's folder holds all that its numbers can be traced to::

    config.yaml  meta.json        the resolved config; machine, versions, commit, teacher, prior
    rows/<key>.json               one finished (or failed) student each, written in one step by the worker
    sets/<label>_ipc.._seed..     links to the distilled sets in the store
    RESULTS.md, tables/, figures/ what `ddoq report` makes of them

Whatever kills a sweep, the same command continues it: only rows that are not on disk are trained."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from ..config import SweepConfig, load_config
from ..errors import ConfigError, StoreError
from ..outputs import check_place
from ..priors.base import pick_device
from ..progress import say_notes
from ..record import failure, make_row, read_row, write_row
from ..report import load_rows
from ..store.artifacts import write_atomic
from ..store.provenance import machine, provenance_columns
from ..yaml_files import valid
from .grid import Grid, RowSpec, SetSpec, make_grid, row_key
from .log import write_log
from .resolve import resolved
from .session import SweepSession
from .stages import Stages
from .trials import Trial, run_trials
from .worker_pool import ATTEMPTS, Task, WorkerLost

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SweepResult:
    """Where a sweep's files are, its rows as a long frame (one a trained student), and how many rows failed."""

    folder: Path
    frame: pd.DataFrame
    failed: int


def sweep(
    config: SweepConfig | str | Path,
    *,
    address: str | None = None,
    local: bool = False,
    progress: bool = True,
    **overrides: Any,
) -> SweepResult:
    """Run a sweep, or what is missing of it, and return its rows.

    ``config`` is a SweepConfig, a YAML file or the name of a packaged config; ``overrides`` replace top-level keys.
    ``address`` is a Ray cluster's (its nodes must share the folders of output and store); default: this machine.
    ``local`` runs everything in this process without Ray, one thing after the other; the rows are the same.
    Raises a DDOQError before any work where the config, the data or a method cannot do what is asked."""
    if not isinstance(config, SweepConfig):
        given = load_config(config, overrides)
    else:
        given = valid(SweepConfig, {**config.model_dump(), **overrides}) if overrides else config
    config = resolved(given)
    if local and address is not None:
        raise ConfigError(f"local runs without Ray and address names a cluster ({address}); give one of them")
    session = SweepSession(config, progress=progress)
    if address is None:
        pick_device(config.resources.device)  # raises where this machine has no such device
    grid = make_grid(config)
    session.check(grid)
    for folder, what in ((config.store_folder, "the store"), (config.output_folder, "the output folder")):
        check_place(folder, what)
    run = _Run(session, grid, progress)
    say_notes(session.data.notes, show=progress)
    with Stages(session, address, run.say, progress=progress, local=local) as stages:
        if run.missing():
            stages.check_images()  # before the run's folder is made, as everything that can be wrong
        with run.alone():
            run.prepare_folder()
            missing = run.missing()
            run.say(f"{len(grid.rows)} rows, {len(grid.rows) - len(missing)} of them finished; {run.folder}")
            if missing:
                run.make_all(stages)
            if missing or not (run.folder / "meta.json").exists():  # it describes where the rows were made
                meta = session.describe() | machine()
                write_atomic(run.folder / "meta.json", json.dumps(meta, indent=1, default=str))
            run.show_sets()
    frame = load_rows(run.folder)
    return SweepResult(run.folder, frame, int((frame["status"] == "failed").sum()))


class _Run:
    def __init__(self, session: SweepSession, grid: Grid, progress: bool) -> None:
        self.config, self.session, self.grid, self.progress = session.config, session, grid, progress
        self.rows = {row_key(row, session.planned, session.evaluator.key): row for row in grid.rows}
        self.folder = session.config.output_folder
        self.row_folder, self.other = self.folder / "rows", self.folder / "rows" / "other"

    def say(self, text: str) -> None:
        write_log(self.folder, text)
        if self.progress:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder, since two sweeps would train the same rows; the lock of a killed sweep goes with it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock").acquire(blocking=False)
        except Timeout:
            message = f"another sweep is at work in {self.folder}; wait for it, or give another output: folder"
            raise ConfigError(message) from None
        except OSError as problem:
            message = f"the output folder {self.folder} cannot be written ({problem}); set output: elsewhere"
            raise ConfigError(message) from None
        with lock:
            yield

    def prepare_folder(self) -> None:
        """Make the folder, set aside rows of an earlier form of the config, and bring back those that fit again."""
        self.other.mkdir(parents=True, exist_ok=True)
        write_atomic(self.folder / "config.yaml", self.session.config_text())
        for file in list(self.row_folder.glob("*.json")):
            if file.stem not in self.rows:
                os.replace(file, self.other / file.name)
        for file in list(self.other.glob("*.json")):
            if file.stem in self.rows and not (self.row_folder / file.name).exists():
                os.replace(file, self.row_folder / file.name)
        titles = {spec.title for spec in self.grid.sets}
        for link in (self.folder / "sets").glob("*"):
            if link.is_symlink() and link.name not in titles:
                link.unlink()

    def missing(self) -> dict[str, RowSpec]:
        """Return the rows that are not on disk as done, or set aside as done; failed ones are tried again."""
        found = {key: read_row(self.row_folder, key) or read_row(self.other, key) or {} for key in self.rows}
        return {key: row for key, row in self.rows.items() if found[key].get("status") != "done"}

    def make_all(self, stages: Stages) -> None:
        """Make what is missing. While a prior is trained, the students of all data already use the other cores."""
        session, missing, prior = self.session, self.missing(), None
        sets = list({spec.title: spec for spec in (row.set for row in missing.values()) if spec is not None}.values())
        trains_prior = self.config.prior is not None and self.config.prior.train is not None
        if trains_prior and sets and not session.stored("priors", session.prior_source.key):
            prior = stages.submit("prior", "train", None, "the training of the prior")
        key = session.evaluator.teacher_key
        if key is not None and not session.stored("teachers", key):
            self.require(stages, stages.submit("teacher", "train", None, "the training of the teacher"), "teacher")
        if prior is not None:
            stages.release_idle()
            self.train(stages, self.whole_trials(missing))
            self.require(stages, prior, "prior")
        made = self.make_sets(stages, sets)
        stages.shutdown()
        missing = self.missing()
        self.train(stages, self.whole_trials(missing) + self.set_trials(missing, made))

    def require(self, stages: Stages, task: Task, description: str) -> None:
        """Wait for what everything else needs; its error ends the sweep."""
        stages.finish([task], description)
        if task.problem is not None:
            raise task.problem

    def make_sets(self, stages: Stages, sets: list[SetSpec]) -> dict[str, str]:
        """Distil the sets and label them; return set hash by title. A set that fails makes its rows fail, no others."""
        made: dict[str, str] = {}
        alike: dict[tuple[str, int], list[SetSpec]] = {}
        tasks = stages.make_sets(sets)
        for spec in sets:
            task = tasks[spec.title]
            if task.problem is not None:
                self.fail_set(spec, task.problem)
                continue
            made[spec.title] = task.result["hash"]
            alike.setdefault((task.result["image_hash"], spec.seed), []).append(spec)
            self.link(spec, task.result["folder"])
        if self.session.evaluator.protocol.label_mode == "soft_stored":
            wanted = [(group[0], f"labels of {group[0].title}") for group in alike.values()]
            labels = stages.map("label", "label", wanted, "labels")
            for group, task in zip(alike.values(), labels, strict=True):
                if isinstance(task.problem, WorkerLost):
                    for spec in group:
                        self.fail_set(spec, task.problem)
                        del made[spec.title]
            failed = [task for task in labels if task.problem is not None]
            if failed:
                more = f" ({len(failed) - 1} more of this stage)" if len(failed) > 1 else ""
                self.say(f"{failed[0].title} failed beforehand: {failed[0].problem}{more}")
        return made

    def whole_trials(self, missing: dict[str, RowSpec]) -> list[Trial]:
        """Return the missing trials on all data."""
        return [Trial(None, row.kind, row.student, row.seed, (key,)) for key, row in missing.items() if row.set is None]

    def set_trials(self, missing: dict[str, RowSpec], made: dict[str, str]) -> list[Trial]:
        """Group the missing rows into trials: sets that are the same to the bit are trained once."""
        groups: dict[tuple[str, str, int], list[str]] = {}
        for key, row in missing.items():
            if row.set is not None and row.set.title in made:
                groups.setdefault((made[row.set.title], row.student, row.seed), []).append(key)
        return [
            Trial(self.rows[keys[0]].set, "distilled", student, seed, tuple(keys))
            for (_, student, seed), keys in groups.items()
        ]

    def train(self, stages: Stages, trials: list[Trial]) -> None:
        """Run trials under Ray Tune; rows of a trial that died with its worker are written as failed."""
        if not trials:
            return
        described = [(trial, {key: self.known(key) for key in trial.keys}) for trial in trials]
        options = {"local": stages.local, "progress": self.progress}
        run_trials(self.config, stages.shared, described, self.row_folder, **options)
        self.check_there()
        lost = [key for trial in trials for key in trial.keys if read_row(self.row_folder, key) is None]
        self.fail(lost, RuntimeError(f"the training ended its worker process {ATTEMPTS} times (out of memory?)"))

    def check_there(self) -> None:
        """Raise StoreError where somebody removed the run's folder while the sweep ran."""
        if not (self.folder / ".lock").exists():
            raise StoreError(
                f"the run's folder {self.folder} was removed while the sweep ran; the same command goes on"
            )

    def fail_set(self, spec: SetSpec, problem: Exception) -> None:
        self.fail([key for key, row in self.missing().items() if row.set == spec], problem)

    def fail(self, keys: list[str], problem: Exception) -> None:
        for key in keys:
            write_row(self.row_folder, key, make_row(self.known(key), None, failure(problem)))

    def known(self, key: str) -> dict[str, Any]:
        """Return what is known of a row before it is trained."""
        return self.rows[key].known() | self.common

    @functools.cached_property
    def common(self) -> dict[str, Any]:
        config, session = self.config, self.session
        about: dict[str, Any] = {"run": config.name, "dataset": session.data.name}
        about["prior"] = None if config.prior is None else config.prior.title
        about["teacher"] = None if config.teacher is None else config.teacher.student
        about |= {"protocol": session.evaluator.protocol.name, "config_hash": session.config_hash}
        return about | provenance_columns()

    def show_sets(self) -> None:
        """Link the sets that the store has, and say which ones of finished rows it has no more."""
        missing = {row.set.title for row in self.missing().values() if row.set is not None}
        gone = []
        for title, spec in {spec.title: spec for spec in self.grid.sets}.items():
            if self.session.has_set(spec):
                self.link(spec, self.session.set_folder(spec))
            elif title not in missing:
                gone.append(title)
        if gone:
            names = ", ".join(gone[:3]) + (f" and {len(gone) - 3} more" if len(gone) > 3 else "")
            self.say(
                f"sets no longer in the store, though their rows are finished: {names}; to make one again, remove its "
                f"rows from {self.row_folder}"
            )

    def link(self, spec: SetSpec, folder: str | Path) -> None:
        """Show a set of the store under a readable name in the run's folder."""
        link = self.folder / "sets" / spec.title
        target = os.path.relpath(folder, link.parent)
        link.parent.mkdir(exist_ok=True)
        if link.is_symlink() and os.readlink(link) != target:
            link.unlink()
        if not link.is_symlink():
            link.symlink_to(target, target_is_directory=True)
