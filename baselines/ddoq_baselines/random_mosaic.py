"""Random mosaics: four random images in the room of one, the floor of methods that learn mosaics (IDM, M3D)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ddoq_plugin.distiller import Distiller, Work
from ddoq_plugin.seeding import generator

from .engine.learning import check_even_side

if TYPE_CHECKING:
    from ddoq_plugin.distilled_set import DistilledSet
    from ddoq_plugin.distiller import DistillContext

PARTS = 4


class RandomMosaic(Distiller):
    """Mosaics of four random images of a class each, halved as IDM halves the images that it begins with.

    Sets count mosaics: a student sees 4 IPC images of a quarter of the pixels."""

    name = "random_mosaic"

    def check(self, context: DistillContext, ipc: int, clusters: int | None) -> None:
        super().check(context, ipc, clusters)
        context.check_class_sizes(PARTS * ipc, "images", self.label())
        check_even_side(context, self.label())

    def work(self, context: DistillContext, ipc: int, clusters: int | None, seed: int) -> Iterable[Work]:
        yield context.set_work(self, ipc, clusters, seed, stage="quantise")

    def distill(self, context: DistillContext, ipc: int, *, clusters: int | None = None, seed: int = 0) -> DistilledSet:
        import torch

        from ddoq_plugin.data.transforms import make_mosaic
        from ddoq_plugin.distilled_set import to_uint8

        self.check(context, ipc, clusters)
        images = context.empty_images(context.num_classes * ipc)
        for class_id in range(context.num_classes):
            draws = generator("random mosaic", seed, class_id)
            chosen = torch.randperm(context.class_size(class_id), generator=draws)[: PARTS * ipc]
            parts = context.images(class_id, chosen).float() / 255
            images[class_id * ipc : (class_id + 1) * ipc] = to_uint8(make_mosaic(parts.unflatten(0, (PARTS, ipc))))
        labels = torch.arange(context.num_classes).repeat_interleave(ipc)
        return context.finish(self, images, labels, ipc=ipc, clusters=None, seed=seed, mosaic=2)
