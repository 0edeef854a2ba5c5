"""What the driver finds out once and hands to every worker: the index of the images, and what the prior is.

A worker that only needs to know *which* prior a set depends on (to quantise, to put a set together) never loads it, and
a folder of a million images is listed once a sweep, not once a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ray

    from ..data import ImageData
    from ..priors import Prior


@dataclass(frozen=True)
class PriorFacts:
    """What is asked of a prior without running it; see :class:`ddoq_plugin.priors.base.Prior`."""

    name: str
    fingerprint: str
    latent_shape: tuple[int, int, int]
    image_size: int
    can_denoise: bool
    title: str = ""

    @classmethod
    def of(cls, prior: Prior) -> PriorFacts:
        return cls(**{name: getattr(prior, name) for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class SharedFacts:
    """``data``: a reference to the ImageData of folders (an index of files; None: each worker loads its own arrays).
    ``prior``: None where there is none, or where it is one that the sweep trains: those are small."""

    data: ray.ObjectRef | None = None
    prior: PriorFacts | None = None

    def images(self) -> ImageData | None:
        if self.data is None:
            return None
        import ray

        return ray.get(self.data)


class DeferredPrior:
    """Stands for a prior whose facts are known; the first call that needs more loads it."""

    def __init__(self, facts: PriorFacts, load: Callable[[], Prior]) -> None:
        self.__dict__.update({name: getattr(facts, name) for name in facts.__dataclass_fields__}, _load=load)

    def bind_classes(self, class_names: Sequence[str], wordnet_ids: Sequence[str] | None = None) -> None:
        """Nothing to do: the loader binds the dataset's classes."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # pickling and copying ask for these; they must not load anything
            raise AttributeError(name)
        return getattr(self._load(), name)


def is_index(data: ImageData) -> bool:
    """Return whether the data are lists of files, so that they travel cheaply and need checking."""
    from ..data.files import FolderSplit

    return all(isinstance(split, FolderSplit) for split in (data.train, data.val, data.test))
