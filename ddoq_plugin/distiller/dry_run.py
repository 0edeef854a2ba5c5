"""A context for questions that come before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..registry import PRIORS
from .context import DistillContext

if TYPE_CHECKING:
    from ..config import PriorConfig
    from ..data import ImageData


class DryRunContext(DistillContext):
    """A context whose prior is not made yet: it answers what a distiller's ``check`` asks, before any training."""

    def __init__(self, data: ImageData, prior: PriorConfig | None) -> None:
        super().__init__(data)
        self._planned = prior

    @property
    def has_prior(self) -> bool:
        return self._planned is not None

    @property
    def can_denoise(self) -> bool:
        return self._planned is not None and bool(PRIORS.entry(self._planned.name).flags.get("can_denoise", True))
