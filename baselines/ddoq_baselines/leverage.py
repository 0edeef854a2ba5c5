"""Importance sampling: images drawn by their leverage, or by their share in the cost of k-means.

After "Provable and efficient dataset distillation by subset selection" (arXiv 2307.08086), of which we had the abstract
only: kernel-ridge importance for methods of kernel regression, that of k-means for all others. The formulas are the
standard ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ddoq_plugin.seeding import generator

from .engine.coreset import Coreset, CoresetConfig

if TYPE_CHECKING:
    import torch

    from .engine.selection import Choice


class LeverageConfig(CoresetConfig):
    """Settings of importance sampling.

    importance: ``leverage`` (ridge leverage scores), ``sensitivity`` (bounds of the k-means cost, of IPC centres) or
    ``lightweight`` (half uniform, half by the squared distance to the mean). lam: of leverage, as a share of the mean
    squared length of the features; ours. weighting: ``importance`` gives an image the weight 1 / p."""

    importance: Literal["leverage", "sensitivity", "lightweight"] = "leverage"
    lam: float = Field(1e-3, gt=0, le=1e6)
    weighting: Literal["uniform", "importance"] = "uniform"


class Leverage(Coreset):
    """Distinct images drawn in proportion to their importance; what stands out is drawn often."""

    name = "leverage"
    uses_weights = True
    weight_settings = ("weighting",)
    Config = LeverageConfig
    config: LeverageConfig

    def label(self) -> str:
        name = self.name if self.config.importance == "leverage" else f"{self.name} {self.config.importance}"
        return name if self.config.weighting == "uniform" else f"{name} weighted"

    def pick(self, features: torch.Tensor, ipc: int, seed: int, class_id: int) -> Choice:
        from .engine.importance import draw

        importance = self.importance(features, ipc, seed, class_id)
        chosen = draw(importance, ipc, generator("leverage", seed, class_id))
        return chosen, None if self.config.weighting == "uniform" else 1 / importance[chosen]

    def importance(self, features: torch.Tensor, ipc: int, seed: int, class_id: int) -> torch.Tensor:
        """Return what images are drawn in proportion to, float64 ``[N]``."""
        from .engine.importance import lightweight, ridge_leverage, sensitivity

        if self.config.importance == "leverage":
            return ridge_leverage(features, self.config.lam, share=True)
        if self.config.importance == "lightweight":
            return lightweight(features)
        return sensitivity(features, min(ipc, len(features)), seed, class_id)
