"""Greedy selections of one class: pure tensors in, places in the order of selection out. Equal ones go to the lowest
place, so that the first n of a longer selection are the selection of n."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .greedy_kernels import cover, gains_of

Kind = Literal["rbf", "cosine", "distance"]

DENSE = 8192  # images of a class whose similarities are kept as one float64 matrix, of 512 MiB at most
BLOCK = 512  # images whose similarities to all are made at once beyond that
FIRST_ROUND = 64  # candidates that are looked at together; twice as many each time that the best is not yet sure
SAMPLE = 2048  # images by which the median distance is taken
TIE = 1e-12  # relative; sums of equal numbers differ by rounding


class Similarity:
    """Similarities between the images of a class with features ``[N, d]``: non-negative, larger for nearer ones.

    ``cosine``: (1 + cos) / 2 (DeepCore, PatrickZH/DeepCore, ``cossim_np``). ``rbf``: exp(-d^2 / m), m the median of
    the squared distances of at most 2048 evenly spaced images. ``distance``: c - d with c no smaller than any distance
    (CRAIG; c decides nothing). Up to 8192 images they are one float64 matrix; beyond that rows are made in float32
    when they are asked for, and memory grows with N, not with its square."""

    def __init__(self, features: Tensor, kind: Kind) -> None:
        self.kind, self.count = kind, len(features)
        large = self.count > DENSE
        points = features.flatten(1).to(torch.float32 if large else torch.float64)
        if kind == "cosine":
            points = points / points.norm(dim=1, keepdim=True).clamp_min(1e-12)
        else:
            points = points - points.mean(0)  # distances stay, and lose fewer digits
        self.points, self.squares = points, points.square().sum(1)
        self.scale = 0.0
        if kind == "rbf":
            some = torch.arange(0, self.count, max(1, self.count // SAMPLE))
            apart = self._squared(some)[:, some][~torch.eye(len(some), dtype=torch.bool)]
            self.scale = float(apart.median()) if len(apart) else 1.0
        elif kind == "distance":
            self.scale = 2 * float(self.squares.max()) ** 0.5
        self.matrix = None if large else self._made(torch.arange(self.count))

    def rows(self, places: np.ndarray) -> np.ndarray:
        """Return the similarities of images to all, float64 or float32 ``[n, N]``."""
        return self._made(torch.from_numpy(places)) if self.matrix is None else self.matrix[places]

    def _squared(self, places: Tensor) -> Tensor:
        own = self.squares[places].unsqueeze(1) + self.squares - 2 * self.points[places] @ self.points.T
        own = own.clamp_min_(0)
        own[torch.arange(len(places)), places] = 0
        return own

    def _made(self, places: Tensor) -> np.ndarray:
        if self.kind == "cosine":
            made = (1 + self.points[places] @ self.points.T) / 2
        elif self.kind == "rbf":
            made = torch.exp(self._squared(places) / -self.scale) if self.scale else torch.ones(len(places), self.count)
        else:
            made = self.scale - self._squared(places).sqrt_()
        return made.numpy()


Rows = Callable[[np.ndarray], np.ndarray]


def facility_location(rows: Rows | np.ndarray, count: int, budget: int) -> np.ndarray:
    """Return ``budget`` of ``count`` places that cover all best: int64, the greedy maximum of sum_j max_chosen s_ij.

    ``rows(places)`` gives non-negative similarities ``[n, count]``, or the whole symmetric matrix is given. A gain
    never grows, so places whose last known gain is below the best are not looked at again (lazy greedy, exact)."""
    known = np.full(count, np.inf)
    covered, chosen = np.zeros(count), np.empty(budget, dtype=np.int64)
    look: Rows = rows if callable(rows) else rows.__getitem__
    for start in range(0, count, BLOCK):
        places = np.arange(start, min(start + BLOCK, count))
        known[places] = gains_of(look(places), covered)
    for turn in range(budget):
        fresh = np.zeros(count, dtype=bool)
        fresh[:] = turn == 0
        together = FIRST_ROUND
        while True:
            best = known[fresh].max(initial=-np.inf)
            stale = np.flatnonzero(~fresh & (known >= best - TIE * abs(best)) & (known > -np.inf))
            if not len(stale):
                break
            if len(stale) > together:
                stale = stale[np.argpartition(-known[stale], together - 1)[:together]]
            together = min(2 * together, BLOCK)
            known[stale] = gains_of(look(stale), covered)
            fresh[stale] = True
        chosen[turn] = lowest_best(np.where(fresh, known, -np.inf))
        cover(look(chosen[turn : turn + 1])[0], covered)
        known[chosen[turn]] = -np.inf
    return chosen


def nearest_chosen(rows: Rows | np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return how many of all are most similar to each of the chosen, themselves included: int64 ``[budget]``."""
    own = rows(chosen) if callable(rows) else rows[chosen]
    owner = own.argmax(0)
    owner[chosen] = np.arange(len(chosen))  # also where an image has a double
    return np.bincount(owner, minlength=len(chosen))


def graph_cut(rows: Rows | np.ndarray, count: int, budget: int) -> np.ndarray:
    """Return the greedy maximum of sum_(i chosen, all j) s_ij - sum_(i, j chosen) s_ij, int64 ``[budget]``.

    A place's gain is its similarity to all less twice that to the chosen (DeepCore's GraphCut, submodlib's of lambda
    1)."""
    look: Rows = rows if callable(rows) else rows.__getitem__
    places = np.arange(count)
    parts = [look(places[start : start + BLOCK]).sum(1, dtype=np.float64) for start in range(0, count, BLOCK)]
    gains, chosen = np.concatenate(parts), np.empty(budget, dtype=np.int64)
    for turn in range(budget):
        chosen[turn] = lowest_best(gains)
        gains -= 2 * look(chosen[turn : turn + 1])[0].astype(np.float64)
        gains[chosen[turn]] = -np.inf
    return chosen


def herding(features: Tensor, budget: int) -> np.ndarray:
    """Return the places whose running mean stays nearest to the mean of ``features`` ``[N, d]``, int64 ``[budget]``.

    Welling, "Herding dynamical weights to learn" (ICML 2009), as iCaRL and DC use it: step k takes the image that
    brings the mean of k images nearest. DeepCore's code takes the one that brings it farthest."""
    points = features.flatten(1).double()
    points = points - points.mean(0)
    squares, total = points.square().sum(1), torch.zeros(points.shape[1], dtype=torch.float64)
    free, chosen = np.zeros(len(points)), np.empty(budget, dtype=np.int64)
    for turn in range(budget):
        away = squares + 2 * points @ total  # |total + x|^2 but for what is the same for all
        chosen[turn] = lowest_best(free - away.numpy())
        free[chosen[turn]] = -np.inf
        total += points[chosen[turn]]
    return chosen


def k_center(features: Tensor, budget: int, given: np.ndarray | None = None) -> np.ndarray:
    """Return places of ``features`` ``[N, d]``, each farthest from all before it, int64 ``[budget]``.

    ``given`` are chosen already and are not returned; without them the first is the one nearest to the mean (Sener &
    Savarese, "Active learning for convolutional neural networks: a core-set approach", ICLR 2018; the start is
    GCond's)."""
    points = features.flatten(1).double()
    squares = points.square().sum(1)

    def squared(place: int) -> np.ndarray:
        return (squares + squares[place] - 2 * points @ points[place]).clamp_min_(0).numpy()

    nearest, chosen = np.full(len(points), np.inf), np.empty(budget, dtype=np.int64)
    for place in () if given is None else given.tolist():
        nearest = np.minimum(nearest, squared(place))
        nearest[place] = -np.inf
    for turn in range(budget):
        if np.isinf(nearest.max()):
            chosen[turn] = lowest_best(-(points - points.mean(0)).square().sum(1).numpy())
        else:
            chosen[turn] = lowest_best(nearest)
        nearest = np.minimum(nearest, squared(chosen[turn]))
        nearest[chosen[turn]] = -np.inf
    return chosen


def lowest_best(values: np.ndarray) -> int:
    """Return the lowest place of the largest value, up to rounding."""
    best = values.max()
    return int(np.flatnonzero(values >= best - TIE * abs(best))[0])
