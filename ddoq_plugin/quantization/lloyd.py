"""Lloyd's iteration by blocked matrix products, linear in N: for classes too large for a Gram matrix.

The start is a Gram-domain codebook of a random subsample, which costs less than one pass over the data and is nearer
to the optimum than k-means++ on all of it. Hartigan's exchange is left out: it gains through the factors m/(m + w) and
m/(m - w), which are 1 within 1 / (points per cell), and here cells are large.

One code path for CPU and CUDA. Only a block of samples is held in working precision, so half-precision and
memory-mapped latents need no full copy."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..seeding import generator
from .checks import check_finite, too_large
from .codebook import Codebook, codebook_of
from .gram import RESOLVED
from .gram_codebooks import gram_codebooks
from .matmul import BLOCK_ELEMENTS, affine

_SUBSAMPLE = 2048  # samples of the starting codebook, or
_SUBSAMPLE_PER_CLUSTER = 5  # times K where that is more
_SUBSAMPLE_LIMIT = 8192  # beyond it the start is K random samples
_BLOCK_DISTANCES = 1 << 20  # of a block of samples to all codes, which stay in the cache
_DOUBLE_DIMENSIONS = 64
_TOLERANCE = 1e-5  # relative fall of the distortion at which the iteration ends


@dataclass(frozen=True)
class Assigned:
    """One pass over the samples: ``codes`` [K, d] (an empty cell's replaced by a sample), ``labels`` and squared
    ``distances`` [N] to them, the ``means`` [K, d] of the cells and the weighted mean of the distances."""

    codes: Tensor
    labels: Tensor
    distances: Tensor
    means: Tensor
    distortion: float


def lloyd_codebook(
    points: Tensor, weights: Tensor | None, clusters: int, seed: int, limit: int, name: str | None
) -> Codebook:
    """Quantise ``points`` [N, d]; ``weights`` float64 [N] of mean 1 or None. The assignment is the nearest centroid.

    Raises:
        QuantizationError: a sample holds NaN or infinity (named), or the squares exceed the working precision.
    """
    check_finite(points, name)
    centre = points[:: max(1, len(points) // 1024)].to(working_dtype(points)).mean(dim=0)
    found = assign(points, weights, _start(points, weights, clusters, seed, name), centre)
    for _ in range(limit):
        before, found = found, assign(points, weights, found.means, centre)
        if not found.distortion < before.distortion * (1 - _TOLERANCE):
            break
    if not math.isfinite(found.distortion):
        raise too_large(name)
    return codebook_of(found.codes, found.labels, found.distances, weights)


def working_dtype(points: Tensor) -> torch.dtype:
    """float64 in low dimension, where the distortion can be a tiny part of the variance; float32 otherwise."""
    return torch.float64 if points.shape[1] <= _DOUBLE_DIMENSIONS else torch.float32


def _start(points: Tensor, weights: Tensor | None, clusters: int, seed: int, name: str | None) -> Tensor:
    usable = torch.arange(len(points)) if weights is None else (weights > 0).nonzero()[:, 0].cpu()
    rows = usable[torch.randperm(len(usable), generator=generator("quantize subsample", seed))].to(points.device)
    size = max(_SUBSAMPLE, _SUBSAMPLE_PER_CLUSTER * clusters)
    if size > _SUBSAMPLE_LIMIT and len(rows) > size:
        return points[rows[:clusters]].to(working_dtype(points))
    rows = rows[:size]
    chosen = None if weights is None else weights[rows].cpu()
    book = gram_codebooks(points[rows].cpu(), chosen, name, [(clusters, seed)])[clusters, seed]
    return book.centroids.to(points.device, working_dtype(points))


def assign(points: Tensor, weights: Tensor | None, codes: Tensor, centre: Tensor) -> Assigned:
    """Assign every sample to the nearest of ``codes`` and take the cells' means, block by block.

    Distances are |x|^2 - 2<x, z> + |z|^2 from ``centre``, with an error of about 4 eps |x - centre|^2; where that could
    show in the distortion, they are taken again by subtraction."""
    count, clusters = len(points), len(codes)
    labels = torch.empty(count, dtype=torch.int64, device=points.device)
    distances = torch.empty(count, dtype=torch.float64, device=points.device)
    sums = torch.zeros(codes.shape, dtype=torch.float64, device=points.device)
    masses = torch.zeros(clusters, dtype=torch.float64, device=points.device)
    moved = codes - centre
    slopes, squares = -2 * moved, (moved * moved).sum(dim=1)
    largest = 0.0
    block = max(64, min(BLOCK_ELEMENTS // points.shape[1], _BLOCK_DISTANCES // clusters))
    for start in range(0, count, block):
        rows = points[start : start + block].to(codes.dtype) - centre
        nearest, cells, norms = nearest_code(rows, slopes, squares)
        largest = max(largest, float(norms.max()))
        share = torch.ones_like(nearest) if weights is None else weights[start : start + block].to(codes.dtype)
        sums += cell_sums(cells, rows if weights is None else rows * share[:, None], clusters)
        masses += cell_sums(cells, share[:, None], clusters)[:, 0]
        labels[start : start + block] = cells
        distances[start : start + block] = nearest
    codes = _fill_empty(points, weights, codes, centre, labels, distances, sums, masses)
    means = (sums / masses[:, None]).to(codes.dtype) + centre
    total = float(distances.mean() if weights is None else (weights * distances).mean())
    if total <= RESOLVED * 4 * torch.finfo(codes.dtype).eps * largest:
        for start in range(0, count, block):
            part = slice(start, start + block)
            distances[part] = (points[part].to(torch.float64) - codes[labels[part]]).square().sum(dim=1)
        total = float(distances.mean() if weights is None else (weights * distances).mean())
    return Assigned(codes, labels, distances, means, total)


def nearest_code(rows: Tensor, slopes: Tensor, squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Squared distance to and index of the nearest of K codes, and the squared norms of ``rows``, each [n].

    ``slopes`` [K, d] are the codes times -2, ``squares`` [K] their squared norms."""
    offset, cells = affine(rows, slopes, squares).min(dim=1)
    norms = torch.linalg.vector_norm(rows, dim=1).square()
    return (norms + offset).clamp_(min=0), cells, norms


def cell_sums(cells: Tensor, rows: Tensor, clusters: int) -> Tensor:
    """Sum ``rows`` [n, d] by cell into [K, d]; on CUDA by a product, since atomic additions come in any order."""
    if rows.is_cuda:
        members = cells[None, :] == torch.arange(clusters, device=cells.device)[:, None]
        return members.to(rows.dtype) @ rows
    return torch.zeros(clusters, rows.shape[1], dtype=rows.dtype).index_add_(0, cells, rows)


def _fill_empty(
    points: Tensor,
    weights: Tensor | None,
    codes: Tensor,
    centre: Tensor,
    labels: Tensor,
    distances: Tensor,
    sums: Tensor,
    masses: Tensor,
) -> Tensor:
    """Give each empty cell the costliest sample of a cell with more than one; changes the state, returns the codes."""
    empty = (masses <= 0).nonzero()[:, 0].tolist()
    if not empty:
        return codes
    codes = codes.clone()
    members = torch.bincount(labels if weights is None else labels[weights > 0], minlength=len(codes))
    costs = distances.clone() if weights is None else torch.where(weights > 0, distances * weights, -1.0)
    for cell in empty:
        point = int(torch.where(members[labels] > 1, costs, -1.0).argmax())
        weight = 1.0 if weights is None else float(weights[point])
        row = (points[point].to(codes.dtype) - centre).to(torch.float64)
        source = int(labels[point])
        sums[source] -= weight * row
        masses[source] -= weight
        members[source] -= 1
        sums[cell] = weight * row
        masses[cell] = weight
        members[cell] = 1
        codes[cell] = points[point].to(codes.dtype)
        labels[point] = cell
        distances[point] = 0.0
        costs[point] = -1.0
    return codes
