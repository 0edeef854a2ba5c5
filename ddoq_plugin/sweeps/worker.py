"""What a worker does: one task of its :class:`SweepSession` at a time, leaving the result in the store.

What it returns is small. The driver's side is in ``stages.py``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from ..config import SweepConfig
from .grid import SetSpec
from .session import SweepSession
from .shared import SharedFacts

Address = tuple[str, str]


class StageWorker:
    """A Ray actor of a pool. It is constructed empty, so that a failure is reported by the task that caused it."""

    def __init__(self, shared: tuple[str, str, SharedFacts]) -> None:
        self._shared = shared
        self._session: SweepSession | None = None

    def hello(self) -> str:
        """Return the id of the node that the worker is on."""
        import ray

        return ray.get_runtime_context().get_node_id()

    def run(self, task: str, argument: Any) -> tuple[Any, list[str]]:
        """Run one task; return its result and the package's own warnings (a damaged artifact, say)."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if self._session is None:
                self._session = open_session(*self._shared)
            result = TASKS[task](self._session, argument)
        return result, [str(one.message) for one in caught if "ddoq_" in one.filename]


def open_session(config_text: str, stage: str, shared: SharedFacts) -> SweepSession:
    """Return the session of a worker process with the resources of a stage."""
    import torch

    config = SweepConfig.model_validate_json(config_text)
    resources = config.resources.of(stage)
    torch.set_num_threads(max(1, int(resources.cpus)))  # the number of threads is part of the result's bits
    return SweepSession(config, resources, data=shared.images(), prior=shared.prior)


def check(session: SweepSession, class_id: int) -> None:
    """Read every image of a class."""
    session.check_class(class_id)


def prior(session: SweepSession, argument: None) -> None:
    """Train the prior."""
    session.prior_source.folder()


def teacher(session: SweepSession, argument: None) -> None:
    """Train the teacher."""
    _ = session.evaluator.teacher


def work(session: SweepSession, wanted: Sequence[tuple[SetSpec, Address]]) -> None:
    """Make artifacts that sets need; each is named by a set that declares it."""
    session.context.do_together([session.declared(spec)[address] for spec, address in wanted])


def distil(session: SweepSession, spec: SetSpec) -> dict[str, str]:
    """Make a set from what was made before."""
    made = session.distill(spec)
    return {"hash": made.hash, "image_hash": made.image_hash, "folder": str(session.set_folder(spec))}


def label(session: SweepSession, spec: SetSpec) -> None:
    """Store the soft labels of a set."""
    session.evaluator.soft_labels(session.distill(spec), spec.seed)


TASKS: dict[str, Callable[[SweepSession, Any], Any]] = {
    function.__name__: function for function in (check, prior, teacher, work, distil, label)
}
