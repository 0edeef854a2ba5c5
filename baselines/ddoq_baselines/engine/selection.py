"""What methods share that pick real images: one choice a class, kept in the order of selection."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ddoq_plugin.distiller import CodebookOptions, Distiller, Effort, Work

if TYPE_CHECKING:
    import torch

    from ddoq_plugin.distilled_set import DistilledSet
    from ddoq_plugin.distiller import DistillContext

    Choice = tuple[torch.Tensor, torch.Tensor | None]


class Selection(Distiller):
    """A method that picks real images of each class. Without weights of its own, all count the same.

    W2 of the picked images is measured in the prior's latents (:meth:`space`)."""

    makes_images = False

    @abstractmethod
    def choose(self, context: DistillContext, class_id: int, ipc: int, clusters: int | None, seed: int) -> Choice:
        """Return the places of distinct images in the class, int64 ``[IPC]``, and their masses (None: equal)."""

    def space(self) -> CodebookOptions:
        """Return the options of the latents that W2 is measured in."""
        return CodebookOptions()

    def needs(self, context: DistillContext, ipc: int, clusters: int | None, seed: int) -> Iterable[Work]:
        """Yield what :meth:`choose` asks of the context."""
        return ()

    def operations(self, context: DistillContext, ipc: int) -> dict[str, float]:
        """Return what :meth:`choose` takes for all classes (``Effort.operations``)."""
        return {}

    def work(self, context: DistillContext, ipc: int, clusters: int | None, seed: int) -> Iterable[Work]:
        classes, mode = range(context.num_classes), self.space().measured()
        modes = [work for class_id in classes for work in context.encode_work(class_id, mode)]
        needs = {work.address: work for work in (*self.needs(context, ipc, clusters, seed), *modes)}
        operations = dict(context.w2_operations(ipc))
        for name, count in self.operations(context, ipc).items():
            operations[name] = operations.get(name, 0) + count
        effort = Effort(operations=operations)
        yield context.set_work(self, ipc, clusters, seed, needs=(*needs.values(),), effort=effort, stage="quantise")

    def distill(self, context: DistillContext, ipc: int, *, clusters: int | None = None, seed: int = 0) -> DistilledSet:
        import torch

        clusters = (clusters or ipc) if self.uses_clusters else None
        self.check(context, ipc, clusters)
        images, mode = context.empty_images(context.num_classes * ipc), self.space().measured()
        weights, used, uniform = [], [], []
        for class_id in range(context.num_classes):
            chosen, masses = self.choose(context, class_id, ipc, clusters, seed)
            images[class_id * ipc : (class_id + 1) * ipc] = context.images(class_id, chosen)
            points = context.latents(class_id, mode).flatten(1)[chosen]
            uniform.append(context.w2(class_id, points, mode))
            weights.append(torch.ones(ipc) if masses is None else (masses / masses.mean()).float())
            used.append(uniform[-1] if masses is None else context.w2(class_id, points, mode, masses.double()))
        labels = torch.arange(context.num_classes).repeat_interleave(ipc)
        effective = sum(float(own.sum() ** 2 / own.square().sum()) for own in weights) / len(weights)
        stats: dict[str, Any] = {"w2_used": sum(used) / len(used), "w2_uniform": sum(uniform) / len(uniform)}
        stats |= {"effective_sample_size": effective, "space": mode.space}
        given: dict[str, Any] = {"weights": torch.cat(weights)} if self.uses_weights else {}
        asked: dict[str, Any] = {"ipc": ipc, "clusters": clusters, "seed": seed}
        return context.finish(self, images, labels, **asked, stats=stats, **given)
