"""The Gram-domain steps of ``gram_kernels`` as batched tensor products: many classes and restarts at once, for CUDA.

Shapes: B classes of N points (padded with points of weight zero), R restarts, K clusters. The state of a run is

    labels [B, R, N], sums [B, R, K, N], squares [B, R, K], masses [B, R, K]

with the meaning of ``gram_kernels``. Only matrix products, gathers, minima and additions to distinct rows are used,
which give the same bits each time on one device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Problem:
    """Products [B, N, N] of centred points, their diagonals [B, N], weights [B, N] and rounding errors [B, 1, 1]."""

    gram: Tensor
    diagonal: Tensor
    weights: Tensor
    slack: Tensor


@dataclass
class Run:
    """Where the B x R runs stand."""

    labels: Tensor
    sums: Tensor
    squares: Tensor
    masses: Tensor


def seed_greedy(problem: Problem, uniforms: Tensor) -> Tensor:
    """Greedy k-means++ driven by ``uniforms`` [B, R, K, L]; returns labels [B, R, N] of the nearest centre."""
    classes, restarts, clusters, _ = uniforms.shape
    count = problem.gram.shape[1]
    weights = problem.weights[:, None]
    last = (problem.weights > 0).to(torch.int64).cumsum(1).argmax(1)[:, None, None]  # last point that has weight
    rows = problem.gram.reshape(classes * count, count)
    base = (torch.arange(classes, device=rows.device) * count)[:, None, None]
    closest = torch.full((classes, restarts, count), torch.inf, dtype=rows.dtype, device=rows.device)
    labels = torch.zeros(closest.shape, dtype=torch.int64, device=rows.device)
    chosen = torch.zeros(closest.shape, dtype=torch.bool, device=rows.device)
    for k in range(clusters):
        spread = weights.expand_as(closest) if k == 0 else weights * closest
        fallback = torch.where(chosen, 0.0, weights)  # every point sits on a centre: any other will do
        spread = torch.where(spread.sum(dim=2, keepdim=True) > 0, spread, fallback)
        cumulative = spread.to(torch.float64).cumsum(dim=2)
        draws = uniforms[:, :, k] if k else uniforms[:, :, k, :1]
        points = torch.searchsorted(cumulative, (draws * cumulative[:, :, -1:]).contiguous(), right=True)
        points = torch.minimum(points, last)
        reach = problem.diagonal[:, None, None] - 2 * rows[base + points]
        reach = reach + problem.diagonal.gather(1, points.flatten(1)).view(points.shape)[..., None]
        reach = torch.minimum(reach.clamp_(min=0), closest[:, :, None])
        pick = (reach * weights[:, None]).sum(dim=3).argmin(dim=2, keepdim=True)
        reach = reach.gather(2, pick[..., None].expand(-1, -1, 1, count))[:, :, 0]
        centre = points.gather(2, pick)
        labels = torch.where(reach < closest, k, labels).scatter(2, centre, k)
        closest = reach.scatter(2, centre, 0.0)
        chosen = chosen.scatter(2, centre, True)
    return labels


def run_state(problem: Problem, labels: Tensor, clusters: int) -> Run:
    """Compute sums, squares and masses afresh from ``labels``."""
    classes, restarts, count = labels.shape
    shares = _memberships(problem, labels, clusters)
    sums = torch.bmm(shares.view(classes, restarts * clusters, count), problem.gram).view(shares.shape)
    return Run(labels, sums, (shares * sums).sum(dim=3), shares.sum(dim=3))


def _memberships(problem: Problem, labels: Tensor, clusters: int) -> Tensor:
    cells = torch.arange(clusters, device=labels.device)[:, None]
    return torch.where(labels[:, :, None] == cells, problem.weights[:, None, None], 0.0)


def offsets(run: Run) -> Tensor:
    """Squared distances less ``diagonal``: [B, R, K, N], infinite for empty cells."""
    masses = run.masses[..., None]
    values = run.squares[..., None] / masses**2 - 2 * run.sums / masses
    return torch.where(masses > 0, values, torch.inf)


def lloyd(problem: Problem, labels: Tensor, clusters: int, limit: int) -> Run:
    """Lloyd's iteration of all runs until none changes, at most ``limit`` steps."""
    run = run_state(problem, labels, clusters)
    for _ in range(limit):
        values = offsets(run)
        best, nearest = values.min(dim=2)
        own = values.gather(2, run.labels[:, :, None])[:, :, 0]
        moves = best < own - problem.slack
        labels = torch.where(moves, nearest, run.labels)
        costs = problem.weights[:, None] * (problem.diagonal[:, None] + torch.minimum(best, own))
        labels = _fill_empty(problem.weights, costs, labels, clusters)
        if torch.equal(labels, run.labels):
            break
        run = run_state(problem, labels, clusters)
    return run


def _fill_empty(weights: Tensor, costs: Tensor, labels: Tensor, clusters: int) -> Tensor:
    """Give each empty cell the costliest point of a cell that has more than one."""
    cells = torch.arange(clusters, device=labels.device)[:, None]
    members = ((labels[:, :, None] == cells) & (weights[:, None, None] > 0)).sum(dim=3)
    empty = (members == 0).nonzero().tolist()
    for b, r, k in empty:
        spare = (members[b, r][labels[b, r]] > 1) & (weights[b] > 0)
        point = torch.where(spare, costs[b, r], -torch.inf).argmax()
        members[b, r, labels[b, r, point]] -= 1
        members[b, r, k] = 1
        labels[b, r, point] = k
    return labels


def exchange(problem: Problem, run: Run, limit: int) -> Run:
    """Hartigan's exchange of all runs until no single move lowers a cost, at most ``limit`` steps.

    A step makes all moves that are the best one of both their cells. These touch distinct cells, so their gains add up.
    """
    classes, restarts, clusters, count = run.sums.shape
    weights = problem.weights[:, None].expand(classes, restarts, count)
    positive = weights > 0
    numbers = torch.arange(count, device=weights.device).expand_as(weights)
    cells = torch.arange(clusters, device=weights.device)[:, None]
    members = ((run.labels[:, :, None] == cells) & positive[:, :, None]).sum(dim=3)
    for _ in range(limit):
        masses = run.masses[..., None]
        distances = problem.diagonal[:, None, None] + offsets(run)
        own_mass = run.masses.gather(2, run.labels)
        leaving = distances.gather(2, run.labels[:, :, None])[:, :, 0] * own_mass / (own_mass - weights)
        joining = distances.mul_(masses / (masses + weights[:, :, None]))
        joining.scatter_(2, run.labels[:, :, None], torch.inf)
        joining, target = joining.min(dim=2)
        movable = positive & (members.gather(2, run.labels) > 1) & (leaving - joining > problem.slack)
        gain = torch.where(movable, weights * (leaving - joining), 0.0)
        best = torch.zeros_like(run.masses).scatter_reduce(2, run.labels, gain, "amax")
        best = best.scatter_reduce(2, target, gain, "amax")
        wins = movable & (gain == best.gather(2, run.labels)) & (gain == best.gather(2, target))
        # equal gains, as of duplicated points: the first point of each cell wins
        rank = torch.where(wins, numbers, count)
        first = torch.full(run.masses.shape, count, device=rank.device)
        first = first.scatter_reduce(2, run.labels, rank, "amin").scatter_reduce(2, target, rank, "amin")
        wins &= (rank == first.gather(2, run.labels)) & (rank == first.gather(2, target))
        moves = wins.nonzero()
        if len(moves) == 0:
            break
        _move(problem, run, members, moves, target[tuple(moves.T)])
    return run


def _move(problem: Problem, run: Run, members: Tensor, moves: Tensor, target: Tensor) -> None:
    b, r, i = moves.T
    _, restarts, clusters, count = run.sums.shape
    source = run.labels[b, r, i]
    weight = problem.weights[b, i]
    left = (b * restarts + r) * clusters + source
    joined = (b * restarts + r) * clusters + target
    sums, squares = run.sums.view(-1, count), run.squares.view(-1)
    masses, sizes = run.masses.view(-1), members.view(-1)
    own = weight * problem.diagonal[b, i]
    squares[left] += weight * (own - 2 * sums[left, i])
    squares[joined] += weight * (own + 2 * sums[joined, i])
    share = weight[:, None] * problem.gram[b, i]
    sums.index_add_(0, left, share, alpha=-1)
    sums.index_add_(0, joined, share)
    masses[left] -= weight
    masses[joined] += weight
    sizes[left] -= 1
    sizes[joined] += 1
    run.labels[b, r, i] = target


def costs(problem: Problem, run: Run) -> Tensor:
    """Weighted sum of squared distances of each run, float64 [B, R]."""
    inertia = (problem.weights * problem.diagonal).to(torch.float64).sum(dim=1)[:, None]
    squares, masses = run.squares.to(torch.float64), run.masses.to(torch.float64)
    return inertia - torch.where(masses > 0, squares / masses, 0.0).sum(dim=2)
