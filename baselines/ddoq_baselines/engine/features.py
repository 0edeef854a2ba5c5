"""Real batches, their augmentation, and features of all classes at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ddoq_plugin.evaluation.dsa import Draw, augment, draw
from ddoq_plugin.evaluation.features import features_of

from .networks import has_batch_norm

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddoq_plugin.distiller import DistillContext

AT_ONCE = {"cpu": 1 << 19, "cuda": 1 << 25}
"""Values of images that pass a network together where nothing needs their gradient: on a CPU as many as its cache holds
with what the layers make of them (measured: benchmarks/matching.py)."""

WITH_GRADIENT = 1 << 22
"""Values of images that pass together with a gradient: 1365 images of 32 pixels, about 2 GB in ConvNet-3."""


def real_by_class(context: DistillContext, size: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return real images ``[C, size, 3, S, S]``, normalised, and their weights ``[C, size]``."""
    batches = [context.real_batch(class_id, size, draws) for class_id in range(context.num_classes)]
    real = context.normaliser(torch.cat([batch.images for batch in batches])).unflatten(0, (len(batches), size))
    return real, torch.stack([batch.weights for batch in batches])


def draw_for_classes(strategy: str, classes: int, size: int, draws: torch.Generator) -> Draw | None:
    """Return a Siamese draw for each class, one operation each; None where there is no augmentation."""
    return draw(strategy, classes, size, draws, operations="each") if strategy else None


def augmented(images: Tensor, drawn: Draw | None, align_corners: bool) -> Tensor:
    """Return images ``[C n, 3, S, S]`` of ``[C, n, 3, S, S]``, those of a class under its draw."""
    flat = images.flatten(0, 1)
    return flat if drawn is None else augment(flat, drawn.repeated(images.shape[1]), align_corners=align_corners)


def together(classes: int, per_class: int, values: int, *, whole: bool = False) -> int:
    """Return how many classes of ``per_class`` images of ``values`` numbers pass together with a gradient."""
    return classes if whole else min(classes, max(1, WITH_GRADIENT // (per_class * values)))


def matched(
    network: nn.Module, images: Tensor, seen: Tensor, classes: int, loss: Callable[[Tensor, slice], Tensor]
) -> tuple[float, Tensor]:
    """Return the sum over classes of a loss, and its gradient with respect to ``seen``.

    ``images`` ``[C n, 3, S, S]`` are made from ``seen``; ``loss`` takes the features ``[c, n, d]`` of the classes of a
    slice. Few classes pass the network at once, so that memory does not grow with their number; a batch norm must see
    all."""
    leaf, per_class = images.detach(), len(images) // classes
    size = together(classes, per_class, images[0].numel(), whole=has_batch_norm(network))
    total, gradients = 0.0, []
    for first in range(0, classes, size):
        part = slice(first, min(first + size, classes))
        own = leaf[part.start * per_class : part.stop * per_class].requires_grad_()
        value = loss(features_by_class(network, own, part.stop - part.start), part)
        gradients.append(torch.autograd.grad(value, own)[0])
        total += float(value.detach())
    return total, torch.autograd.grad(images, seen, torch.cat(gradients))[0]


def features_by_class(network: nn.Module, images: Tensor, classes: int) -> Tensor:
    """Return features ``[C, n, d]`` of images ``[C n, 3, S, S]``.

    What carries no gradient goes through the network in parts, unless a batch norm must see all together."""
    images = images.contiguous(memory_format=torch.channels_last)
    if images.requires_grad or has_batch_norm(network):
        made = features_of(network, images)
    else:
        size = max(1, AT_ONCE[images.device.type] // images[0].numel())
        made = torch.cat([features_of(network, part) for part in images.split(size)])
    return made.unflatten(0, (classes, -1))
