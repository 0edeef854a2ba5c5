"""From a codebook of K points to exactly IPC images with weights: pure tensors.

K = IPC: one image a point. K > IPC: the K points are quantised once more, weighted by their masses, down to IPC, and
the class's samples are assigned to the new points. K < IPC: every point gets the same number of images (the left-over
goes to the first points), which split its weight; so all weightings have the same images. Shared out in proportion to
the masses instead, the images would do most of what the weights are to do."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..errors import DistillError
from .api import quantize
from .codebook import Codebook


@dataclass(frozen=True)
class Allocation:
    """Points of a class, their masses and their images.

    ``points`` float32 [m, d], ``masses`` float64 [m] (sum 1), ``assignment`` int64 [N] of the class's samples to
    the points, ``copies`` int64 [m]: the number of images of each point (sum IPC)."""

    points: torch.Tensor
    masses: torch.Tensor
    assignment: torch.Tensor
    copies: torch.Tensor

    @property
    def image_masses(self) -> torch.Tensor:
        """The mass of each image, float64 ``[IPC]``: that of its point, split evenly over the point's images."""
        return (self.masses.double() / self.copies).repeat_interleave(self.copies)

    def at_points(self, weights: torch.Tensor) -> torch.Tensor:
        """Add the weights ``[IPC]`` of images up at their points: float64 ``[m]``."""
        points = torch.arange(len(self.copies)).repeat_interleave(self.copies)
        return torch.zeros(len(self.copies), dtype=torch.float64).index_add_(0, points, weights.double())

    def once(self) -> Allocation:
        """Return the same points with one image each."""
        return replace(self, copies=self.copies.clamp_max(1))


def allocate(
    latents: torch.Tensor,
    book: Codebook,
    ipc: int,
    *,
    share: str = "equal",
    masses: str = "voronoi",
    seed: int = 0,
    name: str | None = None,
) -> Allocation:
    """Fit the codebook of latents ``[N, d]`` to ``ipc`` images.

    ``share``: how K < IPC shares the images out, ``equal`` or ``proportional`` to the masses (largest remainder, at
    least one). ``masses``: how K > IPC quantises the points, by their ``voronoi`` masses, ``balanced``, or
    ``unweighted`` as if they had none (D4M). ``name`` is the class's, for errors."""
    points, weights, assignment = book.centroids, book.masses, book.assignment
    if len(points) > ipc:
        given, kind = None if masses == "unweighted" else weights, "balanced" if masses == "balanced" else "voronoi"
        second = quantize(points, ipc, seed=seed, weights=given, masses=kind, name=name)
        points, weights = second.centroids, second.masses
        assignment = torch.cdist(latents.double(), points.double()).argmin(1)
        if kind != "balanced":  # equal masses are the point of it; Voronoi cells would undo them
            counts = assignment.bincount(minlength=ipc).double()
            weights = counts / counts.sum()
    if len(points) == ipc:
        copies = torch.ones(ipc, dtype=torch.int64)
    else:
        copies = largest_remainder(weights if share == "proportional" else torch.ones(len(points)), ipc)
    return Allocation(points, weights, assignment, copies)


def largest_remainder(shares: torch.Tensor, total: int) -> torch.Tensor:
    """Share ``total`` seats in proportion to ``shares`` [m] (non-negative) by largest remainder, at least one each.

    int64 [m]; equal remainders go to the lower index. Raises DistillError if total < m."""
    if total < len(shares):
        raise DistillError(f"{total} images cannot be shared over {len(shares)} points with at least one each")
    spare, shares = total - len(shares), shares.double()
    if float(shares.sum()) == 0:
        shares = torch.ones_like(shares)
    wanted = (shares / shares.sum() * total - 1).clamp_min(0)  # one seat each is given already
    wanted = wanted / wanted.sum() * spare if spare else torch.zeros_like(wanted)
    seats = wanted.floor().long()
    order = torch.argsort(wanted - seats, descending=True, stable=True)
    seats[order[: spare - int(seats.sum())]] += 1
    return seats + 1


def nearest_samples(latents: torch.Tensor, allocation: Allocation) -> torch.Tensor:
    """Return distinct samples of ``latents`` [N, d] that stand for the points: int64 [sum of copies], point by point.

    A point takes the nearest samples of its own cell and, where the cell is too small, the nearest still free."""
    distances = torch.cdist(latents.double(), allocation.points.double())
    outside = allocation.assignment.unsqueeze(1) != torch.arange(len(allocation.points))
    ranked = distances + outside * (1 + distances.max())  # any sample of the own cell before any of another's
    taken = torch.zeros(len(latents), dtype=torch.bool)
    chosen: dict[int, torch.Tensor] = {}
    for point in allocation.copies.argsort(stable=True).tolist():  # points with few images choose first
        order = ranked[:, point].masked_fill(taken, torch.inf).argsort(stable=True)
        chosen[point] = order[: int(allocation.copies[point])]
        taken[chosen[point]] = True
    return torch.cat([chosen[point] for point in sorted(chosen)])
