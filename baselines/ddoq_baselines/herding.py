"""Herding: images whose running mean stays nearest to the mean of their class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .engine.coreset import Coreset

if TYPE_CHECKING:
    import torch

    from .engine.selection import Choice


class Herding(Coreset):
    """Each image brings the mean of the chosen nearest to that of the class (Welling, ICML 2009; DC's baseline).

    DeepCore's code takes the image that brings it farthest, and so picks outliers."""

    name = "herding"

    def pick(self, features: torch.Tensor, ipc: int, seed: int, class_id: int) -> Choice:
        import torch

        from .engine.greedy import herding

        return torch.from_numpy(herding(features, ipc)), None
