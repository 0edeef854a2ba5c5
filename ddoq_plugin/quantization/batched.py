"""A class quantised in batched products, all restarts side by side: the way on CUDA, and the same code on the CPU for
its tests.

The steps are those of the CPU (``gram_codebooks``), in float32 from the Gram matrix on (with TF32 off): a distortion is
right to about 1e-6 of the class variance. A class whose distortion is too small for that is quantised in float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import batched_kernels
from .batched_kernels import Problem, costs, lloyd, offsets, run_state, seed_greedy
from .checks import check_finite, too_large
from .codebook import Codebook, codebook_of
from .gram import DOUBLE_DIMENSIONS, RESOLVED
from .gram_codebooks import Settings, default_restarts, uniform_draws


def batched_codebook(
    points: Tensor,
    weights: Tensor | None,
    name: str | None,
    clusters: int,
    seed: int,
    settings: Settings,
    *,
    double: bool = False,
) -> Codebook:
    """Quantise checked ``points`` [N, d] with ``weights`` float64 [N] of mean 1 or None, in float64 where ``double``.

    Raises:
        QuantizationError: a sample holds NaN or infinity (named), or the squares exceed float64.
    """
    double = double or points.shape[1] <= DOUBLE_DIMENSIONS
    dtype = torch.float64 if double else torch.float32
    centred = points.to(dtype)
    centre = centred.mean(dim=0)
    centred = centred - centre
    gram = centred @ centred.T
    diagonal = gram.diagonal().clone()
    largest = float(diagonal.max())
    if not math.isfinite(largest):
        check_finite(points, name)
        if double:
            raise too_large(name)
    if not double and not 1e-30 < largest < math.inf:  # float32 squares overflowed or vanished
        return batched_codebook(points, weights, name, clusters, seed, settings, double=True)
    slack = 4 * torch.finfo(dtype).eps * largest
    shares = torch.ones_like(diagonal) if weights is None else weights.to(dtype)
    problem = Problem(gram[None], diagonal[None], shares[None], torch.full_like(diagonal[:1, None, None], slack))
    labels = _best_labels(problem, clusters, seed, settings)
    run = run_state(problem, labels[:, None], clusters)
    labels, reach = labels[0], offsets(run)[0, 0]
    own = torch.where(shares > 0, labels, reach.argmin(dim=0))
    distances = (diagonal + reach.gather(0, own[None])[0]).clamp_(min=0).to(torch.float64)
    if not double and float((shares * distances).sum() / shares.sum()) <= RESOLVED * slack:
        return batched_codebook(points, weights, name, clusters, seed, settings, double=True)
    members = torch.nn.functional.one_hot(labels, clusters).to(dtype) * shares[:, None]
    codes = members.T @ centred / run.masses[0, 0, :, None] + centre
    return codebook_of(codes, own, distances, weights)


def _best_labels(problem: Problem, clusters: int, seed: int, settings: Settings) -> Tensor:
    """Labels [1, N] of the best restart."""
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
