"""What the matching methods make small, as functions of tensors; the tests hold them to values of the official code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Metric = Literal["ours", "mse", "cos"]
Kernel = Literal["gaussian", "linear", "polynomial", "laplace"]

SMALLEST = 1e-6  # of DC's code (utils.py, distance_wb), added to the product of the norms
WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the Gaussians, times the mean squared distance: kernel_mul 2, kernel_num 5
GAMMAS = (0.10000000149011612, 1.0, 5.0)  # of what copies of M3D's code call "laplace"; 0.1 in float32


def gradient_distance(real: Sequence[Tensor], made: Sequence[Tensor], metric: Metric = "ours") -> Tensor:
    """Return the distance of two gradients, given parameter by parameter; the real one carries no gradient.

    ``ours``: the sum over layers and output rows of 1 - cosine; a weight is taken as ``[out, rest]``, and tensors of
    one dimension (biases, norms) are left out. ``mse``: the sum of squares over all parameters. ``cos``: 1 - one cosine
    over all. DC (Zhao et al. 2021; match_loss in utils.py of DatasetCondensation)."""
    pairs = [(r.detach(), m) for r, m in zip(real, made, strict=True)]
    if metric == "ours":
        kept = [(r, m) for r, m in pairs if r.ndim > 1]
        return torch.stack([_row_distance(r.flatten(1), m.flatten(1)) for r, m in kept]).sum()
    ours, theirs = (torch.cat([pair[side].reshape(-1) for pair in pairs]) for side in (0, 1))
    if metric == "mse":
        return (ours - theirs).square().sum()
    return 1 - (ours * theirs).sum() / (ours.norm() * theirs.norm() + SMALLEST)


def _row_distance(real: Tensor, made: Tensor) -> Tensor:
    cosine = (real * made).sum(1) / (real.norm(dim=1) * made.norm(dim=1) + SMALLEST)
    return (1 - cosine).sum()


def mean_distance(real: Tensor, made: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the sum over classes of the squared distance of mean features: ``[C, b, d]`` and ``[C, n, d]``.

    ``weights`` ``[C, b]`` of mean 1 are those of real images. DM (Zhao & Bilen 2023; main_DM.py)."""
    if weights is not None:
        real = real * weights[:, :, None]
    return (real.detach().mean(1) - made.mean(1)).square().sum()


def discrepancy(made: Tensor, real: Tensor, kernel: Kernel = "gaussian", weights: Tensor | None = None) -> Tensor:
    """Return the squared maximum mean discrepancy of each class, ``[C]``, of features ``[C, n, d]`` and ``[C, m, d]``:
    mean K(X, X) - 2 mean K(X, Y) + mean K(Y, Y), diagonals included. M3D (Zhang et al., AAAI 2024, arXiv 2312.15927).

    ``gaussian``: the sum of exp(-|a - b|^2 / (f s)) over f = 1/4 ... 4, with s the mean squared distance of two
    different points of both sets, which carries no gradient. ``polynomial``: (<a, b> + 1)^2. ``laplace``: Gaussians
    exp(-g |a - b|^2) with g = 0.1, 1, 5, as copies of M3D's code have them. ``weights`` ``[C, m]`` of mean 1 are those
    of the real points."""
    both = torch.cat([made, real.detach()], dim=1)
    products, n = both @ both.mT, made.shape[1]
    if kernel in ("linear", "polynomial"):
        values = products if kernel == "linear" else (products + 1) ** 2
    else:
        norms = products.diagonal(dim1=1, dim2=2)
        squares = (norms[:, :, None] + norms[:, None, :] - 2 * products).clamp_min(0)
        if kernel == "gaussian":
            count = both.shape[1]
            scale = squares.detach().sum((1, 2), keepdim=True) / (count**2 - count)
            values = torch.stack([torch.exp(-squares / (width * scale)) for width in WIDTHS]).sum(0)
        else:
            values = torch.stack([torch.exp(-gamma * squares) for gamma in GAMMAS]).sum(0)
    shares = torch.ones(both.shape[:2], dtype=values.dtype, device=values.device)
    shares[:, :n] /= n
    shares[:, n:] = -(shares[:, n:] if weights is None else weights) / real.shape[1]
    return (shares[:, None] @ values @ shares[:, :, None])[:, 0, 0]


def trajectory_distance(reached: Tensor, start: Tensor, target: Tensor) -> Tensor:
    """Return |reached - target|^2 / |start - target|^2 of flat parameters. MTT (Cazenavette et al. 2022)."""
    return (reached - target).square().sum() / (start - target).square().sum()


def soft_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the batch mean of the cross-entropy to the softmax of label logits ``[b, C]``. DATM (Guo et al. 2024)."""
    return -(labels.softmax(1) * F.log_softmax(logits, dim=1)).sum(1).mean()
