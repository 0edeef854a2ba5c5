"""The Gram matrix of a class: the one product that all its codebooks are made from.

Precision. Three kinds of product, each centred; everything after the product is float64:

    rounded: exact, of samples rounded to 14 bits (see ``int8_gram``), where the processor has fast byte products;
    single: float32;
    double: float64, always taken where d is at most 64, where that costs nothing.

An entry of a float32 product is wrong by at most about eps |x_i| |x_j| (eps = 2^-23), so a squared distance by
4 eps max |x|^2, the ``slack``, x taken from the class mean; where samples are rounded, the square of the furthest that
one can have moved is added. A codebook whose mean squared distance is below 10^4 slacks is computed again from the next
finer product. So a distortion is right to 1e-4 at the very worst; on latents, where distortion and variance are alike,
to 1e-7. Centroids and distortion come from the samples as they are, also where the partition is that of rounded ones.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .checks import check_finite, too_large
from .int8_gram import rounded_gram, rounding_pays
from .matmul import centred_blocks

DOUBLE_DIMENSIONS = 64
RESOLVED = 1e4  # slacks that a mean squared distance must be worth


@dataclass(frozen=True)
class Gram:
    """Products [N, N] of the ``points`` [N, d] less their ``centre`` [d]; ``weights`` float64 [N] have mean 1."""

    points: Tensor
    centre: Tensor
    matrix: np.ndarray
    diagonal: np.ndarray
    weights: np.ndarray
    slack: float
    norms: np.ndarray | None  # squared norms of the points as they are, where ``matrix`` is of rounded ones

    @property
    def finer(self) -> str:
        """The next more precise kind of product."""
        return "double" if self.norms is None else "single"

    def distortion(self, centroids: Tensor, means: Tensor, masses: Tensor) -> float:
        """Mean squared distance of the points, not rounded, to ``centroids`` [K, d] that stand for parts of them.

        With ``masses`` p_k [K] of sum 1 and ``means`` y_k [K, d] of the parts, and all vectors taken from the centre,
        it is the mean of |x|^2 plus sum_k p_k <z_k, z_k - 2 y_k>."""
        from .gram_kernels import inner_offsets

        norms = self.diagonal if self.norms is None else self.norms
        inner = np.empty(len(masses))
        inner_offsets(centroids.numpy(), means.numpy(), self.centre.numpy(), inner)
        return float(self.weights @ norms / self.weights.sum()) + float(masses.numpy() @ inner)

    def resolves(self, distances: np.ndarray) -> bool:
        """Whether squared ``distances`` [N] stand clear of the rounding errors of the products."""
        clear = float(self.weights @ distances) > RESOLVED * self.slack * len(distances)
        return clear or self.centre.dtype == torch.float64

    def means(self, samples: Tensor | slice, cells: Tensor, parts: Tensor | None, clusters: int) -> Tensor:
        """Return the means [K, d] of ``samples`` by cell, each sample taken with its part (None: all equal)."""
        masses = torch.bincount(cells, parts, clusters).to(torch.float64).to(self.centre.dtype)[:, None]

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


def gram_matrix(points: Tensor, weights: Tensor | None, name: str | None, precision: str = "rounded") -> Gram:
    """Centre ``points`` [N, d] (CPU) and multiply them, at least as precisely as ``precision`` says.

    Raises QuantizationError where a sample holds NaN or infinity (named) or the squares exceed float64."""
    precise = precision == "double" or points.shape[1] <= DOUBLE_DIMENSIONS
    centre = points.mean(dim=0, dtype=torch.float64 if precise else torch.float32)
    by_bytes = precision == "rounded" and not precise and rounding_pays(*points.shape)
    rounded = rounded_gram(points, centre) if by_bytes else None
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
    shares = np.ones(len(points)) if weights is None else weights.numpy()
    slack = 4 * float(torch.finfo(centre.dtype).eps) * largest + moved
    return Gram(points, centre, matrix, diagonal, shares, slack, norms)


def _float_products(points: Tensor, centre: Tensor) -> np.ndarray:
    """Inner products float64 [N, N] of ``points - centre``, multiplied in the precision of ``centre`` by BLAS' syrk."""
    from scipy.linalg.blas import dsyrk, ssyrk

    from .gram_kernels import mirror

    count = len(points)
    syrk, dtype = (ssyrk, np.float32) if centre.dtype == torch.float32 else (dsyrk, np.float64)
    # A triangle, added up over blocks of columns that are centred in the cache: no centred copy of the class is made
    triangle = np.zeros((count, count), dtype=dtype, order="F")
    for _, block in centred_blocks(points, centre):
        triangle = syrk(1.0, block.numpy().T, beta=1.0, c=triangle, trans=1, overwrite_c=1)
    matrix = np.empty((count, count))
    mirror(triangle, matrix)
    return matrix
