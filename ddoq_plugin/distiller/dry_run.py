"""A context for questions that come before any work: what a method checks, and what it will consist of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..registry import PRIORS
from .context import DistillContext

if TYPE_CHECKING:
    from ..config import PriorConfig
    from ..data import ImageData
    from ..priors import Prior
    from ..store.artifacts import Store


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


class DeferredPrior:
    """Stands for a prior whose facts are known; the first call that needs more loads it."""

    def __init__(self, facts: PriorFacts, load: Callable[[], Prior]) -> None:
        self.__dict__.update(vars(facts), _load=load)

    def bind_classes(self, class_names: Sequence[str], wordnet_ids: Sequence[str] | None = None) -> None:
        """Nothing to do: the loader binds the dataset's classes."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # pickling and copying ask for these; they must not load anything
            raise AttributeError(name)
        return getattr(self._load(), name)


class DryRunContext(DistillContext):
    """A context whose prior need not be there: it answers what ``check`` asks and, with its ``facts``, what ``work``
    asks. Nothing can be made with it."""

    def __init__(
        self,
        data: ImageData,
        prior: PriorConfig | None,
        store: Store | None = None,
        *,
        facts: PriorFacts | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        known: Any = None if facts is None else DeferredPrior(facts, _refuse)
        super().__init__(data, known, store, device="cpu", identity=identity)
        self._planned = prior

    @property
    def has_prior(self) -> bool:
        return self._planned is not None

    @property
    def can_denoise(self) -> bool:
        return self._planned is not None and bool(PRIORS.entry(self._planned.name).flags.get("can_denoise", True))

    def prior_modules(self) -> list[str]:
        return [] if self._planned is None else [PRIORS.module(self._planned.name)]


def _refuse() -> Any:
    raise AssertionError("a plan runs no prior")
