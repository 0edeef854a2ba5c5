"""The loop that the methods share which learn their images, and their common settings."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field

from ddoq_plugin.distiller import Distiller, DistillerConfig, Effort, Work
from ddoq_plugin.errors import DistillError
from ddoq_plugin.evaluation.dsa_strategy import STRATEGY, strategy_operations

if TYPE_CHECKING:
    import torch

    from ddoq_plugin.distilled_set import DistilledSet
    from ddoq_plugin.distiller import DistillContext

    from .pixels import Pixels

Rate = Annotated[float, Field(gt=0, le=1e9)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=100_000_000)]
if TYPE_CHECKING:
    Rates: TypeAlias = Any  # what :meth:`LearnerConfig.at` makes a number; a type checker cannot know when
    Counts: TypeAlias = Any
else:
    Rates, Counts = Rate | dict[int, Rate], Count | dict[int, Count]  # a number, or one for each IPC: {1: 50, 10: 30}


class LearnerConfig(DistillerConfig):
    """Settings of every method that learns its images.

    network: the student that images are matched on. lr, momentum: of the SGD of the images, in the networks'
    normalised space. init: from real images, from noise, or from mosaics of four real images. dsa: operations of
    differentiable siamese augmentation, joined by "_"; empty for none; digits do without ``flip``. align_corners: of
    its scale and rotate (:func:`ddoq_plugin.evaluation.dsa.augment`). lr and other numbers may be given for each IPC,
    as ``{1: 50, 10: 30}``."""

    network: str = "convnet3"
    lr: Rates = 1.0
    momentum: Momentum = 0.5
    init: Literal["real", "noise", "mosaic"] = "real"
    dsa: str = STRATEGY
    align_corners: bool = True


class MatchingConfig(LearnerConfig):
    """Settings of a method that compares its images with real ones. batch: real images of a class in a step."""

    batch: Counts = 256


def check_even_side(context: DistillContext, method: str) -> None:
    """Raise DistillError where images cannot be halved for mosaics."""
    if context.data.image_size % 2:
        raise DistillError(
            f"{method!r}: mosaics need images of an even side, not {context.data.image_size} px; set image_size"
        )


class Learning:
    """A set in the making. ``total``: the number of steps; ``state``: all that changes from step to step."""

    total: int
    pixels: Pixels
    state: dict[str, Any]

    def step(self, number: int) -> float:
        """Take a step and return its loss; every draw comes from a generator named by seed and number."""
        raise NotImplementedError

    def images(self) -> torch.Tensor:
        """Return the images of the set."""
        return self.pixels.stored()

    def fields(self) -> dict[str, Any]:
        """Return what else the set has (see ``DistilledSet``)."""
        return {}

    def stats(self) -> dict[str, float]:
        """Return what rows tell of it."""
        return {}


class Learner(Distiller):
    """A method that learns its images step by step."""

    Config = LearnerConfig
    config: LearnerConfig

    @abstractmethod
    def begin(self, context: DistillContext, ipc: int, seed: int) -> Learning:
        """Return the set before its first step."""

    @abstractmethod
    def passes(self, context: DistillContext, ipc: int) -> Mapping[str, float]:
        """Return the forward passes of all steps, by network."""

    def needs(self, context: DistillContext, ipc: int, seed: int) -> tuple[Work, ...]:
        """Return the work that must be done before."""
        return ()

    def memory(self, context: DistillContext, ipc: int) -> int:
        """Return the bytes that it holds beside the networks: images, their gradient and momentum, in float32."""
        return 3 * 4 * 3 * context.data.image_size**2 * context.num_classes * ipc

    def kept(self, context: DistillContext, ipc: int) -> int:
        """Return the images whose activations are held at once (``Effort.kept``)."""
        from .features import together

        return ipc * together(context.num_classes, ipc, 3 * context.data.image_size**2)

    def check(self, context: DistillContext, ipc: int, clusters: int | None) -> None:
        super().check(context, ipc, clusters)
        from ddoq_plugin.evaluation import check_student
        from ddoq_plugin.evaluation.features import last_linear

        config = self.config.at(ipc)
        check_student(config.network)
        last_linear(context.network(config.network, "check"), config.network)
        strategy_operations(config.dsa)
        needed = {"real": ipc, "mosaic": 4 * ipc}.get(config.init, 1)
        context.check_class_sizes(needed, "images", self.label())
        if config.init == "mosaic":
            check_even_side(context, self.label())

    def work(self, context: DistillContext, ipc: int, clusters: int | None, seed: int) -> Iterable[Work]:
        passes = self.passes(context, ipc)
        effort = Effort(
            round(sum(passes.values())), passes, memory=self.memory(context, ipc), kept=self.kept(context, ipc)
        )
        needs = self.needs(context, ipc, seed)
        yield context.set_work(self, ipc, clusters, seed, needs=needs, effort=effort, stage="train")

    def distill(self, context: DistillContext, ipc: int, *, clusters: int | None = None, seed: int = 0) -> DistilledSet:
        import torch

        from ddoq_plugin.evaluation.runtime import keep_freed_memory

        self.check(context, ipc, clusters)
        keep_freed_memory()
        learning = self.begin(context, ipc, seed)
        losses = torch.zeros(2)  # of the first and the last step
        for number in context.steps(learning.total, {**learning.state, "losses": losses}, name=self.label()):
            loss = learning.step(number)
            if not math.isfinite(loss):
                raise DistillError(f"{self.label()!r} diverged: its loss is {loss} at step {number}; lower lr")
            losses[0 if number == 0 else 1] = loss
        if not learning.pixels.values.isfinite().all():
            raise DistillError(f"{self.label()!r} diverged: its images are no numbers after the last step; lower lr")
        labels = torch.arange(context.num_classes).repeat_interleave(ipc)
        stats = {"loss_first": float(losses[0]), "loss_last": float(losses[1]), **learning.stats()}
        images, fields = learning.images(), learning.fields()
        return context.finish(self, images, labels, ipc=ipc, clusters=None, seed=seed, stats=stats, **fields)
