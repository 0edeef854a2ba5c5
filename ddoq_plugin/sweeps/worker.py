"""What a worker does: one task of its :class:`SweepSession` at a time, leaving the result in the store.

What it returns is small. The driver's side is in ``stages.py``."""

from collections.abc import Callable, Sequence
from typing import Any

import ray
import torch

from ..config import SweepConfig
from ..data import ImageData
from ..distiller.dry_run import PriorFacts
from .grid import SetSpec
from .log import own_warnings
from .session import SweepSession

Address = tuple[str, str]
Shared = tuple[ray.ObjectRef | ImageData | None, PriorFacts | None]
"""What the driver finds out once for all workers. The ImageData of folders, or a reference to it (an index of files,
which is listed once a sweep; None: each worker loads its own arrays). What the prior is, so that a worker which only
needs to know which prior a set depends on never loads it (None: there is none, or the sweep trains it)."""


class StageWorker:
    """A Ray actor of a pool. It is constructed empty, so that a failure is reported by the task that caused it."""

    def __init__(self, about: tuple[str, str, Shared]) -> None:
        self._about = about
        self._session: SweepSession | None = None

    def hello(self) -> str:
        """Return the id of the node that the worker is on."""
        return ray.get_runtime_context().get_node_id()

    def run(self, task: str, argument: Any) -> tuple[Any, list[str]]:
        """Run one task; return its result and the package's own warnings (a damaged artifact, say)."""
        with own_warnings() as messages:
            if self._session is None:
                self._session = open_session(*self._about)
            result = TASKS[task](self._session, argument)
        return result, messages


def open_session(config_text: str, stage: str, shared: Shared = (None, None)) -> SweepSession:
    """Return the session of a worker process with the resources of a stage."""
    config, (data, prior) = SweepConfig.model_validate_json(config_text), shared
    resources = config.resources.of(stage)
    torch.set_num_threads(max(1, int(resources.cpus)))  # the number of threads is part of the result's bits
    given = ray.get(data) if isinstance(data, ray.ObjectRef) else data
    return SweepSession(config, resources, data=given, prior=prior)


def train_prior(session: SweepSession, _: None) -> None:
    session.prior_source.folder()


def train_teacher(session: SweepSession, _: None) -> None:
    _made: object = session.evaluator.teacher


def make_work(session: SweepSession, wanted: Sequence[tuple[SetSpec, Address]]) -> None:
    """Make artifacts that sets need; each is named by a set that declares it."""
    session.context.do_together([session.declared(spec)[address] for spec, address in wanted])


def make_set(session: SweepSession, spec: SetSpec) -> dict[str, str]:
    """Make a set from what was made before."""
    made = session.distill(spec)
    return {"hash": made.hash, "image_hash": made.image_hash, "folder": str(session.set_folder(spec))}


def label_set(session: SweepSession, spec: SetSpec) -> None:
    session.evaluator.soft_labels(session.distill(spec), spec.seed)


TASKS: dict[str, Callable[[SweepSession, Any], Any]] = {
    "check": SweepSession.check_class, "prior": train_prior, "teacher": train_teacher, "work": make_work,
    "distil": make_set, "label": label_set,
}  # fmt: skip
