"""Exact Wasserstein-2 distance between a class and a weighted codebook."""

from __future__ import annotations

import math
import os

import numpy as np
import torch
from torch import Tensor

from ..errors import QuantizationError
from .checks import as_matrix, as_weights, check_finite, too_large

_BLOCK = 4096  # samples whose distances are held at once in the closed form


def w2_squared(
    latents: Tensor, centroids: Tensor, masses: Tensor | None = None, weights: Tensor | None = None
) -> float:
    """Return W2^2 between the samples [N, ...] and the centroids [K, ...], in squared latent units.

    Args:
        latents: samples, any floating-point type.
        centroids: K points of the same dimension.
        masses: non-negative weights [K] of the centroids, any scale. None: Voronoi masses, the best ones; then
            W2^2 = mean_i min_k |x_i - z_k|^2 needs no solver (Graf & Luschgy 2000, lemma 4.2).
        weights: non-negative weights [N] of the samples, any scale; None: all equal.

    With given masses this is a transport problem, solved exactly by POT's network simplex. Distances come from a
    float32 product of centred latents (float64 in float64 or low dimension), so the result is right to about 1e-6 of
    the class variance.

    Raises:
        QuantizationError: shapes that do not fit, bad masses or weights, NaN or infinity.
    """
    points = as_matrix(latents, None)
    codes = as_matrix(centroids, None).to(device=points.device)
    if codes.shape[1] != points.shape[1]:
        raise QuantizationError(f"The centroids have {codes.shape[1]} dimensions, the latents {points.shape[1]}.")
    shares = as_weights(weights, points, None)
    if masses is None:
        total = 0.0
        for start in range(0, len(points), _BLOCK):
            nearest = squared_distances(points[start : start + _BLOCK], codes).amin(dim=1).to(torch.float64)
            total += float((nearest if shares is None else nearest * shares[start : start + _BLOCK]).sum())
        value = total / len(points)
    else:
        heights = as_weights(masses, codes, "the centroids")
        distances = squared_distances(points, codes)
        value = _transport(distances, shares, heights) if bool(torch.isfinite(distances).all()) else math.nan
    if not math.isfinite(value):
        check_finite(points, None)
        check_finite(codes, "the centroids")
        raise too_large(None)
    return value


def squared_distances(points: Tensor, codes: Tensor) -> Tensor:
    """Squared distances [N, K] of ``points`` [N, d] to ``codes`` [K, d], none negative."""
    low = points.shape[1] <= 256 or points.dtype == torch.float64
    dtype = torch.float64 if low else torch.float32
    centre = codes.to(dtype).mean(dim=0)  # distances far from the origin would cancel
    left, right = points.to(dtype) - centre, codes.to(dtype) - centre
    squares = torch.addmm((left * left).sum(dim=1)[:, None] + (right * right).sum(dim=1), left, right.T, alpha=-2.0)
    return squares.clamp_(min=0)


def _transport(distances: Tensor, shares: Tensor | None, heights: Tensor) -> float:
    count, clusters = distances.shape
    source = np.full(count, 1 / count) if shares is None else shares.cpu().numpy() / count
    target = heights.cpu().numpy() / clusters
    target *= source.sum() / target.sum()
    return float(_pot().emd2(source, target, distances.to("cpu", torch.float64).numpy(), numItermax=10_000_000))


def _pot():
    """Import POT without the array libraries it would load on sight (seconds of import)."""
    kept = {}
    for backend in ("PYTORCH", "TENSORFLOW", "JAX", "CUPY"):
        variable = f"POT_BACKEND_DISABLE_{backend}"
        kept[variable] = os.environ.get(variable)
        os.environ[variable] = "1"
    try:
        import ot.lp
    finally:
        for variable, value in kept.items():
            if value is None:
                del os.environ[variable]
            else:
                os.environ[variable] = value
    return ot.lp
