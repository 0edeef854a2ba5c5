"""The plan of a sweep: its stages with counts, hours, disk and memory, before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..config import SweepConfig
from ..distiller.dry_run import DryRunContext, PriorFacts
from ..registry import PRIORS, load_plugin
from ..sweeps.grid import make_grid
from ..sweeps.resolve import resolved
from ..sweeps.session import SweepSession
from . import refusals
from .dataset_facts import DatasetFacts, assume_dataset, read_dataset
from .done import Done
from .estimate import Estimate
from .measured import Measured
from .model_facts import PriorCard, prior_facts, published_name
from .rates import Hardware, pick_hardware
from .stages import Stage
from .workload import banks, declare, trainings


@dataclass(frozen=True)
class Plan:
    """The stages of a config on some hardware, ``notes`` on what was assumed, and why it cannot run (``refused``)."""

    config: SweepConfig
    hardware: Hardware
    facts: DatasetFacts
    stages: list[Stage]
    rows: int
    rows_done: int
    notes: list[str]
    refused: list[str]

    @property
    def hours(self) -> float:
        """Hours on the clock, the stages one after the other."""
        return sum(stage.hours for stage in self.stages)

    @property
    def disk(self) -> int:
        return sum(stage.disk for stage in self.stages)

    def device_hours(self, unit: str) -> float:
        """Return the hours that workers hold devices of a kind ("GPU" or "core")."""
        return sum(stage.device_hours for stage in self.stages if stage.unit == unit)


def make_plan(
    config: SweepConfig,
    *,
    device: str | None = None,
    count: int = 1,
    cores: int | None = None,
    memory_gb: float | None = None,
    disk_bytes: float | None = None,
    assume_data: bool = False,
    assume_weights: bool = False,
) -> Plan:
    """Return the plan of a config.

    Args:
        device: a key of rates.yaml; None is this machine's.
        count, cores, memory_gb: devices and cores in all, memory of one machine; None is this machine's, or what is
            assumed beside a named GPU.
        disk_bytes: free disk where it will run; None looks at the store's folder.
        assume_data: take the published numbers of images of a known dataset in place of its files.
        assume_weights: plan although weights are not there.

    Raises:
        DDOQError: names that do not exist, a missing dataset or teacher, unknown hardware: there is nothing to plan.
    """
    for plugin in config.plugins:
        load_plugin(plugin)
    refusals.check_names(config)
    facts = assume_dataset(config.dataset) if assume_data else read_dataset(config.dataset)
    wants_gpu = _wants_gpu(config)
    hardware = pick_hardware(device, wants_gpu=wants_gpu, count=count, cores=cores, memory_gb=memory_gb)
    missing = refusals.missing_files(config)
    grid = make_grid(config)
    refused = [*([] if assume_weights else missing), *refusals.unfit_sets(config, grid, facts)]
    here = _prior_is_here(config)
    estimate = _estimate(config, facts, hardware, look_up_done=here and not missing and not refused)
    stages = estimate.stages()
    refused += refusals.lacking_memory(stages, hardware)
    refused += refusals.lacking_disk(stages, config, disk_bytes)
    rows_done = len(estimate.rows_done)
    notes = _notes(config, facts, hardware, assume_data, here)
    return Plan(config, hardware, facts, stages, len(grid.rows), rows_done, notes, refused)


def _estimate(config: SweepConfig, facts: DatasetFacts, hardware: Hardware, *, look_up_done: bool) -> Estimate:
    from ..evaluation import load_protocol

    grid, protocol = make_grid(config), load_protocol(config.protocol)
    there = config.store_folder.is_dir() or (config.output_folder / "rows").is_dir()
    session = SweepSession(resolved(config), data=facts.data) if look_up_done and facts.data and there else None
    done = Done(session)
    card = prior_facts(config.prior, facts.image_size, facts.classes, gpu=_prior_on_gpu(config))
    declared = declare(grid, _context(config, facts, card, done))
    return Estimate(
        config=config,
        grid=grid,
        facts=facts,
        prior=card,
        protocol=protocol,
        hardware=hardware,
        done=done,
        measured=Measured(config, hardware.device, facts.name, protocol.name),
        declared=declared,
        banks=banks(config, grid, declared, protocol, facts),
        trainings=trainings(grid, declared, protocol, facts),
    )


def _context(config: SweepConfig, facts: DatasetFacts, card: PriorCard, done: Done) -> DryRunContext:
    """Return the context that declares work: its keys are a sweep's where data and prior are there."""
    prior = done.prior_facts()
    if prior is None and config.prior is not None:
        can_denoise = bool(PRIORS.entry(config.prior.name).flags.get("can_denoise", True))
        prior = PriorFacts(config.prior.name, "not there yet", card.latent_shape, card.image_size, can_denoise)
    session = done.session
    store, identity = (None, None) if session is None else (session.store, session.identity)
    return DryRunContext(facts.stand_in(), config.prior, store, facts=prior, identity=identity)


def _wants_gpu(config: SweepConfig) -> bool:
    resources = config.resources
    stages = ("encode", "quantise", "generate", "label", "train")
    return resources.device != "cpu" and any(resources.of(stage).gpus for stage in stages)


def _prior_on_gpu(config: SweepConfig) -> bool:
    return config.resources.device != "cpu" and any(config.resources.of(one).gpus for one in ("encode", "generate"))


def _prior_is_here(config: SweepConfig) -> bool:
    """Return whether the prior's fingerprint can be had without fetching it: what depends on it is stored under it."""
    prior = config.prior
    return prior is None or prior.path is None or Path(prior.path).expanduser().is_dir()


def _notes(config: SweepConfig, facts: DatasetFacts, hardware: Hardware, assumed: bool, here: bool) -> list[str]:
    notes = [f"rates of {hardware.device}: {hardware.facts.source}; shares of the peak in planning/rates.yaml"]
    if assumed:
        notes.append(f"the numbers of images of {facts.name} are assumed, and nothing is looked up in the store")
    if not here:
        name = published_name(config.prior, Path(config.prior.path))
        said = f"the prior {config.prior.path} is not a folder here: it is taken for {name}"
        notes.append(f"{said}, and what the store may hold of it is not counted as done")
    return notes
