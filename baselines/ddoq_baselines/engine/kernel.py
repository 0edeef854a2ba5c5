"""Kernel ridge regression on the features of networks: pure functions, solved in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def predictions(features: Tensor, prototypes: Tensor, targets: Tensor, lam: Tensor) -> Tensor:
    """Return phi(r) phi(x)^T (phi(x) phi(x)^T + lam I)^-1 Y, float64 ``[b, C]``; differentiable.

    ``features`` ``[b, d]`` are those of real images, ``prototypes`` ``[m, d]`` those of made ones with ``targets``
    ``[m, C]``. Raises torch.linalg.LinAlgError where the kernel is not positive."""
    x = prototypes.double()
    kernel = x @ x.T + lam * torch.eye(len(x), dtype=torch.float64, device=x.device)
    solved = torch.cholesky_solve(targets.double(), torch.linalg.cholesky(kernel))
    return features.double() @ (x.T @ solved)


def share_of_trace(prototypes: Tensor, share: float, *, per_row: bool) -> Tensor:
    """Return ``share`` of the trace of phi(x) phi(x)^T, divided by the number of rows where ``per_row``: the lam of
    FRePo (1e-6, by row, with its gradient); KRR-ST's is not divided and carries none."""
    trace = prototypes.double().square().sum()
    return share * (trace / len(prototypes) if per_row else trace.detach())


def half_squares(made: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean over rows of half the squared distance, summed over classes (FRePo's loss)."""
    return 0.5 * (made - wanted).square().sum(1).mean()


def margins(targets: Tensor) -> Tensor:
    """Return how far the largest target of each row ``[m, C]`` is above the second, at most 1 / C: ``[m]``."""
    first, second = targets.topk(2, dim=1).values.unbind(1)
    return (first - second).clamp_max(1 / targets.shape[1])


def centred(labels: Tensor, classes: int) -> Tensor:
    """Return one-hot targets less their mean, float32 ``[n, C]``."""
    return torch.nn.functional.one_hot(labels, classes).float() - 1 / classes
