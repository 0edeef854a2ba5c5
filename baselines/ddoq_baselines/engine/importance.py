"""Importance of images for sampling, and the draw by importance: pure tensors, float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ddoq_plugin.seeding import generator


def ridge_leverage(features: Tensor, lam: float, share: bool = False) -> Tensor:
    """Return tau_i = r_i^T (R^T R + lam I)^-1 r_i of rows of ``features`` ``[N, d]``, float64 ``[N]`` in (0, 1).

    ``share``: lam is a share of trace(R R^T) / N. lam 0 gives plain leverage scores, all 1 where d >= N."""
    rows = features.flatten(1).double()
    kernel = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    lam = lam * float(rows.square().sum()) / len(rows) if share else lam
    values, vectors = torch.linalg.eigh(kernel)
    values = values.clamp_min(0)
    tiny = float(values[-1]) * len(values) * torch.finfo(torch.float64).eps
    if len(rows) <= rows.shape[1]:
        kept = torch.where(values > tiny, values / (values + lam), torch.zeros_like(values))
        return vectors.square() @ kept
    kept = torch.where(values > tiny, 1 / (values + lam), torch.zeros_like(values))
    return (rows @ vectors).square() @ kept


def kernel_leverage(kernel: Tensor, lam: float) -> Tensor:
    """Return diag K (K + lam I)^-1 of a kernel matrix ``[N, N]``, float64 ``[N]``."""
    values, vectors = torch.linalg.eigh(kernel.double())
    values = values.clamp_min(0)
    return vectors.square() @ (values / (values + lam))


def sensitivity(features: Tensor, clusters: int, seed: int, class_id: int) -> Tensor:
    """Return bounds of each row's share in any k-means cost, float64 ``[N]`` (Bachem, Lucic & Krause, "Practical
    coreset constructions for machine learning", arXiv 1703.06476, Algorithm 2): centres by k-means++,
    a d_i^2 / c + 2 a mean_cell d^2 / c + 4 N / |cell| with c the mean d^2 and a = 16 (log2 k + 2)."""
    rows = features.flatten(1).double()
    draws = generator("sensitivity", seed, class_id)
    nearest, owner = torch.full((len(rows),), torch.inf, dtype=torch.float64), torch.zeros(len(rows), dtype=torch.int64)
    for number in range(clusters):
        weights = torch.ones_like(nearest) if number == 0 or float(nearest.sum()) == 0 else nearest
        centre = rows[torch.multinomial(weights, 1, generator=draws)]
        squared = (rows - centre).square().sum(1)
        owner[squared < nearest] = number
        nearest = torch.minimum(nearest, squared)
    cost, factor = float(nearest.mean()), 16 * (math.log2(clusters) + 2)
    sizes = owner.bincount(minlength=clusters).double()
    spread = torch.zeros(clusters, dtype=torch.float64).index_add_(0, owner, nearest) / sizes.clamp_min(1)
    apart = factor * (nearest + 2 * spread[owner]) / cost if cost else torch.zeros_like(nearest)
    return apart + 4 * len(rows) / sizes[owner]


def lightweight(features: Tensor) -> Tensor:
    """Return p_i = 1 / 2N + d(r_i, mean)^2 / (2 sum), float64 ``[N]`` (Bachem, Lucic & Krause, "Scalable k-means
    clustering via lightweight coresets", KDD 2018, arXiv 1702.08248)."""
    rows = features.flatten(1).double()
    squared = (rows - rows.mean(0)).square().sum(1)
    even = torch.full_like(squared, 1 / len(rows))
    return even if float(squared.sum()) == 0 else (even + squared / squared.sum()) / 2


def draw(importance: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` distinct places, drawn one after another in proportion to ``importance`` ``[N]``: int64.

    By the exponential race: the first n of a longer draw are the draw of n with the same generator."""
    race = torch.empty(len(importance), dtype=torch.float64).exponential_(generator=generator)
    return (race / importance.double().clamp_min(torch.finfo(torch.float64).tiny)).argsort(stable=True)[:count]
