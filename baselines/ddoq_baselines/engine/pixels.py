"""The images that a method learns, and the real ones that it learns from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ddoq_plugin.data.transforms import make_mosaic
from ddoq_plugin.distilled_set import to_uint8
from ddoq_plugin.preprocessing import PIXELS, Preprocessing

if TYPE_CHECKING:
    from ddoq_plugin.distiller import DistillContext
    from ddoq_plugin.evaluation.inputs import Normaliser

    from .learning import LearnerConfig

Init = Literal["real", "noise", "mosaic"]
ON_DEVICE = 1 << 30  # bytes of training images that are kept on the device


class Pixels:
    """Learnt images, class by class: ``values`` float32 ``[C * IPC, 3, S, S]`` in [0, 1], clamped after each step.

    Networks see them normalised (:meth:`seen`). The authors step in that space: a step of ``lr`` there is taken here
    (``units`` "network"), or one of ``lr`` in pixels ("pixels", as IDC and M3D do). In a ``space`` of kind ``zca`` the
    values are seen as they are and know no bounds. ``given``: values of the first images of each class, which stay as
    they are, float32 ``[C, m, 3, S, S]``."""

    def __init__(
        self,
        first: Tensor,
        normalise: Normaliser,
        *,
        lr: float,
        momentum: float,
        units: Literal["network", "pixels"] = "network",
        space: Preprocessing = PIXELS,
        given: Tensor | None = None,
    ) -> None:
        self.normalise, self.space, self.bounded = normalise, space, space.kind == "none"
        values, free = space.apply(first).clone(), torch.ones(len(first), 1, 1, 1, device=first.device)
        if given is not None:
            for own, value in ((values, given), (free, torch.zeros_like(given[:, :, :1, :1, :1]))):
                own.unflatten(0, (len(given), -1))[:, : given.shape[1]] = value
        self.values = values.requires_grad_()
        self.optimiser = torch.optim.SGD([self.values], lr=lr, momentum=momentum)
        self.scale = torch.ones(1, 3, 1, 1, device=first.device)
        if self.bounded:
            std = torch.tensor(normalise.std, device=first.device).view(1, 3, 1, 1)
            # d loss / d value = gradient / std, and a step of one in the networks' space is one of std here
            self.scale = std if units == "network" else 1 / std
        if given is not None:
            self.scale = self.scale * free
        self.state = {"images": self.values, "optimiser": self.optimiser}

    def seen(self) -> Tensor:
        """Return what networks see, a new leaf of the graph."""
        values = self.values.detach()
        return (self.normalise(values) if self.bounded else values.clone()).requires_grad_()

    @torch.no_grad()
    def step(self, gradient: Tensor, lr: float | None = None) -> None:
        """Take a step against a gradient with respect to what :meth:`seen` returned."""
        if lr is not None:
            self.optimiser.param_groups[0]["lr"] = lr
        self.values.grad = gradient * self.scale
        self.optimiser.step()
        self.values.grad = None
        if self.bounded:
            self.values.clamp_(0, 1)

    def stored(self, values: Tensor | None = None) -> Tensor:
        """Return the images of a set, or other ``values``: uint8, or float32 of a space that knows no bounds."""
        kept = (self.values if values is None else values).detach().cpu()
        return to_uint8(kept) if self.bounded else kept


def begin_pixels(
    context: DistillContext,
    ipc: int,
    config: LearnerConfig,
    draws: torch.Generator,
    *,
    lr: float | None = None,
    units: Literal["network", "pixels"] = "network",
    reduction: str = "bilinear",
    space: Preprocessing = PIXELS,
    first: Tensor | None = None,
) -> Pixels:
    """Return the images that a method begins with: ``first``, or those that its settings ask for.

    In a context that goes on from a set (``context.given``), the set's images are the first of each class."""
    made = first_images(context, ipc, config.init, draws, reduction) if first is None else first
    rate, given, held = config.lr if lr is None else lr, context.given, None
    if given is not None:
        values = given.images.float() / 255 if given.floats is None else given.floats
        held = values.to(context.device).unflatten(0, (context.num_classes, -1))
    how: dict[str, Any] = {"units": units, "space": space, "given": held}
    return Pixels(made, context.normaliser, lr=rate, momentum=config.momentum, **how)


def first_images(
    context: DistillContext, ipc: int, init: Init, draws: torch.Generator, reduction: str = "bilinear"
) -> Tensor:
    """Return images to begin with, float32 ``[C * IPC, 3, S, S]`` in [0, 1], on the context's device.

    ``real``: of the class, by the context's sampler. ``mosaic``: of four real ones each, halved by ``reduction``.
    ``noise``: standard normal in the networks' space (DC), clamped."""
    classes, size = context.num_classes, context.data.image_size
    if init == "noise":
        noise = torch.randn(classes * ipc, 3, size, size, generator=draws)
        return context.normaliser.undo(noise).clamp(0, 1).to(context.device)
    parts = 4 if init == "mosaic" else 1
    own = [context.first_batch(c, parts * ipc, draws).images.unflatten(0, (parts, ipc)) for c in range(classes)]
    return torch.cat([one[0] if init == "real" else make_mosaic(one, reduction) for one in own])


class TrainingImages:
    """All training images as networks see them, by their places in ``context.data.train``; in memory where small."""

    def __init__(self, context: DistillContext, space: Preprocessing = PIXELS) -> None:
        self.split, self.device = context.data.train, context.device
        self.normalise = context.normaliser if space.kind == "none" else space
        self.labels = self.split.labels.to(self.device)
        fits = len(self.split) * 3 * context.data.image_size**2 <= ON_DEVICE
        self.images = self.split.images().to(self.device) if fits else None

    def __len__(self) -> int:
        return len(self.split)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images at ``rows``, float32 ``[b, 3, S, S]``, and their labels."""
        place = rows.to(self.device)
        images = self.split.images(rows).to(self.device) if self.images is None else self.images[place]
        return self.normalise(images), self.labels[place]
