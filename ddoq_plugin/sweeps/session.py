"""What every process of a sweep works with: data, store, prior, context and evaluator of one config.

The driver and each Ray worker have one :class:`SweepSession`; what is expensive goes through the store, so that it is
made once, by whoever needs it first. The driver's works on the CPU and keeps no network in memory."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..config import StageResources, SweepConfig
from ..data import ImageData, load_data
from ..distiller import DistillContext, Work
from ..distiller.dry_run import DeferredPrior, DryRunContext, PriorFacts
from ..distiller.method import blamed
from ..distiller.work import all_work
from ..evaluation.evaluator import Evaluator
from ..evaluation.protocol import load_protocol
from ..priors.base import pick_device
from ..priors.source import PriorSource
from ..registry import load_plugin
from ..store.artifacts import MANIFEST, Store, cost_of, hash_key
from .grid import Grid, SetSpec

if TYPE_CHECKING:
    from ..distilled_set import DistilledSet
    from .trials import Trial


SETS_DECLARED = 8  # whose work a process remembers


class SweepSession:
    """Lazily loaded data, prior, store and evaluator of one sweep config.

    ``resources`` are those of the worker's stage (None: the driver's session). ``data`` and ``prior`` are what the
    driver knows already; see :class:`ddoq_plugin.sweeps.worker.Shared`."""

    def __init__(
        self,
        config: SweepConfig,
        resources: StageResources | None = None,
        *,
        data: ImageData | None = None,
        prior: PriorFacts | None = None,
        progress: bool = False,
    ) -> None:
        self.config, self.resources, self.progress = config, resources, progress
        self._given_data, self._given_prior = data, prior
        self.plugin_hashes = [load_plugin(path) for path in config.plugins]
        self.store = Store(config.store_folder)
        self._declared: dict[str, dict[tuple[str, str], Work]] = {}

    @functools.cached_property
    def device(self) -> str:
        wanted = self.config.resources.device
        if self.resources is None or (wanted == "auto" and not self.resources.gpus):
            return "cpu"  # a worker without a share of a GPU must not take one, nor the driver
        return str(pick_device(wanted))

    @functools.cached_property
    def data(self) -> ImageData:
        if self._given_data is not None:
            return self._given_data
        return load_data(self.config.dataset.name, **self.config.dataset.options())

    @functools.cached_property
    def prior_source(self) -> PriorSource | None:
        if self.config.prior is None:
            return None
        return PriorSource(self.config.prior, self.data, self.store, self.device, progress=self.progress)

    @functools.cached_property
    def prior_facts(self) -> PriorFacts | None:
        """What the prior is; None where there is none or it has to be trained first."""
        if self._given_prior is not None or self.config.prior is None or self.config.prior.train is not None:
            return self._given_prior
        return PriorFacts.of(copy.copy(self.prior_source).load())  # of a source of its own: the weights are let go

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What every distilled set depends on beside its data and its method."""
        prior = None
        if self.config.prior is not None and self.config.prior.train is not None:
            prior = self.prior_source.key
        elif self.config.prior is not None:
            prior = {"name": self.config.prior.name, "fingerprint": self.prior_facts.fingerprint}
        return {"prior": prior, "plugins": self.plugin_hashes}

    @functools.cached_property
    def context(self) -> DistillContext:
        prior: Any = None
        if self.prior_facts is not None:
            prior = DeferredPrior(self.prior_facts, self.prior_source.load)
        elif self.prior_source is not None:
            prior = self.prior_source.load()
        return DistillContext(
            self.data, prior, self.store, device=self.device, progress=self.progress, identity=self.identity
        )

    @functools.cached_property
    def evaluator(self) -> Evaluator:
        protocol = load_protocol(self.config.protocol)
        asked: dict[str, Any] = {"students": self.config.students, "teacher": self.config.teacher}
        asked |= {"device": self.device, "plugins": self.plugin_hashes}
        return Evaluator(self.data, protocol, self.store, **asked, progress=self.progress)

    def check(self, grid: Grid) -> None:
        """Raise the error of anything in the config that must fail, before expensive work starts.

        The images of folders are checked by the workers, class by class; see :meth:`unchecked`."""
        once = {(spec.label, spec.ipc, spec.clusters): spec for spec in grid.sets}  # seeds make no difference
        for spec in once.values():
            with blamed(spec.distiller()):
                spec.distiller().check(self.planned, spec.ipc, spec.clusters)
        self.evaluator.check()
        if self.prior_source is not None:
            self.prior_source.check()
        _ = self.identity, self.config_hash  # a missing prior is found here, and an option that no key can hold

    @functools.cached_property
    def planned(self) -> DryRunContext:
        """What can be asked of the context before there is a prior: checks, and the keys of sets."""
        return DryRunContext(self.data, self.config.prior, self.store, identity=self.identity)

    def declared(self, spec: SetSpec) -> dict[tuple[str, str], Work]:
        """Return all the work of a set by its address, the set itself last."""
        if spec.title not in self._declared:
            while len(self._declared) >= SETS_DECLARED:
                del self._declared[next(iter(self._declared))]
            root = self.context.work_of(*spec.asked)
            self._declared[spec.title] = {work.address: work for work in all_work([root])}
        return self._declared[spec.title]

    def unchecked(self) -> list[int]:
        """Return the classes whose image files nobody has read yet; arrays were checked when they were loaded."""
        if not is_index(self.data):
            return []
        return [c for c in range(self.data.num_classes) if not self.stored("checked_images", self._check_key(c))]

    def check_class(self, class_id: int) -> None:
        """Read every image of a class in all splits, unless that was done; DataError names the first damaged file."""
        self.store.get("checked_images", self._check_key(class_id), lambda folder: self.data.check_class(class_id))

    def _check_key(self, class_id: int) -> dict[str, Any]:
        return {"data": self.data.fingerprint, "class": class_id}

    def stored(self, kind: str, key: Mapping[str, Any]) -> bool:
        """Return whether an artifact is there, without reading it."""
        return (self.store.path(kind, key) / MANIFEST).is_file()

    def has_set(self, spec: SetSpec) -> bool:
        """Return whether a set is there, without reading it."""
        return self.stored("sets", self.planned.set_key(*spec.asked))

    def distill(self, spec: SetSpec) -> DistilledSet:
        """Return a set, distilling it if it is not in the store."""
        return self.context.distilled(*spec.asked)

    def set_folder(self, spec: SetSpec) -> Path:
        """Return where a set is or will be stored."""
        return self.store.path("sets", self.planned.set_key(*spec.asked))

    def train(self, trial: Trial) -> tuple[DistilledSet | None, dict[str, Any]]:
        """Train the student of a trial; return its set (None: all data) and the result's columns."""
        if trial.set is None:
            twice = trial.kind == "full_data_2x"
            return None, self.evaluator.evaluate_full_data(trial.student, trial.seed, twice=twice)
        made = self.distill(trial.set)
        return made, self.evaluator.evaluate(made, trial.student, trial.seed)

    def describe(self) -> dict[str, Any]:
        """Return what tables say beside the rows: data, protocol, teacher, prior."""
        data, teacher = self.data, self.evaluator.teacher
        dataset = {"name": data.name, "classes": list(data.class_names), "image_size": data.image_size}
        dataset |= {name: len(getattr(data, name)) for name in ("train", "val", "test")}
        dataset |= {"notes": list(data.notes), "fingerprint": data.fingerprint}
        about: dict[str, Any] = {"config_hash": self.config_hash, "dataset": dataset}
        about |= {"protocol": self.evaluator.protocol.model_dump(mode="json"), "teacher": None}
        if teacher is not None:
            names = ("name", "protocol", "val_accuracy", "test_accuracy")
            about["teacher"] = {name: getattr(teacher, name) for name in names} | {
                "classes": list(teacher.class_names),
                "seconds": cost_of(self.store.path("teachers", self.evaluator.teacher_key)).seconds,
            }
        if self.prior_source is not None:
            report = self.prior_source.folder() / "prior_report.json" if self.config.prior.train else None
            found = json.loads(report.read_text()) if report is not None and report.is_file() else None
            about["prior"] = {**self.config.prior.model_dump(), "path": None, "title": self.config.prior.title}
            about["prior"]["report"] = found
        return about

    def config_text(self) -> str:
        return yaml.safe_dump(json.loads(self.config.model_dump_json()), sort_keys=False, allow_unicode=True)

    @property
    def config_hash(self) -> str:
        """Hash of all that the numbers depend on: contents, not folders, resources or notes."""
        config = self.config
        asked = [[m.name, m.plain_options(), m.ipc, m.clusters] for m in config.methods]
        grid = [asked, config.ipc, config.clusters, config.students, config.seeds, config.full_data]
        return hash_key([self.data.fingerprint, self.identity, self.evaluator.key, grid])[:12]


def is_index(data: ImageData) -> bool:
    """Return whether the data are lists of files, so that they travel cheaply and need checking."""
    return all(split.in_files for split in (data.train, data.val, data.test))
