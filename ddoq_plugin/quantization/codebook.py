"""What a quantiser returns, and the shapes that a codebook's masses can take as image weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import QuantizationError
from .checks import as_masses

WEIGHTINGS = ("uniform", "counts", "sqrt", "power")


@dataclass(frozen=True)
class Codebook:
    """K weighted points that stand for a class.

    ``centroids`` float32 [K, d] lie on the device of the latents. ``masses`` float64 [K], each positive, sum 1, are the
    shares of the samples' weight that they stand for. ``distortion`` is W2^2 between the samples and (centroids,
    masses): the weighted mean squared distance, in squared latent units. ``assignment`` int64 [N] is the centroid of
    each sample (Voronoi: the nearest; balanced: that of its largest share). ``nearest`` int64 [K] is of the samples
    assigned to each centroid the nearest one, so the K indices are distinct."""

    centroids: Tensor
    masses: Tensor
    distortion: float
    assignment: Tensor
    nearest: Tensor

    @property
    def clusters(self) -> int:
        """Number of centroids, K."""
        return len(self.masses)

    @property
    def effective_sample_size(self) -> float:
        """How many equally weighted points the masses are worth, in [1, K]."""
        return effective_sample_size(self.masses)

    def to(self, device: torch.device | str) -> Codebook:
        """Return the codebook with its tensors on ``device``."""
        centroids, masses = self.centroids.to(device), self.masses.to(device)
        return Codebook(centroids, masses, self.distortion, self.assignment.to(device), self.nearest.to(device))


def codebook_of(codes: Tensor, labels: Tensor, distances: Tensor, weights: Tensor | None) -> Codebook:
    """Make a codebook of ``codes`` [K, d] from labels int64 [N] and squared distances float64 [N]; no cell is empty.

    ``weights`` float64 [N] of the samples, or None where all are equal."""
    shares = torch.ones_like(distances) if weights is None else weights
    masses = torch.bincount(labels.cpu(), weights=shares.cpu(), minlength=len(codes)).to(codes.device)
    distortion = float(shares @ distances / shares.sum())
    # of each cell the member of positive weight with the smallest distance (the first of equals)
    order = torch.where(shares > 0, distances, torch.inf).argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]
    nearest = order[torch.searchsorted(labels[order], torch.arange(len(codes), device=labels.device))]
    return Codebook(codes.to(torch.float32), masses / masses.sum(), distortion, labels, nearest)


def effective_sample_size(weights: Tensor) -> float:
    """Kish's effective sample size (sum w)^2 / sum w^2 of non-negative weights [K], in [1, K].

    Raises QuantizationError where a weight is negative or not finite, or all are zero."""
    values = as_masses(weights, "Weights")
    return float(values.sum() ** 2 / (values**2).sum())


def shape_weights(masses: Tensor, weighting: str = "sqrt", alpha: float | None = None) -> Tensor:
    """Turn masses [K] (non-negative, any scale: Voronoi masses or counts) into image weights float64 [K] of mean 1.

    ``weighting``: "uniform" (D4M), "counts" (the theory: proportional to the masses), "sqrt" (the best evidence for the
    heuristic of DDOQ's code, arXiv 2501.07681, seen in a public re-implementation) or "power" with the exponent
    ``alpha``: 0 is uniform, 0.5 sqrt, 1 counts. Raises QuantizationError for an unknown weighting, an exponent that is
    missing, negative or out of place, and bad masses."""
    if weighting not in WEIGHTINGS:
        raise QuantizationError(f"Unknown weighting {weighting!r}: use one of {', '.join(WEIGHTINGS)}.")
    if (weighting == "power") != (alpha is not None):
        raise QuantizationError("The weighting 'power' needs alpha, and only it takes one.")
    exponent = {"uniform": 0.0, "counts": 1.0, "sqrt": 0.5}.get(weighting, alpha)
    if not 0.0 <= exponent < float("inf"):
        raise QuantizationError(f"The weighting's alpha must be 0 or more, not {alpha}.")
    values = as_masses(masses, "Weights")
    # by the largest first: a power of masses far from 1 must neither overflow nor vanish
    shaped = (values / values.max()) ** exponent
    return shaped / shaped.mean()
