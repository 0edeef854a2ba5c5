"""What a piece of work cost, seconds and peak memory: for the cost columns of rows and artifacts.

How it is used (blocks may be nested; each has its own figures)::

    with measure(device) as meter:
        work()
    Cost.of(meter, images=n)

What the peak is. On CUDA: the most that torch's allocator held at once on that device during the block
(``max_memory_allocated`` after a reset). On the CPU under Linux: the process's anonymous resident memory (interpreter,
libraries' data, tensors), sampled every 20 ms during the block. Pages of mapped files are left out, since the kernel
takes them back when memory is short; so is Ray's shared object store. A rise that is over within 20 ms can be missed.
Elsewhere: the resident peak of the process's whole life (``ru_maxrss``), since nothing better is told there."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

INTERVAL = 0.02  # seconds between samples
MIB = 2**20

_active: list[Meter] = []  # from the outermost block to the innermost
_cuda_active: list[Meter] = []
_lock = threading.Lock()


@dataclass(eq=False)
class Meter:
    """What a block cost; seconds are wall clock and stand when the block has ended.

    device: ``"cpu"`` or the GPU's name. peak_memory_mb: MiB, see above."""

    device: str = "cpu"
    seconds: float = 0.0
    peak_memory_mb: float = 0.0

    def note(self, mib: float) -> None:
        """Raise the peak to ``mib`` if it is higher."""
        self.peak_memory_mb = max(self.peak_memory_mb, mib)


@dataclass(frozen=True)
class Cost:
    """The cost of making something, whoever made it.

    seconds: wall clock. images: how many were worked on, None where that means nothing. device: ``"cpu"``, a GPU's
    name, or several joined with ``+``; None where nothing was made. peak_memory_mb: MiB, as this module defines it;
    None where it was not measured."""

    seconds: float = 0.0
    images: int | None = None
    device: str | None = "cpu"
    peak_memory_mb: float | None = None

    @classmethod
    def of(cls, meter: Meter, images: int | None = None) -> Cost:
        """Return what a finished meter shows."""
        return cls(meter.seconds, images, meter.device, meter.peak_memory_mb)

    @classmethod
    def total(cls, costs: Iterable[Cost]) -> Cost:
        """Return the sum of seconds and of images, the largest peak, and the devices, joined where they differ."""
        parts = list(costs)
        images = [part.images for part in parts if part.images is not None]
        peaks = [part.peak_memory_mb for part in parts if part.peak_memory_mb is not None]
        devices = sorted({part.device for part in parts if part.device is not None})
        return cls(
            seconds=sum(part.seconds for part in parts),
            images=sum(images) if images else None,
            device="+".join(devices) or None,
            peak_memory_mb=max(peaks, default=None),
        )


@contextmanager
def measure(device: str | torch.device = "cpu") -> Iterator[Meter]:
    """Measure the block; its figures are on the meter when the block has ended, also by an exception."""
    meter, started = Meter(), time.perf_counter()
    with _cuda_peak(meter, device) if str(device).startswith("cuda") else _process_peak(meter):
        try:
            yield meter
        finally:
            meter.seconds = time.perf_counter() - started


def process_memory_mb() -> float:
    """Return the process's anonymous resident memory now, MiB (not under Linux: its life's resident peak)."""
    try:
        with open("/proc/self/statm", "rb") as file:
            pages = file.read().split()
        return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE") / MIB  # resident less shared and mapped
    except OSError:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts bytes there, KiB elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


@contextmanager
def _process_peak(meter: Meter) -> Iterator[None]:
    with _lock:
        _active.append(meter)
        first = len(_active) == 1
    if first:
        _give_back()
    _sample()
    stop = threading.Event()
    if first:  # one thread serves all blocks inside this one
        threading.Thread(target=_keep_sampling, args=(stop,), name="ddoq-memory", daemon=True).start()
    try:
        yield
    finally:
        stop.set()
        _sample()
        with _lock:
            _active.remove(meter)
        if first:
            _give_back()


def _give_back() -> None:
    """Return freed memory to the system (glibc keeps it), so that no peak has what an earlier piece of work needed."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _keep_sampling(stop: threading.Event) -> None:
    while not stop.wait(INTERVAL):
        _sample()


def _sample() -> None:
    now = process_memory_mb()
    with _lock:
        for meter in _active:
            meter.note(now)


@contextmanager
def _cuda_peak(meter: Meter, device: str | torch.device) -> Iterator[None]:
    import torch

    meter.device, outer = torch.cuda.get_device_name(device), list(_cuda_active)
    for other in outer:  # the reset below would hide what they have seen
        other.note(torch.cuda.max_memory_allocated(device) / MIB)
    torch.cuda.reset_peak_memory_stats(device)
    _cuda_active.append(meter)
    try:
        yield
    finally:
        torch.cuda.synchronize(device)
        meter.note(torch.cuda.max_memory_allocated(device) / MIB)
        _cuda_active.remove(meter)
        for other in outer:
            other.note(meter.peak_memory_mb)
