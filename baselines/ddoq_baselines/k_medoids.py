"""k-medoids: the real images nearest to the centroids of the class's latents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ddoq_plugin.distiller import CodebookOptions, DistillerConfig, Work

from .engine.selection import Selection

if TYPE_CHECKING:
    from ddoq_plugin.distiller import DistillContext

    from .engine.selection import Choice


class KMedoidsConfig(CodebookOptions, DistillerConfig):
    """Settings of k-medoids: those of its codebook and of every method."""


class KMedoids(Selection):
    """The real images nearest to the centroids of the latents (pixels where there is no prior)."""

    name = "k_medoids"
    uses_clusters = True
    Config = KMedoidsConfig
    config: KMedoidsConfig

    def space(self) -> CodebookOptions:
        return CodebookOptions.of(self.config)

    def needs(self, context: DistillContext, ipc: int, clusters: int | None, seed: int) -> Iterable[Work]:
        for class_id in range(context.num_classes):
            yield context.codebook_work(class_id, self._points(ipc, clusters), seed, self.space())

    def choose(self, context: DistillContext, class_id: int, ipc: int, clusters: int | None, seed: int) -> Choice:
        from ddoq_plugin.quantization.allocation import allocate, nearest_samples

        options = self.space()
        latents = context.latents(class_id, options).flatten(1)
        book = context.codebook(class_id, self._points(ipc, clusters), seed, options)
        allocation = allocate(latents, book, ipc, seed=seed, name=context.class_names[class_id])
        return nearest_samples(latents, allocation), None

    def _points(self, ipc: int, clusters: int | None) -> int:
        """Return the K of the codebook; Lloyd's centroids average to the class mean: one is enough for one image."""
        return 1 if ipc == 1 and self.config.clustering == "lloyd" else clusters or ipc
