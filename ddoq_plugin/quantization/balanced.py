"""Balanced codebooks: K centroids of equal mass that minimise W2, so that a set needs no weights.

From Lloyd's codebook, two exact steps alternate: the transport of the samples to K points of mass 1/K, and the mean of
each point's share. Neither raises W2. A sample's mass may be split between points; at most K - 1 are.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from .codebook import Codebook
from .gram import Gram

_UNITS = 1 << 40  # integer units of mass where weights differ: masses are right to K / 2^40


def balanced_codebook(gram: Gram, labels: np.ndarray, clusters: int, limit: int) -> tuple[Codebook, np.ndarray]:
    """Return the balanced codebook reached from the partition ``labels``, and the squared distances [N] paid.

    Its ``distortion`` is W2^2 with masses 1/K; ``assignment`` is the centroid of each sample's largest share.
    """
    from .transport_kernels import alternate

    supply, demand = integer_masses(gram.weights, clusters)
    shares = np.zeros((len(supply), clusters), dtype=np.int64)
    shares[np.arange(len(supply)), labels] = supply
    costs = np.empty(shares.shape)
    _, used = alternate(
        gram.matrix, gram.diagonal, gram.weights, supply, demand, shares, costs, gram.slack * 1e-3, limit
    )
    return _codebook(gram, used, shares, costs, supply)


def integer_masses(weights: np.ndarray, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples' supply [N] and the centroids' demand [K] as int64 of equal sums.

    Equal weights are represented exactly (supply K, demand N, over their common divisor).
    """
    count = len(weights)
    if weights.min() == weights.max():
        common = math.gcd(count, clusters)
        return np.full(count, clusters // common), np.full(clusters, count // common)
    supply = np.where(weights > 0, np.maximum(np.rint(weights / weights.sum() * _UNITS), 1), 0).astype(np.int64)
    demand = np.full(clusters, supply.sum() // clusters)
    demand[: supply.sum() % clusters] += 1
    return supply, demand
