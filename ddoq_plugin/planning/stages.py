"""The stages of a config: how much is to do, how long it takes and what it needs."""

import math
from dataclasses import dataclass, field

from ..config import StageResources
from ..errors import DDOQError
from .rates import CPU, Hardware, Precision, assumed_flops, load_rates

MEASURED, ASSUMED = "measured", "assumed"


@dataclass(frozen=True)
class Term:
    """One part of a stage's time: ``seconds`` of one worker for all of it, how they were reckoned (``how``), and
    whether their rate was measured or assumed."""

    seconds: float
    how: str
    basis: str = ASSUMED


@dataclass
class Stage:
    """A stage of a plan; ``network``, ``measured`` and ``operation`` turn counted work into terms of its time.

    ``asks`` is the stage of the config whose ``resources`` its workers have. ``tasks`` of which ``done`` are finished;
    ``work`` says in words what is to do. ``disk`` are bytes that it writes. ``memory`` are bytes that one worker holds
    at its peak in main memory, ``held`` those on its GPU, if it has one. No more than ``limit`` tasks run at once."""

    name: str
    asks: str
    resources: StageResources
    hardware: Hardware
    tasks: int = 0
    done: int = 0
    work: str = ""
    disk: int = 0
    memory: int = 0
    held: int = 0
    limit: int | None = None
    terms: list[Term] = field(default_factory=list)

    @property
    def todo(self) -> int:
        return self.tasks - self.done

    @property
    def on_gpu(self) -> bool:
        return bool(self.resources.gpus) and self.hardware.is_gpu

    @property
    def device_memory(self) -> int:
        """Bytes that one worker holds at its peak in GPU memory; 0 on the CPU."""
        return self.held if self.on_gpu else 0

    @property
    def at_once(self) -> int:
        """How many of its tasks run side by side."""
        slots = math.floor(self.hardware.cores / self.resources.cpus + 1e-9)
        gpus = self.resources.gpus
        if gpus:
            fit = math.floor(1 / gpus + 1e-9) * self.hardware.count if gpus <= 1 else self.hardware.count // int(gpus)
            slots = min(slots, fit)
        return max(1, min(slots, self.todo, self.limit or slots))

    @property
    def worker_hours(self) -> float:
        return sum(term.seconds for term in self.terms) / 3600

    @property
    def device_hours(self) -> float:
        """The GPU-hours (without a GPU: core-hours) that its workers hold."""
        return self.worker_hours * (self.resources.gpus or self.resources.cpus)

    @property
    def unit(self) -> str:
        return "GPU" if self.resources.gpus else "core"

    @property
    def hours(self) -> float:
        """The hours on the clock, writing included."""
        writing = self.disk / (load_rates().disk.megabytes_per_second * 1e6) / 3600
        return self.worker_hours / self.at_once + writing

    @property
    def basis(self) -> str:
        bases = {term.basis for term in self.terms if term.seconds}
        return " + ".join(sorted(bases, reverse=True)) or "-"

    def network(
        self, use: str, what: str, images: float, flops: float, precision: Precision, measured: float | None = None
    ) -> None:
        """Add ``images`` times ``flops`` of a network, at the measured images a second where there are any.

        ``use`` names the share of the peak in rates.yaml."""
        if not images or not flops:
            return
        if measured:
            self.measured(what, images, measured)
            return
        device, share = (self.hardware.device, self.resources.gpus) if self.on_gpu else (CPU, self.resources.cpus)
        rate = assumed_flops(device, use, precision) * share
        how = f"{images:,.0f} {what} x {flops / 1e9:,.4g} GFLOP / {rate / 1e12:,.4g} TFLOP/s ({share:g} {device})"
        self.terms.append(Term(images * flops / rate, how))

    def measured(self, what: str, images: float, rate: float) -> None:
        """Add images at a measured number a second."""
        self.terms.append(Term(images / rate, f"{images:,.0f} {what} / {rate:,.1f} a second", MEASURED))

    def operation(self, name: str, amount: float) -> None:
        """Add work of processor cores by its name in rates.yaml; a worker's cores share it."""
        core, cpus = load_rates().core, self.resources.cpus
        if name not in core:
            raise DDOQError(f"no rate is stated for the operation {name!r}; use one of {', '.join(core)} in an Effort")
        if amount:
            how = f"{amount:,.4g} {name} / {core[name]:,.4g} a second and core / {cpus:g} cores"
            self.terms.append(Term(amount / core[name] / cpus, how))
