"""A method that wraps another: any method, on the part of the training images that a network finds easiest."""

from typing import Any

from pydantic import Field

from ddoq_plugin import Distiller, DistillerConfig, register_distiller
from ddoq_plugin.distiller import make_distiller


class EasiestConfig(DistillerConfig):
    inner: dict[str, Any] = {"name": "random"}  # the wrapped method and its settings
    keep: float = Field(0.5, gt=0, le=1)  # share of each class


@register_distiller("easiest")
class Easiest(Distiller):
    """Drops the images of each class whose loss is highest after training, and lets another method do the rest."""

    Config = EasiestConfig

    def __init__(self, **settings):
        super().__init__(**settings)
        name, own = self.config.inner["name"], {k: v for k, v in self.config.inner.items() if k != "name"}
        self.inner = make_distiller(name, own)
        self.makes_images, self.needs_prior = self.inner.makes_images, self.inner.needs_prior
        self.uses_clusters, self.uses_weights = self.inner.uses_clusters, self.inner.uses_weights

    def parts(self):
        return (self.inner,)

    def label(self):
        return f"{self.inner.label()} on the easiest {self.config.keep:.0%}"

    def check(self, context, ipc, clusters):
        super().check(context, ipc, clusters)
        self.inner.check(context, ipc, clusters)

    def work(self, context, ipc, clusters, seed):
        yield context.set_work(self, ipc, clusters, seed, needs=[context.network_work()])

    def distill(self, context, ipc, *, clusters=None, seed=0):
        self.check(context, ipc, clusters)
        losses, kept = context.scores("loss_late"), {}
        for class_id in range(context.num_classes):
            rows = context.data.train.class_indices(class_id)
            count = max(ipc, clusters or 0, round(self.config.keep * len(rows)))
            kept[class_id] = losses[rows].argsort(stable=True)[:count].sort().values
        made = context.restricted(kept).distilled(self.inner, ipc, clusters, seed)  # found in the store, or made
        return context.finish(
            self, made.images, made.labels, weights=made.weights, ipc=ipc, clusters=clusters, seed=seed
        )
