"""The shared stages as Ray tasks: prior, teacher, codebooks, sets, soft labels.

A task does one thing of the worker's :class:`Workshop` and leaves its result in the store; what it returns is small.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from ..config import SweepConfig
from ..errors import DDOQError
from ..progress import bar
from .grid import SetSpec
from .workshop import Workshop


class RayStages:
    """Runs stages of a config as Ray tasks with the config's resources."""

    def __init__(self, config: SweepConfig, *, progress: bool = True) -> None:
        import ray

        self._text, self._progress = config.model_dump_json(), progress
        resources = config.resources
        self._task = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=3)(run_stage)
        available = ray.cluster_resources()
        slots = available.get("CPU", 1) / resources.cpus
        if resources.gpus:
            slots = min(slots, available.get("GPU", 0) / resources.gpus)
        if slots < 1:
            raise DDOQError(
                f"a task asks for {resources.cpus:g} CPUs and {resources.gpus:g} GPUs and Ray has "
                f"{available.get('CPU', 0):g} and {available.get('GPU', 0):g}; lower resources: in the config"
            )
        self.slots = int(slots)

    def start(self, stage: str, argument: Any = None) -> Any:
        """Start one task and return its reference."""
        return self._task.remote(self._text, stage, argument)

    def watch(self, reference: Any, description: str) -> Any:
        """Return a task's result as :meth:`wait` does, counting the seconds meanwhile."""
        import ray

        with bar(None, f"{description} (seconds)", show=self._progress) as shown:
            while not ray.wait([reference], timeout=1)[0]:
                shown.update(1)
        return self.wait(reference)

    def wait(self, reference: Any) -> Any:
        """Return a task's result and repeat its warnings; a DDOQError of the worker is raised here as itself."""
        import ray

        try:
            result, messages = ray.get(reference)
            for message in messages:
                warnings.warn(message, stacklevel=2)
            return result
        except ray.exceptions.RayTaskError as problem:
            raise (problem.cause if isinstance(problem.cause, DDOQError) else problem) from None

    def map(self, stage: str, arguments: Sequence[Any], description: str) -> list[tuple[Any, Any]]:
        """Run a stage for every argument; return (argument, result or exception) in the arguments' order."""
        import ray

        references = {self.start(stage, argument): index for index, argument in enumerate(arguments)}
        waiting, outcomes = list(references), {}
        with bar(len(waiting), description, show=self._progress) as shown:
            while waiting:
                ready, waiting = ray.wait(waiting)
                for reference in ready:
                    try:
                        outcomes[references[reference]] = self.wait(reference)
                    except Exception as problem:  # it belongs to this argument alone
                        outcomes[references[reference]] = problem
                    shown.update(1)
        return [(argument, outcomes[index]) for index, argument in enumerate(arguments)]


def codebook_jobs(sets: Iterable[SetSpec], classes: int, slots: int) -> list[tuple]:
    """Return (options, classes, K, seeds) jobs that make every codebook of the sets, the classes shared over slots."""
    wanted: dict[Any, tuple[set[int], set[int]]] = {}
    for spec in sets:
        options = spec.distiller().codebook_options()
        if options is not None:
            clusters, seeds = wanted.setdefault(options, (set(), set()))
            clusters.add(spec.clusters or spec.ipc)
            seeds.add(spec.seed)
    chunks = [list(range(classes))[start::slots] for start in range(min(slots, classes))]
    return [
        (options, chunk, sorted(clusters), sorted(seeds))
        for options, (clusters, seeds) in wanted.items()
        for chunk in chunks
    ]


def run_stage(config_text: str, stage: str, argument: Any) -> tuple[Any, list[str]]:
    """Run one stage in a worker; return its result and the package's own warnings (a damaged artifact, say)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = _run(worker_workshop(config_text), stage, argument)
    return result, [str(one.message) for one in caught if "ddoq" in one.filename]


def _run(shop: Workshop, stage: str, argument: Any) -> Any:
    if stage == "prepare_prior":
        return shop.prior_source.load().fingerprint
    if stage == "prepare_teacher":
        return shop.evaluator.teacher.fingerprint
    if stage == "fill_codebooks":
        return shop.fill_codebooks(*argument)
    made = shop.distill(argument)
    if stage == "label":
        shop.evaluator.soft_labels(made, argument.seed)
    return {"hash": made.hash, "image_hash": made.image_hash, "folder": str(shop.set_folder(argument))}


@functools.lru_cache(maxsize=1)
def worker_workshop(config_text: str) -> Workshop:
    """Return this process's workshop: a worker keeps data, prior and teacher between tasks."""
    import torch

    config = SweepConfig.model_validate_json(config_text)
    torch.set_num_threads(max(1, int(config.resources.cpus)))  # the number of threads is part of the result's bits
    return Workshop(config)
