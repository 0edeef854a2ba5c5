"""What cannot work: one sentence each, with the mend."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import SweepConfig
from ..distiller.dry_run import DryRunContext
from ..distiller.method import blamed
from ..errors import ConfigError, DDOQError
from ..evaluation import load_protocol
from ..evaluation.students.build import check_student
from ..registry import DATASETS, PRIORS
from ..sweeps.grid import Grid
from .sizes import human
from .stages import Stage

if TYPE_CHECKING:
    from .dataset_facts import DatasetFacts
    from .rates import Hardware

GIB = 2**30
ROOM = 0.95  # of a GPU's memory: the rest is the driver's and the libraries'


def check_names(config: SweepConfig) -> None:
    """Raise the error of a dataset, prior, student, protocol or recipe that does not exist, or of a missing teacher."""
    DATASETS.entry(config.dataset.name.partition(":")[0])
    for student in config.students:
        check_student(student)
    if config.prior is not None:
        PRIORS.entry(config.prior.name)
        if config.prior.train is not None:
            from ..priors import load_recipe

            load_recipe(config.prior.train)
    protocol = load_protocol(config.protocol)
    if protocol.needs_teacher and config.teacher is None:
        raise ConfigError(
            f"the protocol {protocol.name!r} trains on a teacher's labels; name one (teacher: {{student: ...}})"
        )
    if config.teacher is not None:
        check_student(config.teacher.student)
        if config.teacher.weights is None:
            load_protocol(config.teacher.protocol)


def missing_files(config: SweepConfig) -> list[str]:
    """Return what is not there of the prior's and the teacher's weights."""
    from ..priors.pipelines import HUB_ID

    found = []
    prior, teacher = config.prior, config.teacher
    if prior is not None and prior.train is None and PRIORS.entry(prior.name).flags.get("needs_path"):
        if prior.path is None:
            found.append(f"the prior {prior.name!r} has no path; give its folder or hub id: --set prior.path=...")
        elif not Path(prior.path).expanduser().is_dir() and not HUB_ID.fullmatch(prior.path):
            found.append(
                f"the folder {prior.path} of the prior {prior.name!r} does not exist; give its folder or hub id: "
                "--set prior.path=... (or plan without it: --assume-weights)"
            )
    if teacher is not None and teacher.weights is not None and not Path(teacher.weights).is_file():
        found.append(
            f"there is no file of teacher weights {teacher.weights}; give a state dict: --set teacher.weights=... (or "
            "plan without it: --assume-weights)"
        )
    return found


def unfit_sets(config: SweepConfig, grid: Grid, facts: DatasetFacts) -> list[str]:
    """Return the first complaint of every method about what it is asked for, such as more clusters than images."""
    found, context = {}, DryRunContext(facts.stand_in(smallest=True), config.prior)
    for spec in sorted(grid.sets, key=lambda one: (one.ipc, one.clusters or 0)):
        if spec.label not in found:
            try:
                with blamed(spec.distiller()):
                    spec.distiller().check(context, spec.ipc, spec.clusters)
            except DDOQError as problem:
                found[spec.label] = str(problem)
    return list(found.values())


def lacking_disk(stages: list[Stage], config: SweepConfig, given: float | None) -> list[str]:
    """Return a sentence if what is to be written does not fit; ``given`` is free disk in bytes where it will run."""
    needed, folder = sum(stage.disk for stage in stages), existing(config.store_folder)
    free = shutil.disk_usage(folder).free if given is None else given
    if needed <= free:
        return []
    where = f"{config.store_folder} has" if given is None else "there are"
    return [
        f"the run writes {human(needed)} and {where} {human(free)} free; set store: to a larger disk, or lower ipc, "
        "seeds or the methods' stored_size (plan for another disk: --disk 8TB)"
    ]


def lacking_memory(stages: list[Stage], hardware: Hardware) -> list[str]:
    """Return sentences on workers whose memory is not to be had."""
    found = []
    for stage in stages:
        key, asked = stage.asks, stage.resources
        if not stage.todo:
            continue
        if stage.memory > hardware.memory_gb * 1e9:
            found.append(
                f"a worker of the stage {stage.name!r} needs about {human(stage.memory)} of memory and the machine has "
                f"{human(hardware.memory_gb * 1e9)}; take a larger machine, or lower ipc or image_size"
            )
        elif asked.memory_gb is not None and stage.memory > asked.memory_gb * GIB:
            found.append(
                f"a worker of the stage {stage.name!r} needs about {stage.memory / GIB:.1f} GiB and the config gives "
                f"it {asked.memory_gb:g}; raise resources.stages.{key}.memory_gb"
            )
        found += [
            f"a worker of the stage {stage.name!r} asks for {wanted:g} {kind} and there are {there}; "
            f"lower resources.stages.{key}.{kind.lower()}"
            for kind, wanted, there in (("CPUs", asked.cpus, hardware.cores), ("GPUs", asked.gpus, hardware.count))
            if wanted > there
        ]
        found += _lacking_gpu_memory(stage, hardware, key)
    return found


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    folder = folder.expanduser().resolve()
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def _lacking_gpu_memory(stage: Stage, hardware: Hardware, key: str) -> list[str]:
    limit = hardware.facts.memory_gb
    if limit is None or not stage.resources.gpus:
        return []
    share = min(1.0, stage.resources.gpus)
    if stage.device_memory <= limit * 1e9 * ROOM * share:
        return []
    part = "" if share == 1 else f" and its share is {share:g}"
    mend = "take a larger GPU" if share == 1 else f"raise resources.stages.{key}.gpus"
    return [
        f"a worker of the stage {stage.name!r} needs about {human(stage.device_memory)} of GPU memory, a "
        f"{hardware.device} has {limit:g} GB{part}; {mend}, raise the protocol's accumulation, or lower ipc"
    ]
