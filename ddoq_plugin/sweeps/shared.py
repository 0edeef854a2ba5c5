"""What the driver finds out once and hands to every worker: the index of the images, and what the prior is.

A worker that only needs to know *which* prior a set depends on (to quantise, to put a set together) never loads it, and
a folder of a million images is listed once a sweep, not once a worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..distiller.dry_run import PriorFacts

if TYPE_CHECKING:
    import ray

    from ..data import ImageData


@dataclass(frozen=True)
class SharedFacts:
    """``data``: a reference to the ImageData of folders (an index of files; None: each worker loads its own arrays).
    ``prior``: None where there is none, or where it is one that the sweep trains: those are small."""

    data: ray.ObjectRef | None = None
    prior: PriorFacts | None = None

    def images(self) -> ImageData | None:
        """Return the shared index; None where a worker loads its own data."""
        if self.data is None:
            return None
        import ray

        return ray.get(self.data)


def is_index(data: ImageData) -> bool:
    """Return whether the data are lists of files, so that they travel cheaply and need checking."""
    return all(split.in_files for split in (data.train, data.val, data.test))
