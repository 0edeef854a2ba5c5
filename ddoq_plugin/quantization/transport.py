"""The exact cost of a transport with given masses on both sides."""

from __future__ import annotations

import math

import numpy as np

_UNITS = 1 << 40  # of mass where masses differ: each is right to 2^-40 of the whole


def integer_masses(weights: np.ndarray, heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples' supply [N] and the centroids' demand [K] as int64 of equal sums.

    Both sides equal: represented exactly (supply K, demand N, over their common divisor). A positive weight never
    becomes zero, and a zero stays zero.
    """
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
