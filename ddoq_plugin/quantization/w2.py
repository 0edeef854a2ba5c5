"""Exact Wasserstein-2 distance between a class and a weighted codebook, and the transport behind it."""

import math

import numpy as np
import torch
from torch import Tensor

from ..errors import QuantizationError
from .checks import as_matrix, as_weights, check_finite, too_large
from .matmul import BLOCK_ELEMENTS, affine, full_precision

_UNITS = 1 << 40  # of mass where masses differ: each is right to 2^-40 of the whole
_BLOCK = 4096  # samples whose distances are held at once in the closed form


@full_precision()
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

    With given masses this is a transport problem, solved exactly (see ``transport_kernels``; the tests compare it with
    POT's network simplex, which takes two to five times as long). Distances come from a float32 product of centred
    latents (float64 in float64 or low dimension), so the result is right to about 1e-6 of the class variance.

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
        value = math.nan
        if bool(torch.isfinite(distances).all()):
            samples = np.ones(len(points)) if shares is None else shares.cpu().numpy()
            value = transport_cost(distances.to("cpu", torch.float64).numpy(), samples, heights.cpu().numpy())
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
    moved = codes.to(dtype) - centre
    slopes, squares = -2 * moved, moved.square().sum(dim=1)
    found = torch.empty(len(points), len(codes), dtype=dtype, device=points.device)
    height = max(64, BLOCK_ELEMENTS // points.shape[1])
    buffer = torch.empty(min(height, len(points)), points.shape[1], dtype=dtype, device=points.device)
    for start in range(0, len(points), height):
        part = points[start : start + height]
        rows = torch.sub(part.to(dtype), centre, out=buffer[: len(part)])
        norms = torch.linalg.vector_norm(rows, dim=1).square()
        torch.add(affine(rows, slopes, squares), norms[:, None], out=found[start : start + height])
    return found.clamp_(min=0)


def integer_masses(weights: np.ndarray, heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples' supply [N] and the centroids' demand [K] as int64 of equal sums.

    Both sides equal: represented exactly (supply K, demand N, over their common divisor). A positive weight never
    becomes zero, and a zero stays zero."""
    count, clusters = len(weights), len(heights)
    if weights.min() == weights.max() and heights.min() == heights.max():
        common = math.gcd(count, clusters)
        return np.full(count, clusters // common), np.full(clusters, count // common)
    supply = np.where(weights > 0, np.maximum(np.rint(weights / weights.sum() * _UNITS), 1), 0).astype(np.int64)
    total = int(supply.sum())
    demand = np.floor(heights / heights.sum() * total).astype(np.int64)
    left = total - int(demand.sum())
    demand[np.argsort(-heights, kind="stable")[: abs(left)]] += 1 if left > 0 else -1
    return supply, demand


def transport_cost(costs: np.ndarray, weights: np.ndarray, heights: np.ndarray) -> float:
    """Return the least cost per unit of mass of carrying ``weights`` [N] to ``heights`` [K] at ``costs`` [N, K].

    The masses are any scale, none negative. Exact up to the integer representation of the masses (2^-40 of the whole).
    """
    from .transport_kernels import transport

    supply, demand = integer_masses(weights, heights)
    shares = np.empty(costs.shape, dtype=np.int64)
    transport(np.ascontiguousarray(costs), supply, demand, np.zeros(len(heights)), shares)
    return float(supply @ ((shares * costs).sum(axis=1) / np.maximum(supply, 1))) / float(supply.sum())
