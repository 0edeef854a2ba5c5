"""Quantisation from the Gram matrix of a class: one symmetric product, then any number of K, seeds and restarts.

Precision. Three kinds of product, each centred; everything after the product is float64:

    rounded: exact, of samples rounded to 14 bits (see ``rounded``), where the processor has fast byte products;
    single: float32;
    double: float64, always taken where d is at most 64, where that costs nothing.

An entry of a float32 product is wrong by at most about eps |x_i| |x_j| (eps = 2^-23), so a squared distance by
4 eps max |x|^2, the ``slack``, x taken from the class mean; where samples are rounded, the square of the furthest that
one can have moved is added. A codebook whose mean squared distance is below 10^4 slacks is computed again from the next
finer product. So a distortion is right to 1e-4 at the very worst; on latents, where distortion and variance are alike,
to 1e-7. Centroids and distortion come from the samples as they are, also where the partition is that of rounded ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..seeding import numpy_rng
from .checks import check_finite, too_large
from .codebook import Codebook, codebook_of

DOUBLE_DIMENSIONS = 64
RESOLVED = 1e4  # slacks that a mean squared distance must be worth
# a block of columns: 8 MB of float32, but never so narrow that the product is more traffic than work
_BLOCK_ELEMENTS = 2 << 20
_BLOCK_WIDTH = 512


@dataclass(frozen=True)
class Settings:
    """How codebooks are made: ``restarts`` None is ``default_restarts``; ``limit`` bounds each iteration."""

    restarts: int | None = None
    exchange: bool = True
    limit: int = 300
    balanced: bool = False


@dataclass(frozen=True)
class Gram:
    """Products [N, N] of the ``points`` [N, d] less their ``centre`` [d]; ``weights`` float64 [N] have mean 1."""

    points: Tensor
    centre: Tensor
    matrix: np.ndarray
    diagonal: np.ndarray
    weights: np.ndarray
    slack: float
    norms: np.ndarray | None = None  # squared norms of the points as they are, where ``matrix`` is of rounded ones

    @property
    def finer(self) -> str:
        """The next more precise kind of product."""
        return "double" if self.norms is None else "single"

    def distortion(self, centroids: Tensor, means: Tensor, masses: Tensor) -> float:
        """Mean squared distance of the points, not rounded, to ``centroids`` [K, d] that stand for parts of them.

        The parts have ``masses`` p_k [K] of sum 1 and ``means`` y_k [K, d]. With all vectors taken from the centre it
        is the mean of |x|^2 plus sum_k p_k <z_k, z_k - 2 y_k>.
        """
        from .gram_kernels import inner_offsets

        norms = self.diagonal if self.norms is None else self.norms
        inner = np.empty(len(masses))
        inner_offsets(centroids.numpy(), means.numpy(), self.centre.numpy(), inner)
        return float(self.weights @ norms / self.weights.sum()) + float(masses.numpy() @ inner)

    def resolves(self, distances: np.ndarray) -> bool:
        """Whether squared ``distances`` [N] stand clear of the rounding errors of the products."""
        if self.centre.dtype == torch.float64:
            return True
        return float(self.weights @ distances) > RESOLVED * self.slack * len(distances)

    def means(self, samples: Tensor | slice, cells: Tensor, parts: Tensor | None, clusters: int) -> Tensor:
        """Return the means [K, d] of ``samples`` by cell, each sample taken with its part (None: all equal)."""
        if parts is None:
            masses = torch.bincount(cells, minlength=clusters).to(torch.float64)
        else:
            masses = torch.bincount(cells, weights=parts, minlength=clusters)
        masses = masses.to(self.centre.dtype)[:, None]

        def block_means(block: Tensor) -> Tensor:
            rows = block[samples] if parts is None else block[samples] * parts.to(block.dtype)[:, None]
            return torch.zeros(clusters, block.shape[1], dtype=block.dtype).index_add_(0, cells, rows).div_(masses)

        # sums about the origin are as good as sums about the centre unless that is further than a spread away
        if self.points.dtype == self.centre.dtype and float(self.centre @ self.centre) <= self.diagonal.mean():
            return block_means(self.points)
        means = torch.empty(clusters, self.points.shape[1], dtype=self.centre.dtype)
        for columns, block in centred_blocks(self.points, self.centre):
            means[:, columns] = block_means(block)
        return means + self.centre


def centred_blocks(points: Tensor, centre: Tensor, width: int | None = None) -> Iterator[tuple[slice, Tensor]]:
    """Yield ``points - centre`` by blocks of columns in the precision of ``centre``, each in the same small buffer."""
    count, dimensions = points.shape
    width = min(dimensions, width or max(_BLOCK_WIDTH, _BLOCK_ELEMENTS // count))
    buffer = torch.empty(count * width, dtype=centre.dtype)
    for start in range(0, dimensions, width):
        columns = slice(start, min(start + width, dimensions))
        block = buffer[: count * (columns.stop - start)].view(count, -1)
        yield columns, torch.sub(points[:, columns].to(centre.dtype), centre[columns], out=block)


def gram_matrix(points: Tensor, weights: Tensor | None, name: str | None, precision: str = "rounded") -> Gram:
    """Centre ``points`` [N, d] (CPU) and multiply them, at least as precisely as ``precision`` says.

    Raises:
        QuantizationError: a sample holds NaN or infinity (named), or the squares exceed float64.
    """
    from .int8_gram import rounded_gram, rounding_pays

    precise = precision == "double" or points.shape[1] <= DOUBLE_DIMENSIONS
    centre = points.mean(dim=0, dtype=torch.float64 if precise else torch.float32)
    rounded = None
    if precision == "rounded" and not precise and rounding_pays(*points.shape):
        rounded = rounded_gram(points, centre)
    matrix, norms, moved = rounded or (_float_products(points, centre), None, 0.0)
    diagonal = matrix.diagonal().copy()
    largest = float(diagonal.max())
    if not math.isfinite(largest):
        check_finite(points, name)
        if precise:
            raise too_large(name)
    # float32 squares of very large or very small latents overflow or vanish
    if not precise and not 1e-30 < largest < math.inf:
        return gram_matrix(points, weights, name, "double")
    return Gram(
        points=points,
        centre=centre,
        matrix=matrix,
        diagonal=diagonal,
        weights=np.ones(len(points)) if weights is None else weights.numpy(),
        slack=4 * float(torch.finfo(centre.dtype).eps) * largest + moved,
        norms=norms,
    )


def _float_products(points: Tensor, centre: Tensor) -> np.ndarray:
    """Inner products float64 [N, N] of ``points - centre``, multiplied in the precision of ``centre`` by BLAS' syrk."""
    from scipy.linalg.blas import dsyrk, ssyrk

    from .gram_kernels import mirror

    count = len(points)
    single = centre.dtype == torch.float32
    syrk = ssyrk if single else dsyrk
    # A triangle, added up over blocks of columns that are centred in the cache: no centred copy of the class is made
    triangle = np.zeros((count, count), dtype=np.float32 if single else np.float64, order="F")
    for _, block in centred_blocks(points, centre):
        triangle = syrk(1.0, block.numpy().T, beta=1.0, c=triangle, trans=1, overwrite_c=1)
    matrix = np.empty((count, count))
    mirror(triangle, matrix)
    return matrix


def gram_codebooks(
    points: Tensor,
    weights: Tensor | None,
    name: str | None,
    keys: Iterable[tuple[int, int]],
    settings: Settings | None = None,
) -> dict[tuple[int, int], Codebook]:
    """Return the codebook of each (K, seed) of ``keys`` from one Gram matrix of ``points`` [N, d] (CPU).

    ``weights`` float64 [N] have mean 1, or are None where all are equal.

    Raises:
        QuantizationError: a sample holds NaN or infinity (named), or the squares exceed float64.
    """
    settings = settings or Settings()
    grams = [gram_matrix(points, weights, name)]  # from coarse to fine, as far as needed
    found = {}
    for clusters, seed in keys:
        for level in itertools.count():
            if level == len(grams):
                grams.append(gram_matrix(points, weights, name, grams[-1].finer))
            labels = voronoi(grams[level], clusters, seed, settings)
            distances = squared_distances(grams[level], labels, clusters)
            if grams[level].resolves(distances):
                break
        if settings.balanced:
            from .balanced import balanced_codebook

            found[clusters, seed] = balanced_codebook(grams[level], labels, clusters, settings.limit)
        else:
            found[clusters, seed] = voronoi_codebook(grams[level], labels, distances, clusters)
    return found


def default_restarts(clusters: int) -> int:
    """Restarts where none are given.

    Measured on latents of real images: after the exchange step a second restart lowers the distortion by 0.1-0.2 % at
    K up to 50 and by less than 0.1 % beyond; more than two gain less than 0.1 % at any K.
    """
    return 2 if 1 < clusters <= 50 else 1


def voronoi(gram: Gram, clusters: int, seed: int, settings: Settings) -> np.ndarray:
    """Return the labels int64 [N] of the best restart of greedy k-means++, Lloyd and exchange."""
    from . import gram_kernels as kernels

    count = len(gram.diagonal)
    sums = np.empty((clusters, count))
    squares, masses, members = np.empty(clusters), np.empty(clusters), np.empty(clusters, dtype=np.int64)
    lowest, best = math.inf, np.empty(0, dtype=np.int64)
    for uniforms in uniform_draws(clusters, seed, settings.restarts or default_restarts(clusters)):
        labels = np.zeros(count, dtype=np.int64)
        kernels.seed_greedy(gram.matrix, gram.diagonal, gram.weights, uniforms, labels)
        state = (gram.matrix, gram.diagonal, gram.weights, labels, sums, squares, masses, members)
        kernels.lloyd(*state, gram.slack, settings.limit)
        if settings.exchange and clusters > 1:
            kernels.exchange(*state, gram.slack, settings.limit)
        cost = kernels.cost(gram.diagonal, gram.weights, squares, masses)
        if cost < lowest - count * gram.slack:  # restarts that meet in one optimum: the first, whatever the rounding
            lowest, best = cost, labels
    return best


def seeded_labels(gram: Gram, clusters: int, seed: int) -> np.ndarray:
    """Return the labels int64 [N] of the nearest centre after greedy k-means++ alone."""
    from .gram_kernels import seed_greedy

    labels = np.zeros(len(gram.diagonal), dtype=np.int64)
    seed_greedy(gram.matrix, gram.diagonal, gram.weights, uniform_draws(clusters, seed, 1)[0], labels)
    return labels


def uniform_draws(clusters: int, seed: int, restarts: int) -> np.ndarray:
    """The draws of greedy k-means++, float64 [R, K, L] in [0, 1); those of fewer restarts are the first of more."""
    candidates = 2 + int(math.log(clusters))  # per centre, as scikit-learn's greedy k-means++
    return numpy_rng("quantize", seed, clusters).random((restarts, clusters, candidates))


def squared_distances(gram: Gram, labels: np.ndarray, clusters: int) -> np.ndarray:
    """Squared distance float64 [N] of each point to its centroid; points of weight zero join the nearest."""
    from .gram_kernels import settle

    return settle(gram.matrix, gram.diagonal, gram.weights, labels, clusters)


def voronoi_codebook(gram: Gram, labels: np.ndarray, distances: np.ndarray, clusters: int) -> Codebook:
    """Make the codebook of a partition: means of the cells, their masses and mean squared distance."""
    cells = torch.from_numpy(labels)
    weights = torch.from_numpy(gram.weights)
    even = bool((weights == weights[0]).all())
    centroids = gram.means(slice(None), cells, None if even else weights, clusters)
    book = codebook_of(centroids, cells, torch.from_numpy(distances), weights)
    if gram.norms is None:
        return book
    return replace(book, distortion=gram.distortion(centroids, centroids, book.masses))
