"""k-center: each image farthest from all that are chosen (Sener & Savarese, ICLR 2018, arXiv 1708.00489)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .engine.coreset import Coreset

if TYPE_CHECKING:
    import torch

    from .engine.selection import Choice


class KCenter(Coreset):
    """Greedy k-center; the first image is the one nearest to the mean of the class."""

    name = "k_center"

    def pick(self, features: torch.Tensor, ipc: int, seed: int, class_id: int) -> Choice:
        import torch

        from .engine.greedy import k_center

        return torch.from_numpy(k_center(features, ipc)), None
