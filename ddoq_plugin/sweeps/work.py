"""What a worker does: one thing of its :class:`Workshop` at a time, leaving the result in the store.

What it returns is small. The driver's side is in ``stages.py``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from ..config import SweepConfig
from ..distiller import CodebookOptions
from .grid import SetSpec
from .known import Known
from .workshop import Workshop


class StageWorker:
    """A Ray actor of a crew. It is made without any work, so that what goes wrong belongs to an item."""

    def __init__(self, shared: tuple[str, str, Known]) -> None:
        self._shared = shared
        self._workshop: Workshop | None = None

    def hello(self) -> str:
        """Return the id of the node that the worker is on."""
        import ray

        return ray.get_runtime_context().get_node_id()

    def run(self, stage: str, argument: Any) -> tuple[Any, list[str]]:
        """Run one item; return its result and the package's own warnings (a damaged artifact, say)."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if self._workshop is None:
                self._workshop = open_workshop(*self._shared)
            result = WORK[stage](self._workshop, argument)
        return result, [str(one.message) for one in caught if "ddoq" in one.filename]


def open_workshop(config_text: str, stage: str, known: Known) -> Workshop:
    """Return the workshop of a worker process with the resources of a stage."""
    import torch

    config = SweepConfig.model_validate_json(config_text)
    resources = config.resources.of(stage)
    torch.set_num_threads(max(1, int(resources.cpus)))  # the number of threads is part of the result's bits
    return Workshop(config, resources, data=known.images(), prior=known.prior)


def check(shop: Workshop, class_id: int) -> None:
    shop.check_class(class_id)


def prior(shop: Workshop, argument: None) -> None:
    shop.prior_source.folder()


def teacher(shop: Workshop, argument: None) -> None:
    _ = shop.evaluator.teacher


def encode(shop: Workshop, argument: tuple[int, CodebookOptions]) -> None:
    shop.context.encode(*argument)


def quantise(shop: Workshop, argument: tuple[int, CodebookOptions, Sequence[int], Sequence[int]]) -> None:
    class_id, options, clusters, seeds = argument
    shop.context.codebooks(class_id, clusters, seeds, options)


def generate(shop: Workshop, argument: tuple[SetSpec, tuple[int, ...]]) -> None:
    spec, classes = argument
    spec.distiller().prepare(shop.context, spec.ipc, classes, clusters=spec.clusters, seed=spec.seed)


def assemble(shop: Workshop, spec: SetSpec) -> dict[str, str]:
    made = shop.distill(spec)
    return {"hash": made.hash, "image_hash": made.image_hash, "folder": str(shop.set_folder(spec))}


def label(shop: Workshop, spec: SetSpec) -> None:
    shop.evaluator.soft_labels(shop.distill(spec), spec.seed)


WORK: dict[str, Callable[[Workshop, Any], Any]] = {
    function.__name__: function for function in (check, prior, teacher, encode, quantise, generate, assemble, label)
}
