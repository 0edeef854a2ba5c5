"""Slow, plain versions of what the quantiser computes, to compare with."""

from __future__ import annotations

import numpy as np


def distances(points: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Squared distances [N, K], by subtraction in float64."""
    return ((points[:, None].astype(np.float64) - codes[None].astype(np.float64)) ** 2).sum(axis=2)


def cost(points: np.ndarray, weights: np.ndarray, labels: np.ndarray) -> float:
    """Weighted sum of squared distances to the cells' means."""
    total = 0.0
    for cell in np.unique(labels):
        own = labels == cell
        mean = np.average(points[own], axis=0, weights=weights[own])
        total += float(weights[own] @ ((points[own] - mean) ** 2).sum(axis=1))
    return total


def best_single_move(points: np.ndarray, weights: np.ndarray, labels: np.ndarray, clusters: int) -> float:
    """The lowest cost that moving one point to another cell can reach, by trying all of them."""
    best = np.inf
    for point in range(len(points)):
        if (labels == labels[point]).sum() == 1:
            continue
        for cell in range(clusters):
            moved = labels.copy()
            moved[point] = cell
            best = min(best, cost(points, weights, moved))
    return best
