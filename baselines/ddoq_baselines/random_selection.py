"""Random selection: the floor that every method has to beat."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ddoq_plugin.distiller import Distiller, Effort, Work
from ddoq_plugin.seeding import generator

if TYPE_CHECKING:
    from ddoq_plugin.distilled_set import DistilledSet
    from ddoq_plugin.distiller import DistillContext


class RandomSelection(Distiller):
    """Images drawn at random from each class, without replacement."""

    name = "random"
    makes_images = False
    reference = True

    def work(self, context: DistillContext, ipc: int, clusters: int | None, seed: int) -> Iterable[Work]:
        latents = [work for class_id in range(context.num_classes) for work in context.encode_work(class_id)]
        effort = Effort(operations=context.w2_operations(ipc))
        # W2 is measured in the latents
        yield context.set_work(self, ipc, clusters, seed, needs=latents, effort=effort, stage="quantise")

    def distill(self, context: DistillContext, ipc: int, *, clusters: int | None = None, seed: int = 0) -> DistilledSet:
        import torch

        self.check(context, ipc, None)
        images, distances = context.empty_images(context.num_classes * ipc), []
        for class_id in range(context.num_classes):
            count = len(context.data.train.class_indices(class_id))
            chosen = torch.randperm(count, generator=generator("random selection", seed, class_id))[:ipc]
            images[class_id * ipc : (class_id + 1) * ipc] = context.images(class_id, chosen)
            distances.append(context.w2(class_id, context.latents(class_id).flatten(1)[chosen]))
        w2 = sum(distances) / len(distances)
        labels = torch.arange(context.num_classes).repeat_interleave(ipc)
        stats = {"w2_used": w2, "w2_uniform": w2, "effective_sample_size": float(ipc), "space": "latent"}
        return context.finish(self, images, labels, ipc=ipc, clusters=None, seed=seed, stats=stats)
