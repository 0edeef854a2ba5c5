"""The sweep itself: check everything, make the shared stages, train the missing rows under Ray Tune, report.

A run's folder holds all that its numbers can be traced to::

    config.yaml  meta.json        the resolved config; machine, versions, commit, teacher, prior
    rows/<key>.json               one finished (or failed) student each, written in one step by the worker
    sets/<label>_ipc.._seed..     links to the distilled sets in the store
    RESULTS.md, tables/, figures/ what `ddoq report` makes of them

Whatever kills a sweep, the same command continues it: only rows that are not on disk are trained.
"""

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

from ..config import SweepConfig, load_config, valid
from ..errors import ConfigError
from ..provenance import machine, provenance_columns
from ..report import load_rows
from ..store import write_atomic
from .grid import Grid, RowSpec, SetSpec, make_grid, row_key
from .rows import describe_row, failure, read_row, write_row
from .stages import RayStages, codebook_jobs
from .trials import Trial, run_trials
from .workshop import Workshop

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SweepResult:
    """Where a sweep's files are, its rows as a long frame (one a trained student), and how many rows failed."""

    folder: Path
    frame: pd.DataFrame
    failed: int


def sweep(
    config: SweepConfig | str | Path, *, address: str | None = None, progress: bool = True, **overrides: Any
) -> SweepResult:
    """Run a sweep, or what is missing of it, and return its rows.

    ``config`` is a SweepConfig, a YAML file or the name of a packaged config; ``overrides`` replace top-level keys.
    ``address`` is a Ray cluster's (its nodes must share the folders of output and store); default: this machine.
    Raises a DDOQError before any work where the config, the data or a method cannot do what is asked.
    """
    if not isinstance(config, SweepConfig):
        config = load_config(config, overrides)
    elif overrides:
        config = valid(SweepConfig, {**config.model_dump(), **overrides})
    config = _absolute(config)
    workshop = Workshop(config, progress=progress)
    grid = make_grid(config)
    workshop.check(grid)
    folder = config.output_folder
    run = _Run(config, workshop, grid, folder, progress)
    with run.alone():
        run.prepare_folder()
        missing = run.missing()
        run.say(f"{len(grid.rows)} rows, {len(grid.rows) - len(missing)} of them finished; {folder}")
        if missing:
            run.say("starting Ray")
            with _ray(address):
                run.make_all()
        if missing or not (folder / "meta.json").exists():  # it describes where the rows were made
            run.write_meta()
    frame = load_rows(folder)
    return SweepResult(folder, frame, int((frame["status"] == "failed").sum()))


@dataclass
class _Run:
    config: SweepConfig
    workshop: Workshop
    grid: Grid
    folder: Path
    progress: bool

    def __post_init__(self) -> None:
        keys = (row_key(row, self.workshop.context_key, self.workshop.evaluator.key) for row in self.grid.rows)
        self.rows = dict(zip(keys, self.grid.rows, strict=True))
        self.row_folder = self.folder / "rows"

    def say(self, text: str) -> None:
        if self.progress:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder, since two sweeps would train the same rows; the lock of a killed sweep goes with it."""
        from filelock import FileLock, Timeout

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
        other = self.row_folder / "other"
        other.mkdir(parents=True, exist_ok=True)
        write_atomic(self.folder / "config.yaml", self.workshop.config_text())
        for file in list(self.row_folder.glob("*.json")):
            if file.stem not in self.rows:
                os.replace(file, other / file.name)
        for file in list(other.glob("*.json")):
            if file.stem in self.rows and not (self.row_folder / file.name).exists():
                os.replace(file, self.row_folder / file.name)
        titles = {spec.title for spec in self.grid.sets}
        for link in (self.folder / "sets").glob("*"):
            if link.is_symlink() and link.name not in titles:
                link.unlink()

    def missing(self) -> dict[str, RowSpec]:
        """Return the rows that are not on disk as done; failed ones are tried again."""
        return {
            key: row for key, row in self.rows.items() if (read_row(self.row_folder, key) or {}).get("status") != "done"
        }

    def make_all(self) -> None:
        """Make what is missing. The prior is trained while the full-data students already use the other cores."""
        missing = self.missing()
        sets = list({spec.title: spec for spec in (row.set for row in missing.values()) if spec is not None}.values())
        stages = RayStages(self.config, progress=self.progress)
        prior = stages.start("prepare_prior") if sets and self.config.prior is not None else None
        if self.config.teacher is not None:
            stages.watch(stages.start("prepare_teacher"), "teacher")
        whole = {key: row for key, row in missing.items() if row.set is None}
        self.train(stages, [Trial(None, row.kind, row.student, row.seed, (key,)) for key, row in whole.items()])
        if prior is not None:
            stages.watch(prior, "prior")
        made = self.make_sets(stages, sets)
        self.train(stages, self.trials(missing, made))

    def make_sets(self, stages: RayStages, sets: list[SetSpec]) -> dict[str, tuple[SetSpec, str]]:
        """Distil the sets and label them; return set hash by title. A set that fails makes its rows fail, no others."""
        jobs = codebook_jobs(sets, self.workshop.data.num_classes, stages.slots)
        for _, outcome in stages.map("fill_codebooks", jobs, "codebooks"):
            if isinstance(outcome, Exception):  # each set that needs one will try for itself, and fail with its reason
                self.say(f"codebooks could not be made beforehand: {outcome}")
        made: dict[str, tuple[SetSpec, str]] = {}
        images: dict[tuple[str, int], SetSpec] = {}
        for spec, outcome in stages.map("distill", sets, "distilled sets"):
            if isinstance(outcome, Exception):
                self.fail({key: row for key, row in self.missing().items() if row.set == spec}, outcome)
                continue
            made[spec.title] = (spec, outcome["hash"])
            images.setdefault((outcome["image_hash"], spec.seed), spec)
            self.link(spec, outcome["folder"])
        if self.workshop.evaluator.protocol.label_mode == "soft_stored":
            for spec, outcome in stages.map("label", list(images.values()), "soft labels"):
                if isinstance(outcome, Exception):
                    self.say(f"soft labels of {spec.title} could not be made beforehand: {outcome}")
        return made

    def trials(self, missing: dict[str, RowSpec], made: dict[str, tuple[SetSpec, str]]) -> list[Trial]:
        """Group the missing rows into trials: sets that are the same to the bit are trained once."""
        groups: dict[tuple[str, str, int], list[str]] = {}
        for key, row in missing.items():
            if row.set is not None and row.set.title in made:
                groups.setdefault((made[row.set.title][1], row.student, row.seed), []).append(key)
        return [
            Trial(self.rows[keys[0]].set, "distilled", student, seed, tuple(keys))
            for (_, student, seed), keys in groups.items()
        ]

    def train(self, stages: RayStages, trials: list[Trial]) -> None:
        """Run trials under Ray Tune; rows of a trial that died with its worker are written as failed."""
        if not trials:
            return
        described = [(trial, {key: self.base_row(key) for key in trial.keys}) for trial in trials]
        run_trials(self.config, described, self.row_folder, progress=self.progress)
        lost = {key: row for trial in trials for key, row in ((k, self.rows[k]) for k in trial.keys)}
        lost = {key: row for key, row in lost.items() if read_row(self.row_folder, key) is None}
        self.fail(lost, RuntimeError("the worker process died (out of memory?)"))

    def fail(self, rows: dict[str, RowSpec], problem: Exception) -> None:
        for key in rows:
            write_row(self.row_folder, key, self.base_row(key) | failure(problem))

    def base_row(self, key: str) -> dict[str, Any]:
        """Return the columns of a row that are known before it is trained."""
        return describe_row(self.rows[key]) | self.common

    @functools.cached_property
    def common(self) -> dict[str, Any]:
        prior, teacher = self.config.prior, self.config.teacher
        return {
            "run": self.config.name,
            "dataset": self.workshop.data.name,
            "prior": None if prior is None else " ".join(filter(None, [prior.name, prior.train or prior.path])),
            "teacher": None if teacher is None else teacher.student,
            "protocol": self.workshop.evaluator.protocol.name,
            "config_hash": self.workshop.config_hash,
            **provenance_columns(),
        }

    def link(self, spec: SetSpec, folder: str) -> None:
        """Show a set of the store under a readable name in the run's folder."""
        link = self.folder / "sets" / spec.title
        target = os.path.relpath(folder, link.parent)
        link.parent.mkdir(exist_ok=True)
        if link.is_symlink() and os.readlink(link) != target:
            link.unlink()
        if not link.is_symlink():
            link.symlink_to(target, target_is_directory=True)

    def write_meta(self) -> None:
        """Write what the tables say beside the rows: data, protocol, teacher, prior, machine, versions, commit."""
        write_atomic(self.folder / "meta.json", json.dumps(self.workshop.describe() | machine(), indent=1, default=str))


@contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start Ray on this machine and stop it at the end."""
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 halves the speed on a shared machine
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
    options = {} if address else {"include_dashboard": False}
    ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **options)
    try:
        yield
    finally:
        ray.shutdown()


def _absolute(config: SweepConfig) -> SweepConfig:
    """Workers run in other folders: make the paths of a config absolute."""
    paths = {"output": str(config.output_folder.resolve()), "store": str(config.store_folder.resolve())}
    paths["plugins"] = [str(Path(plugin).resolve()) for plugin in config.plugins]
    dataset = {
        name: str(Path(value).resolve()) if name in ("path", "root") else value
        for name, value in config.dataset.options().items()
    }
    content = config.model_dump() | paths | {"dataset": {"name": config.dataset.name, **dataset}}
    content["protocol"] = _existing(config.protocol)
    if config.teacher is not None:
        content["teacher"]["protocol"] = _existing(config.teacher.protocol)
    if config.prior is not None:
        content["prior"] |= {"path": _existing(config.prior.path), "train": _existing(config.prior.train)}
    if config.teacher is not None:
        content["teacher"]["weights"] = _existing(config.teacher.weights)
    return SweepConfig(**content)


def _existing(text: str | None) -> str | None:
    """Return the absolute path of what exists as a file or folder; anything else is a name (or a hub id)."""
    return str(Path(text).resolve()) if text is not None and Path(text).exists() else text
