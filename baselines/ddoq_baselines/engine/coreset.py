"""What coresets share: a choice by features of the images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from ddoq_plugin.distiller import DistillerConfig, Work

from .selection import Selection

if TYPE_CHECKING:
    import torch

    from ddoq_plugin.distiller import DistillContext

    from .selection import Choice


class CoresetConfig(DistillerConfig):
    """Settings of every coreset.

    features: what images are compared by, ``latents`` (of the prior; pixels where there is none), ``pixels``, or the
    penultimate layer of a student, ``trained:STUDENT`` on the training images or ``random:STUDENT``."""

    features: str = "latents"


class Coreset(Selection):
    """A selection by features of the images. The seed changes nothing but the network of the features."""

    Config = CoresetConfig
    config: CoresetConfig

    @abstractmethod
    def pick(self, features: torch.Tensor, ipc: int, seed: int, class_id: int) -> Choice:
        """Return :meth:`choose`'s answer for a class's features, float32 ``[N, d]``."""

    def needs(self, context: DistillContext, ipc: int, clusters: int | None, seed: int) -> Iterable[Work]:
        for class_id in range(context.num_classes):
            yield from context.features_work(class_id, self.config.features)

    def operations(self, context: DistillContext, ipc: int) -> dict[str, float]:
        """Return the product of each class with itself; the width of a network's features counts as that of pixels."""
        width = 3 * context.data.image_size**2
        sizes = [context.class_size(class_id) for class_id in range(context.num_classes)]
        return {"product_flops": float(sum(size**2 * width for size in sizes))}

    def check(self, context: DistillContext, ipc: int, clusters: int | None) -> None:
        super().check(context, ipc, clusters)
        kind, _, student = self.config.features.partition(":")
        context.features_work(0, self.config.features)  # raises for an extractor that there is not
        if student and kind in ("random", "trained"):
            from ddoq_plugin.evaluation import check_student

            check_student(student)

    def choose(self, context: DistillContext, class_id: int, ipc: int, clusters: int | None, seed: int) -> Choice:
        return self.pick(context.features(class_id, self.config.features), ipc, seed, class_id)


class WeightedConfig(CoresetConfig):
    """Settings of a coreset whose images may carry the masses of their cells.

    weighting: the shape of an image's weight, ``uniform``, ``counts`` (of images nearest to it), ``sqrt`` or ``power``
    with the exponent ``alpha``, as DDOQ's."""

    weighting: Literal["uniform", "counts", "sqrt", "power"] = "uniform"
    alpha: float | None = Field(None, ge=0, le=4)

    @model_validator(mode="after")
    def _alpha_for_power(self) -> WeightedConfig:
        if (self.weighting == "power") != (self.alpha is not None):
            raise ValueError("weighting 'power' needs alpha, and the other weightings take none; set both or neither")
        return self

    def masses(self, counts: torch.Tensor) -> torch.Tensor | None:
        """Return the masses of images by the counts of their cells ``[IPC]``; None for equal ones."""
        from ddoq_plugin.quantization import shape_weights

        return None if self.weighting == "uniform" else shape_weights(counts, self.weighting, self.alpha)
