"""The plan of a sweep: its stages with counts, hours, disk and memory, before anything runs."""

from dataclasses import dataclass
from pathlib import Path

from ..config import STAGES, SweepConfig
from ..registry import load_plugin
from ..sweeps.grid import make_grid
from . import refusals
from .dataset_facts import DatasetFacts, assume_dataset, read_dataset
from .estimate import Estimate
from .model_facts import published_name
from .rates import Hardware, pick_hardware
from .sizes import human
from .stages import Stage

MOST_READ = 1 << 30  # bytes of images that a plan reads to know what is done


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

    ``device`` is a key of rates.yaml; None is this machine's. ``count`` and ``cores`` are devices and cores in all,
    ``memory_gb`` the memory of one machine; None is this machine's, or what is assumed beside a named GPU.
    ``disk_bytes`` is the free disk where it will run; None looks at the store's folder. ``assume_data`` takes the
    published numbers of images of a known dataset in place of its files. ``assume_weights`` plans although weights are
    not there. Raises DDOQError where there is nothing to plan: names that do not exist, a missing dataset or teacher,
    unknown hardware."""
    for plugin in config.plugins:
        load_plugin(plugin)
    refusals.check_names(config)
    facts = assume_dataset(config.dataset) if assume_data else read_dataset(config.dataset)
    resources, prior = config.resources, config.prior
    wants_gpu = resources.device != "cpu" and any(resources.of(stage).gpus for stage in STAGES)
    hardware = pick_hardware(device, wants_gpu=wants_gpu, count=count, cores=cores, memory_gb=memory_gb)
    missing, grid = refusals.missing_files(config), make_grid(config)
    refused = [*([] if assume_weights else missing), *refusals.unfit_sets(config, grid, facts)]
    # what depends on a prior is stored under its fingerprint, which can be had of a folder without fetching anything
    here = prior is None or prior.path is None or Path(prior.path).expanduser().is_dir()
    data = facts.data
    unread = 0 if data is None else sum(part.unread_bytes() for part in (data.train, data.val, data.test))
    known = here and unread <= MOST_READ and not missing and not refused
    estimate = Estimate(config, grid, facts, hardware, look_up_done=known)
    stages = estimate.stages()
    refused += refusals.lacking_memory(stages, hardware)
    refused += refusals.lacking_disk(stages, config, disk_bytes)
    notes = [f"rates of {hardware.device}: {hardware.facts.source}; shares of the peak in planning/rates.yaml"]
    if assume_data:
        notes.append(f"the numbers of images of {facts.name} are assumed, and nothing is looked up in the store")
    if unread > MOST_READ:
        notes.append(
            f"what the store has is not looked up: that takes a hash of the images, of which {human(unread)} were not "
            "read yet; a sweep reads them once"
        )
    if not here:
        notes.append(
            f"the prior {prior.path} is not a folder here: it is taken for {published_name(prior)}, and what the store "
            "may hold of it is not counted as done"
        )
    return Plan(config, hardware, facts, stages, len(grid.rows), len(estimate.rows_done), notes, refused)
