"""What every process of a sweep works with: data, store, prior, context and evaluator of one config.

The driver and each Ray worker have one :class:`Workshop`; all that is expensive goes through the store, so that it is
made once, by whoever needs it first.
"""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..config import SweepConfig
from ..distiller import CodebookOptions, DistillContext
from ..evaluator import Evaluator
from ..prior_source import PlannedContext, PriorSource
from ..registry import load_plugin, source_hash
from ..store import Store, hash_key
from .grid import Grid, SetSpec, set_key

if TYPE_CHECKING:
    from ..data import ImageData
    from ..distilled_set import DistilledSet
    from .trials import Trial


class Workshop:
    """The things of one config. Cheap to construct; each is made or loaded when it is first asked for."""

    def __init__(self, config: SweepConfig, *, progress: bool = False) -> None:
        self.config, self.progress = config, progress
        self.plugin_hashes = [load_plugin(path) for path in config.plugins]
        self.store = Store(config.store_folder)

    @functools.cached_property
    def device(self) -> str:
        from ..priors.base import pick_device

        wanted = self.config.resources.device
        if wanted == "auto" and not self.config.resources.gpus:
            return "cpu"  # a task without a share of a GPU must not take one
        return str(pick_device(wanted))

    @functools.cached_property
    def data(self) -> ImageData:
        from ..data import load_data

        return load_data(self.config.dataset.name, **self.config.dataset.options())

    @functools.cached_property
    def prior_source(self) -> PriorSource | None:
        if self.config.prior is None:
            return None
        return PriorSource(self.config.prior, self.data, self.store, self.device, progress=self.progress)

    @functools.cached_property
    def context_key(self) -> dict[str, Any]:
        """What every distilled set depends on beside its method."""
        prior = None if self.prior_source is None else self.prior_source.key
        code = source_hash("ddoq_plugin.priors")
        return {"data": self.data.fingerprint, "prior": prior, "plugins": self.plugin_hashes, "code": code}

    @functools.cached_property
    def context(self) -> DistillContext:
        prior = None if self.prior_source is None else self.prior_source.load()
        return DistillContext(self.data, prior, self.store, progress=self.progress)

    @functools.cached_property
    def evaluator(self) -> Evaluator:
        from ..evaluation import load_protocol

        return Evaluator(
            self.data,
            load_protocol(self.config.protocol),
            self.store,
            students=self.config.students,
            teacher=self.config.teacher,
            device=self.device,
            plugins=self.plugin_hashes,
            progress=self.progress,
        )

    def check(self, grid: Grid) -> None:
        """Raise the error of anything in the config that must fail, before expensive work starts."""
        planned = PlannedContext(self.data, self.config.prior)
        for spec in grid.sets:
            spec.distiller().check(planned, spec.ipc, spec.clusters)
        self.evaluator.check()
        if self.prior_source is not None:
            self.prior_source.check()
        _ = self.context_key  # a missing prior is found here
        checked = {"data": self.data.fingerprint}  # every image is read once a dataset, not at every start
        if self.store.find("checked_data", checked) is None:
            self.data.check(progress=self.progress)
            self.store.get("checked_data", checked, lambda folder: None)

    def fill_codebooks(
        self, options: CodebookOptions, classes: list[int], clusters: list[int], seeds: list[int]
    ) -> None:
        """Encode these classes and make all their codebooks, from one Gram matrix a class."""
        for class_id in classes:
            self.context.codebooks(class_id, clusters, seeds, options)

    def distill(self, spec: SetSpec) -> DistilledSet:
        """Return a set, distilling it if it is not in the store."""
        from ..distilled_set import DistilledSet

        def make(folder: Path) -> None:
            context = self.context
            context.reset_cost()
            made = spec.distiller().distill(context, spec.ipc, clusters=spec.clusters, seed=spec.seed)
            replace(made, provenance={**made.provenance, "seconds": context.cost()}).save(folder)

        return DistilledSet.load(self.store.get("sets", set_key(spec, self.context_key), make))

    def set_folder(self, spec: SetSpec) -> Path:
        """Return where a set is or will be stored."""
        return self.store.path("sets", set_key(spec, self.context_key))

    def train(self, trial: Trial) -> dict[str, Any]:
        """Train the student of a trial and return the columns of its rows."""
        if trial.set is None:
            twice = trial.kind == "full_data_2x"
            return self.evaluator.evaluate_full_data(trial.student, trial.seed, twice=twice)
        made = self.distill(trial.set)
        return {**set_columns(made), **self.evaluator.evaluate(made, trial.student, trial.seed)}

    def describe(self) -> dict[str, Any]:
        """Return what tables say beside the rows: data, protocol, teacher, prior."""
        data, teacher = self.data, self.evaluator.teacher
        about: dict[str, Any] = {
            "config_hash": self.config_hash,
            "dataset": {
                "name": data.name,
                "classes": list(data.class_names),
                "image_size": data.image_size,
                "train": len(data.train),
                "val": len(data.val),
                "test": len(data.test),
                "notes": list(data.notes),
                "fingerprint": data.fingerprint,
            },
            "protocol": self.evaluator.protocol.model_dump(mode="json"),
            "teacher": None
            if teacher is None
            else {
                "name": teacher.name,
                "protocol": teacher.protocol,
                "val_accuracy": teacher.val_accuracy,
                "test_accuracy": teacher.test_accuracy,
                "classes": list(teacher.class_names),
            },
        }
        if self.prior_source is not None:
            report = self.prior_source.folder() / "prior_report.json" if self.config.prior.train else None
            about["prior"] = self.config.prior.model_dump() | {
                "report": json.loads(report.read_text()) if report is not None and report.is_file() else None
            }
        return about

    def config_text(self) -> str:
        return yaml.safe_dump(json.loads(self.config.model_dump_json()), sort_keys=False, allow_unicode=True)

    @property
    def config_hash(self) -> str:
        """Hash of all that the numbers depend on: contents, not folders, resources or notes."""
        config = self.config
        asked = [[m.name, m.options(), m.clusters] for m in config.methods]
        grid = [asked, config.ipc, config.clusters, config.students, config.seeds, config.full_data]
        return hash_key([self.context_key, self.evaluator.key, grid])[:12]


def set_columns(made: DistilledSet) -> dict[str, Any]:
    """Return the columns of a row that describe its set."""
    stats = made.provenance.get("stats", {})
    columns = {name: stats.get(name) for name in ("w2_used", "w2_uniform", "effective_sample_size", "space")}
    for kind, seconds in made.provenance.get("seconds", {}).items():
        columns[f"seconds_{kind}"] = seconds
    seconds = sum(made.provenance.get("seconds", {}).values())
    return columns | {"set_hash": made.hash, "image_hash": made.image_hash, "seconds_distill": seconds}

