"""Balanced codebooks: K centroids of equal mass that minimise W2, so that a set needs no weights.

From the Voronoi codebook two exact steps alternate: the transport of the samples to K points of mass 1/K, and the mean
of each point's share. Where they come to rest, swaps of two samples go on (Hartigan's exchange under equal masses)
until none of the three lowers W2. A sample's mass may be split between points; at most K - 1 samples are."""

import math

import numpy as np
import torch
from torch import Tensor

from .codebook import Codebook
from .gram import Gram
from .w2 import integer_masses


def balanced_codebook(gram: Gram, labels: np.ndarray, clusters: int, limit: int) -> Codebook:
    """Return the balanced codebook reached from the partition ``labels`` int64 [N].

    Its ``distortion`` is W2^2 with masses 1/K; ``assignment`` is the centroid of each sample's largest share."""
    supply, demand = integer_masses(gram.weights, np.ones(clusters))
    shares = np.zeros((len(supply), clusters), dtype=np.int64)
    shares[np.arange(len(supply)), labels] = supply
    total, costs, used = _alternate(gram, supply, demand, shares, limit)
    assignment = np.where(supply > 0, shares.argmax(axis=1), costs.argmin(axis=1))
    centroids = _means(gram, used, supply)
    masses = torch.full((clusters,), 1 / clusters, dtype=torch.float64)
    distortion = total / float(gram.weights.sum())
    if gram.norms is not None:
        means = centroids if np.array_equal(shares, used) else _means(gram, shares, supply)
        distortion = gram.distortion(centroids, means, masses)
    # of each point's samples the nearest; those assigned to it come first, so that indices differ where they can
    own = (assignment[:, None] == np.arange(clusters)) & (shares > 0)
    candidates = np.where(own.any(axis=0), own, shares > 0)
    nearest = np.where(candidates, costs, np.inf).argmin(axis=0)
    found, medoids = torch.from_numpy(assignment), torch.from_numpy(nearest)
    return Codebook(centroids.to(torch.float32), masses, distortion, found, medoids)


def _alternate(
    gram: Gram, supply: np.ndarray, demand: np.ndarray, shares: np.ndarray, limit: int
) -> tuple[float, np.ndarray, np.ndarray]:
    """Alternate means and exact transport from ``shares``, then swaps, until neither lowers the cost.

    Returns the cost, the squared distances [N, K] to the centroids, and the shares [N, K] whose means these centroids
    are. ``shares`` becomes the cheapest transport to them; at convergence the two are the same."""
    from . import transport_kernels as kernels

    sums, masses = np.empty(shares.shape[::-1]), np.empty(len(demand))
    costs, prices = np.empty(shares.shape), np.zeros(len(demand))
    unit = gram.weights / np.maximum(supply, 1)
    previous = math.inf
    while True:
        used = shares.copy()
        kernels.share_sums(gram.matrix, gram.weights, supply, used, sums, masses)
        kernels.share_costs(gram.diagonal, gram.weights, supply, used, sums, masses, costs)
        kernels.transport(costs, supply, demand, prices, shares)
        total = float(unit @ (shares * costs).sum(axis=1))
        limit -= 1
        if limit <= 0:
            return total, costs, used
        if total >= previous - gram.slack:
            kernels.share_sums(gram.matrix, gram.weights, supply, shares, sums, masses)
            state = (gram.matrix, gram.diagonal, gram.weights, supply, shares, sums)
            if kernels.swap(*state, gram.slack, limit) == 0:
                return total, costs, used
        previous = total


def _means(gram: Gram, shares: np.ndarray, supply: np.ndarray) -> Tensor:
    samples, points = shares.nonzero()
    parts = gram.weights[samples] * shares[samples, points] / supply[samples]
    first, second, third = map(torch.from_numpy, (samples, points, parts))
    return gram.means(first, second, third, shares.shape[1])
