"""What a worker does: one thing of its :class:`SweepSession` at a time, leaving the result in the store.

What it returns is small. The driver's side is in ``stages.py``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from ..config import SweepConfig
from ..distiller import CodebookOptions
from .grid import SetSpec
from .session import SweepSession
from .shared import SharedFacts


class StageWorker:
    """A Ray actor of a pool. It is made without any work, so that what goes wrong belongs to an item."""

    def __init__(self, shared: tuple[str, str, SharedFacts]) -> None:
        self._shared = shared
        self._session: SweepSession | None = None

    def hello(self) -> str:
        """Return the id of the node that the worker is on."""
        import ray

        return ray.get_runtime_context().get_node_id()

    def run(self, stage: str, argument: Any) -> tuple[Any, list[str]]:
        """Run one item; return its result and the package's own warnings (a damaged artifact, say)."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if self._session is None:
                self._session = open_session(*self._shared)
            result = WORK[stage](self._session, argument)
        return result, [str(one.message) for one in caught if "ddoq" in one.filename]


def open_session(config_text: str, stage: str, known: SharedFacts) -> SweepSession:
    """Return the session of a worker process with the resources of a stage."""
    import torch

    config = SweepConfig.model_validate_json(config_text)
    resources = config.resources.of(stage)
    torch.set_num_threads(max(1, int(resources.cpus)))  # the number of threads is part of the result's bits
    return SweepSession(config, resources, data=known.images(), prior=known.prior)


def check(session: SweepSession, class_id: int) -> None:
    session.check_class(class_id)


def prior(session: SweepSession, argument: None) -> None:
    session.prior_source.folder()


def teacher(session: SweepSession, argument: None) -> None:
    _ = session.evaluator.teacher


def encode(session: SweepSession, argument: tuple[int, CodebookOptions]) -> None:
    session.context.encode(*argument)


def quantise(session: SweepSession, argument: tuple[int, CodebookOptions, Sequence[int], Sequence[int]]) -> None:
    class_id, options, clusters, seeds = argument
    session.context.codebooks(class_id, clusters, seeds, options)


def generate(session: SweepSession, argument: tuple[SetSpec, tuple[int, ...]]) -> None:
    spec, classes = argument
    spec.distiller().prepare(session.context, spec.ipc, classes, clusters=spec.clusters, seed=spec.seed)


def assemble(session: SweepSession, spec: SetSpec) -> dict[str, str]:
    made = session.distill(spec)
    return {"hash": made.hash, "image_hash": made.image_hash, "folder": str(session.set_folder(spec))}


def label(session: SweepSession, spec: SetSpec) -> None:
    session.evaluator.soft_labels(session.distill(spec), spec.seed)


WORK: dict[str, Callable[[SweepSession, Any], Any]] = {
    function.__name__: function for function in (check, prior, teacher, encode, quantise, generate, assemble, label)
}
