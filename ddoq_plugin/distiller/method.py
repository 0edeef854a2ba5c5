"""Distiller: what a method implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ValidationError

from ..errors import ConfigError, DistillError, explain
from ..registry import DISTILLERS
from .options import DistillerConfig
from .work import Work

if TYPE_CHECKING:
    from ..distilled_set import DistilledSet
    from .context import DistillContext


class Distiller(ABC):
    """A dataset-distillation method. Subclass it, register it, and it is in the tables.

    The flags say what a method needs and does: ``makes_images`` (False: it picks real ones), ``uses_clusters`` (the
    number of clusters K is a setting of its own), ``uses_weights``, ``needs_prior``, and ``reference`` (others are
    tested against it). ``weight_settings`` names the settings that change nothing but the weights. ``quick`` are
    settings with which the method takes a moment, for :mod:`ddoq_plugin.testing`.
    """

    name: ClassVar[str] = ""  # the registry's name, set when the method is made by name
    makes_images: ClassVar[bool] = True
    uses_clusters: ClassVar[bool] = False
    uses_weights: ClassVar[bool] = False
    needs_prior: ClassVar[bool] = False
    reference: ClassVar[bool] = False
    weight_settings: ClassVar[tuple[str, ...]] = ()
    quick: ClassVar[Mapping[str, Any]] = {}
    Config: ClassVar[type[DistillerConfig]] = DistillerConfig

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if not (isinstance(cls.Config, type) and issubclass(cls.Config, DistillerConfig)):
            raise DistillError(
                f"{cls.__name__}.Config has not the settings of every method; derive it from DistillerConfig"
            )

    def __init__(self, **settings: Any) -> None:
        try:
            self.config = self.Config(**settings)
        except ValidationError as problem:
            raise ConfigError(f"{type(self).__name__}: {explain(problem, self.Config, 'setting')}") from None

    @abstractmethod
    def distill(self, context: DistillContext, ipc: int, *, clusters: int | None = None, seed: int = 0) -> DistilledSet:
        """Return a set of ``ipc`` images a class.

        ``clusters`` is K, the codebook's size (None: ``ipc``); a method without clusters ignores it. The same
        arguments and context give the same bits. Raises DistillError where the set cannot be made.
        """

    def parts(self) -> tuple[Distiller, ...]:
        """Return the methods that this one wraps; keys, checks and tables include them."""
        return ()

    def work(self, context: DistillContext, ipc: int, clusters: int | None, seed: int) -> Iterable[Work]:
        """Yield the work that a set consists of, without doing any: a sweep spreads it, a plan prices it.

        Default: the set as one piece, which continues from its checkpoints (``context.steps``) when it was killed.
        Say its figures with ``context.set_work(self, ..., effort=Effort(...))``. What is worth sharing between sets or
        spreading over workers is a need of its own: ``context.encode_work``, ``codebook_work``, ``artifact_work``,
        ``pushforward(...).works``. ``distill`` makes what nobody made before, so that the set is the same to the bit.
        """
        yield context.set_work(self, ipc, clusters, seed)

    def label(self) -> str:
        """Return the method's short name in tables; settings that a sweep varies are added by the sweep."""
        return self.name or type(self).__name__

    def check(self, context: DistillContext, ipc: int, clusters: int | None) -> None:
        """Raise DistillError or PriorError where ``distill`` with these arguments must fail; called before any work."""
        if ipc < 1 or (clusters is not None and clusters < 1):
            raise DistillError(f"ipc and clusters must be at least 1; got ipc {ipc}, clusters {clusters}")
        if self.needs_prior and not context.has_prior:
            raise DistillError(f"the method {self.label()!r} needs a prior; name one in the configuration (prior: ...)")
        stored, size = self.config.stored_size, context.data.image_size
        if stored is not None and stored > size:
            raise DistillError(
                f"{self.label()!r}: stored_size {stored} is larger than the images, which are made at {size} px; lower "
                "it, or leave it out"
            )
        if getattr(self.config, "space", None) == "noise" and not context.can_denoise:
            raise DistillError(f"{self.label()!r}: space: noise needs a diffusion prior to invert images; name one")
        needed, what = (clusters or ipc, "clusters") if self.uses_clusters else (0, "")
        if not self.makes_images and ipc > needed:
            needed, what = ipc, "images"
        context.check_class_sizes(needed, what, self.label())


def make_distiller(name: str, settings: dict[str, Any]) -> Distiller:
    """Return the registered method ``name`` with its settings; ConfigError or UnknownNameError where they are wrong."""
    found = DISTILLERS.load(name)
    if not (isinstance(found, type) and issubclass(found, Distiller)):
        raise ConfigError(f"the distiller {name!r} is {found!r}; register a subclass of ddoq_plugin.Distiller")
    method = found(**settings)
    method.name = name  # type: ignore[misc]  # an instance attribute over the class's default
    return method
