"""Many classes quantised at once in batched products: the way on CUDA, and the same code on the CPU for its tests.

Classes are taken in chunks that fit the memory; a chunk is padded with points of weight zero, centred, multiplied (in
float32, with TF32 off), and all restarts of all its classes run side by side. The
steps are those of the CPU (``gram``), in float32 from the Gram matrix on: a distortion is right to about 1e-6 of the
class variance. A class whose distortion is too small for that is quantised again in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import QuantizationError
from . import batched_kernels
from .batched_kernels import Problem, costs, lloyd, offsets, run_state, seed_greedy
from .checks import as_matrix, as_weights, check_clusters, check_finite, too_large
from .codebook import Codebook, codebook_of
from .gram import DOUBLE_DIMENSIONS, RESOLVED
from .gram_codebooks import Settings, default_restarts, gram_codebooks, uniform_draws
from .matmul import full_precision

_CPU_BYTES = 1 << 30  # working memory of a chunk where the device does not say what is free
_FREE_SHARE = 0.4


@full_precision()
def quantize_classes(
    classes: Sequence[Tensor],
    clusters: int,
    *,
    seed: int = 0,
    weights: Sequence[Tensor | None] | None = None,
    restarts: int | None = None,
    exchange: bool = True,
    max_iterations: int = 300,
    names: Sequence[str] | None = None,
) -> list[Codebook]:
    """Quantise many classes to K centroids each, with Voronoi masses, from their Gram matrices.

    On CUDA the classes run side by side; on the CPU one after the other as ``quantize(..., method="gram")``. The
    arguments are those of ``quantize``, per class where they are sequences.

    Raises:
        QuantizationError: as ``quantize``.
    """
    names = list(names) if names is not None else [None] * len(classes)
    weights = list(weights) if weights is not None else [None] * len(classes)
    if not len(names) == len(weights) == len(classes):
        raise QuantizationError(f"{len(classes)} classes came with {len(weights)} weights and {len(names)} names.")
    settings = Settings(restarts, exchange, max_iterations)
    points = [as_matrix(latents, name) for latents, name in zip(classes, names, strict=True)]
    shares = [as_weights(*given) for given in zip(weights, points, names, strict=True)]
    for one, share, name in zip(points, shares, names, strict=True):
        check_clusters([clusters], one, share, name)
    if points and points[0].is_cuda:
        return batched_codebooks(points, shares, names, clusters, seed, settings)
    key = (clusters, seed)
    return [gram_codebooks(*given, [key], settings)[key] for given in zip(points, shares, names, strict=True)]


def batched_codebooks(
    points: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    names: Sequence[str | None],
    clusters: int,
    seed: int,
    settings: Settings,
) -> list[Codebook]:
    """Quantise checked ``points`` [N_c, d] of each class with ``weights`` float64 [N_c] of mean 1 or None."""
    order = sorted(range(len(points)), key=lambda index: len(points[index]))  # alike sizes need little padding
    double = points[0].shape[1] <= DOUBLE_DIMENSIONS
    size = _chunk_size(points[order[-1]], clusters, settings.restarts or default_restarts(clusters))
    found: dict[int, Codebook] = {}
    for start in range(0, len(order), size):
        chunk = order[start : start + size]
        parts = [[given[index] for index in chunk] for given in (points, weights, names)]
        found.update(zip(chunk, _quantize_chunk(*parts, clusters, seed, settings, double), strict=True))
    return [found[index] for index in range(len(points))]


def _chunk_size(largest: Tensor, clusters: int, restarts: int) -> int:
    count, dimensions = largest.shape
    # Gram matrix, centred points twice, and about five arrays of the size of the sums
    each = 4 * (count * count + 2 * count * dimensions + 5 * restarts * clusters * count)
    memory = _FREE_SHARE * torch.cuda.mem_get_info(largest.device)[0] if largest.is_cuda else _CPU_BYTES
    return max(1, int(memory // each))


def _quantize_chunk(
    points: list[Tensor],
    weights: list[Tensor | None],
    names: list[str | None],
    clusters: int,
    seed: int,
    settings: Settings,
    double: bool,
) -> list[Codebook]:
    centred, centres, shares = _padded(points, weights, torch.float64 if double else torch.float32)
    gram = torch.bmm(centred, centred.transpose(1, 2))
    diagonal = gram.diagonal(dim1=1, dim2=2).clone()
    largest = diagonal.amax(dim=1)
    for index in (~torch.isfinite(largest)).nonzero()[:, 0].tolist():
        check_finite(points[index], names[index])
        if double:
            raise too_large(names[index])
    in_range = torch.isfinite(largest) & (double | (largest > 1e-30))  # else float32 squares overflowed or vanished
    gram[~in_range] = 0.0
    diagonal[~in_range] = 0.0
    slack = 4 * torch.finfo(centred.dtype).eps * torch.where(in_range, largest, 0.0)
    problem = Problem(gram, diagonal, shares, slack[:, None, None])
    labels = _best_labels(problem, clusters, seed, settings)
    run = run_state(problem, labels[:, None], clusters)
    reach = offsets(run)[:, 0]
    own = torch.where(shares > 0, labels, reach.argmin(dim=1))
    distances = (diagonal + reach.gather(1, own[:, None])[:, 0]).clamp_(min=0).to(torch.float64)
    members = torch.nn.functional.one_hot(labels, clusters).to(shares.dtype) * shares[..., None]
    codes = torch.bmm(members.transpose(1, 2), centred) / run.masses[:, 0, :, None] + centres[:, None]
    costs = (shares * distances).sum(dim=1) / shares.sum(dim=1)
    resolved = in_range & (costs > RESOLVED * slack)
    books = []
    for index, clear in enumerate((resolved | double).tolist()):
        if clear:
            count = len(points[index])
            cells, paid = own[index, :count].clone(), distances[index, :count]
            books.append(codebook_of(codes[index], cells, paid, weights[index]))
        else:
            books += _quantize_chunk([points[index]], [weights[index]], [names[index]], clusters, seed, settings, True)
    return books


def _best_labels(problem: Problem, clusters: int, seed: int, settings: Settings) -> Tensor:
    """Labels [B, N] of the best restart of each class."""
    restarts = settings.restarts or default_restarts(clusters)
    draws = torch.from_numpy(uniform_draws(clusters, seed, restarts)).to(problem.gram.device)
    labels = seed_greedy(problem, draws.expand(len(problem.gram), -1, -1, -1))
    run = lloyd(problem, labels, clusters, settings.limit)
    if settings.exchange and clusters > 1:
        run = batched_kernels.exchange(problem, run, settings.limit * problem.gram.shape[1])
    found = costs(problem, run)
    # restarts that meet in one optimum: the first, whatever the rounding
    tied = found <= found.amin(dim=1, keepdim=True) + problem.gram.shape[1] * problem.slack[:, :, 0]
    best = tied.to(torch.int8).argmax(dim=1)
    return run.labels[torch.arange(len(best), device=best.device), best]


def _padded(points: list[Tensor], weights: list[Tensor | None], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return centred points [B, N, d], centres [B, d] and weights [B, N] of mean 1; padding has weight zero."""
    count = max(map(len, points))
    device = points[0].device
    centred = torch.zeros(len(points), count, points[0].shape[1], dtype=dtype, device=device)
    centres = torch.empty(len(points), points[0].shape[1], dtype=dtype, device=device)
    shares = torch.zeros(len(points), count, dtype=dtype, device=device)
    for index, (rows, given) in enumerate(zip(points, weights, strict=True)):
        own = centred[index, : len(rows)]
        own.copy_(rows)
        centres[index] = own.mean(dim=0)
        own -= centres[index]
        shares[index, : len(rows)] = 1.0 if given is None else given.to(dtype)
    return centred, centres, shares
