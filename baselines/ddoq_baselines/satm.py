"""SATM-style: trajectory matching at the images that are worst nearby (after "Sharpness-Aware Trajectory Matching",
arXiv 2502.01865).

Only the paper's abstract and its reviews were to be had. Ours is the exact form of their idea: the gradient at
x + rho g / |g| in place of g, that at x. Radius, reuse and all settings are ours: no number of the paper compares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from .engine.learning import Count
from .engine.trajectories import TrajectoryConfig, TrajectoryMatcher

if TYPE_CHECKING:
    from torch import Tensor

    from .engine.unroll import Loss, Unrolled


class SATMConfig(TrajectoryConfig):
    """Settings of SATM-style matching. rho: the length of the perturbation of all images, in the networks' space.
    reuse: the perturbed pass takes only that many last steps, from where the first pass stood (none: all)."""

    rho: float = Field(0.05, gt=0, le=1e6)
    reuse: Count | None = None


class SATM(TrajectoryMatcher):
    """MTT whose images take the gradient of the worst images nearby; about twice its time."""

    name = "satm"
    Config = SATMConfig
    config: SATMConfig
    unrollings = 2

    def gradient(
        self, loss: Loss, start: Tensor, target: Tensor, images: Tensor, labels: Tensor, rate: Tensor,
        batches: list[Tensor],
    ) -> Unrolled:  # fmt: skip
        config, given = self.config, (loss, start, target, images, labels, rate, batches)
        return sharpness_aware(*given, rho=config.rho, reuse=config.reuse)


def sharpness_aware(
    loss: Loss,
    start: Tensor,
    target: Tensor,
    images: Tensor,
    labels: Tensor,
    rate: Tensor,
    batches: list[Tensor],
    *,
    rho: float,
    reuse: int | None = None,
) -> Unrolled:
    """Return loss and gradients at images + rho g / |g| over all images, with g the gradient at ``images``.

    The arguments are those of :func:`.engine.unroll.unroll`; ``reuse``: only the last steps, from the clean path."""
    from .engine.unroll import unroll

    clean = unroll(loss, start, target, images, labels, rate, batches)
    moved = images + rho * clean.images / (clean.images.norm() + 1e-12)
    if reuse is None or reuse >= len(batches):
        return unroll(loss, start, target, moved, labels, rate, batches)
    first, distance = len(batches) - reuse, (start - target).square().sum()

    def late(theta: Tensor, own: Tensor, targets: Tensor, step: int) -> Tensor:
        return loss(theta, own, targets, first + step)

    from_there = clean.path[first]
    return unroll(late, from_there, target, moved, labels, rate, batches[first:], distance=distance)
