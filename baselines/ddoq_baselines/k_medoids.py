"""k-medoids: the real images nearest to the centroids of the class's latents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ddoq_plugin.distiller import CodebookOptions, Distiller, DistillerConfig, Effort, Work

if TYPE_CHECKING:
    from ddoq_plugin.distilled_set import DistilledSet
    from ddoq_plugin.distiller import DistillContext


class KMedoidsConfig(CodebookOptions, DistillerConfig):
    """Settings of k-medoids: those of its codebook and of every method."""


class KMedoids(Distiller):
    """The real images nearest to the centroids of the latents (pixels where there is no prior)."""

    name = "k_medoids"
    makes_images = False
    uses_clusters = True
    Config = KMedoidsConfig
    config: KMedoidsConfig

    def work(self, context: DistillContext, ipc: int, clusters: int | None, seed: int) -> Iterable[Work]:
        options, classes = CodebookOptions.of(self.config), range(context.num_classes)
        books = [context.codebook_work(class_id, self._points(ipc, clusters), seed, options) for class_id in classes]
        modes = [work for class_id in classes for work in context.encode_work(class_id, options.measured())]
        effort = Effort(operations=context.w2_operations(ipc))
        yield context.set_work(self, ipc, clusters, seed, needs=(*books, *modes), effort=effort, stage="quantise")

    def distill(self, context: DistillContext, ipc: int, *, clusters: int | None = None, seed: int = 0) -> DistilledSet:
        import torch

        from ddoq_plugin.quantization.allocation import allocate, nearest_samples

        self.check(context, ipc, clusters)
        clusters, options = clusters or ipc, CodebookOptions.of(self.config)
        images, distances = context.empty_images(context.num_classes * ipc), []
        for class_id in range(context.num_classes):
            latents = context.latents(class_id, options).flatten(1)
            book = context.codebook(class_id, self._points(ipc, clusters), seed, options)
            allocation = allocate(latents, book, ipc, seed=seed, name=context.class_names[class_id])
            chosen = nearest_samples(latents, allocation)
            images[class_id * ipc : (class_id + 1) * ipc] = context.images(class_id, chosen)
            mode = options.measured()
            distances.append(context.w2(class_id, context.latents(class_id, mode).flatten(1)[chosen], mode))
        w2 = sum(distances) / len(distances)
        labels = torch.arange(context.num_classes).repeat_interleave(ipc)
        stats = {"w2_used": w2, "w2_uniform": w2, "effective_sample_size": float(ipc), "space": options.space}
        return context.finish(self, images, labels, ipc=ipc, clusters=clusters, seed=seed, stats=stats)

    def _points(self, ipc: int, clusters: int | None) -> int:
        """Return the K of the codebook; Lloyd's centroids average to the class mean: one is enough for one image."""
        return 1 if ipc == 1 and self.config.clustering == "lloyd" else clusters or ipc
