"""What a quantiser returns, and the shapes that a codebook's masses can take as image weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import QuantizationError

WEIGHTINGS = ("uniform", "counts", "sqrt", "power")


@dataclass(frozen=True)
class Codebook:
    """K weighted points that stand for a class.

    Attributes:
        centroids: float32 [K, d], on the device of the latents.
        masses: float64 [K], each positive, sum 1: the share of the samples' weight that each centroid stands for.
        distortion: W2^2 between the samples and (centroids, masses): the weighted mean squared distance, in squared
            latent units.
        assignment: int64 [N]: the centroid of each sample (Voronoi: the nearest; balanced: that of its largest share).
        nearest: int64 [K]: of the samples assigned to each centroid the nearest one, so the K indices are distinct.
    """

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
        moved = {field: getattr(self, field).to(device) for field in ("centroids", "masses", "assignment", "nearest")}
        return replace(self, **moved)


def codebook_of(codes: Tensor, labels: Tensor, distances: Tensor, weights: Tensor | None) -> Codebook:
    """Make a codebook of ``codes`` [K, d] from labels int64 [N] and squared distances float64 [N]; no cell is empty.

    ``weights`` float64 [N] of the samples, or None where all are equal.
    """
    shares = torch.ones_like(distances) if weights is None else weights
    masses = torch.bincount(labels.cpu(), weights=shares.cpu(), minlength=len(codes)).to(codes.device)
    return Codebook(
        centroids=codes.to(torch.float32),
        masses=masses / masses.sum(),
        distortion=float(shares @ distances / shares.sum()),
        assignment=labels,
        nearest=nearest_members(labels, distances, shares, len(codes)),
    )


def nearest_members(labels: Tensor, distances: Tensor, shares: Tensor, clusters: int) -> Tensor:
    """Of each cell the member of positive weight with the smallest distance (the first of equals), int64 [K]."""
    order = torch.where(shares > 0, distances, torch.inf).argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]
    return order[torch.searchsorted(labels[order], torch.arange(clusters, device=labels.device))]


def effective_sample_size(weights: Tensor) -> float:
    """Kish's effective sample size (sum w)^2 / sum w^2 of non-negative weights [K], in [1, K].

    Raises:
        QuantizationError: the weights are negative, not finite, or all zero.
    """
    values = _checked(weights)
    return float(values.sum() ** 2 / (values**2).sum())


def shape_weights(masses: Tensor, weighting: str = "sqrt", alpha: float | None = None) -> Tensor:
    """Turn masses [K] into image weights float64 [K] of mean 1.

    Args:
        masses: non-negative, any scale (Voronoi masses or counts).
        weighting: "uniform" (D4M), "counts" (the theory: proportional to the masses), "sqrt" (the best evidence for
            the heuristic of DDOQ's code, arXiv 2501.07681, seen in a public re-implementation) or "power".
        alpha: the exponent of "power": 0 is uniform, 0.5 sqrt, 1 counts. Only for "power".

    Raises:
        QuantizationError: unknown weighting, an exponent that is missing, negative or out of place, or bad masses.
    """
    if weighting not in WEIGHTINGS:
        raise QuantizationError(f"Unknown weighting {weighting!r}: use one of {', '.join(WEIGHTINGS)}.")
    if (weighting == "power") != (alpha is not None):
        raise QuantizationError("The weighting 'power' needs alpha, and only it takes one.")
    exponent = {"uniform": 0.0, "counts": 1.0, "sqrt": 0.5}.get(weighting, alpha)
    if not 0.0 <= exponent < float("inf"):
        raise QuantizationError(f"The weighting's alpha must be 0 or more, not {alpha}.")
    values = _checked(masses)
    # by the largest first: a power of masses far from 1 must neither overflow nor vanish
    shaped = (values / values.max()) ** exponent
    return shaped / shaped.mean()


def _checked(weights: Tensor) -> Tensor:
    values = torch.as_tensor(weights).to(torch.float64).reshape(-1)
    usable = len(values) > 0 and bool(torch.isfinite(values).all())
    if not usable or float(values.min()) < 0 or float(values.max()) <= 0:
        raise QuantizationError("Weights must be finite, none negative and not all zero.")
    return values
