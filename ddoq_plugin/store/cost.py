"""What a piece of work cost: seconds, images, device and peak memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .metering import Meter


@dataclass(frozen=True)
class Cost:
    """The cost of making something, whoever made it.

    seconds: wall clock. images: how many were worked on, None where that means nothing. device: ``"cpu"``, a GPU's
    name, or several joined with ``+``; None where nothing was made. peak_memory_mb: MiB, as
    :mod:`ddoq_plugin.store.metering` defines it; None where it was not measured.
    """

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
