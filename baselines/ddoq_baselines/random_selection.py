"""Random selection: the floor that every method has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddoq_plugin.seeding import generator

from .engine.selection import Selection

if TYPE_CHECKING:
    from ddoq_plugin.distiller import DistillContext

    from .engine.selection import Choice


class RandomSelection(Selection):
    """Images drawn at random from each class, without replacement."""

    name = "random"
    reference = True

    def choose(self, context: DistillContext, class_id: int, ipc: int, clusters: int | None, seed: int) -> Choice:
        import torch

        count = context.class_size(class_id)
        return torch.randperm(count, generator=generator("random selection", seed, class_id))[:ipc], None
