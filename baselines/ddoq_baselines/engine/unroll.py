"""The gradient through a student's training: exact, and with the memory of one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""``loss(parameters [P], images, labels, step)`` of one batch, such as a mean cross-entropy after an augmentation."""


@dataclass(frozen=True)
class Unrolled:
    """loss: |reached - target|^2 / distance. images, labels, rate: its gradients, like what was given. path: the
    parameters before each step and after the last, ``[N + 1, P]``."""

    loss: Tensor
    images: Tensor
    labels: Tensor | None
    rate: Tensor
    path: Tensor


def unroll(
    loss: Loss,
    start: Tensor,
    target: Tensor,
    images: Tensor,
    labels: Tensor,
    rate: Tensor,
    batches: Sequence[Tensor],
    *,
    distance: Tensor | None = None,
    kept: int | None = None,
    constant: bool = False,
) -> Unrolled:
    """Train N steps of plain SGD, theta_{i+1} = theta_i - rate * grad loss(theta_i; batch i), and differentiate
    |theta_N - target|^2 / ``distance`` with respect to images, labels (where they are floats) and rate.

    ``start``, ``target``: float ``[P]``. ``batches``: places in ``images`` ``[n, ...]`` and ``labels`` ``[n, ...]`` for
    each step; an image may come in several. ``rate``: scalar. ``distance``: default |start - target|^2.

    First the steps are taken without a graph. Then one goes back: with l = dL / d theta_{i+1} and g = grad loss,
    dL/d rate -= l . g, dL/d batch -= rate * d(l . g)/d batch, and l -= rate * d(l . g)/d theta_i. That is the exact
    gradient, with the graph of a single step in memory at a time; unrolling all N (MTT, Cazenavette et al. 2022) holds
    N of them.

    ``kept``: differentiate the last steps only. ``constant``: take each theta_i for constant, as TESLA does (Cui et
    al. 2023): another gradient, of about the same cost here."""
    path, step = start.new_empty(len(batches) + 1, len(start)), rate.detach()
    path[0] = start
    for i, rows in enumerate(batches):
        theta, own = path[i].detach().requires_grad_(), images[rows].detach()
        if own.ndim == 4:  # faster where nothing is differentiated twice; the way back needs the other layout
            own = own.contiguous(memory_format=torch.channels_last)
        (gradient,) = torch.autograd.grad(loss(theta, own, labels[rows].detach(), i), theta)
        path[i + 1] = theta.detach() - step * gradient
    distance = (start - target).square().sum() if distance is None else distance
    left, soft = path[-1] - target, labels.is_floating_point()
    back, d_images, d_rate = 2 * left / distance, torch.zeros_like(images), torch.zeros_like(rate)
    d_labels = torch.zeros_like(labels) if soft else None
    first = 0 if kept is None else len(batches) - kept
    for i in reversed(range(first, len(batches))):
        rows = batches[i]
        theta, own = path[i].detach().requires_grad_(), images[rows].detach().requires_grad_()
        targets = labels[rows].detach().requires_grad_(soft)
        (gradient,) = torch.autograd.grad(loss(theta, own, targets, i), theta, create_graph=True)
        d_rate -= (back * gradient.detach()).sum()
        wanted = [own, *([targets] if soft else []), *([] if constant else [theta])]
        found = list(torch.autograd.grad((back * gradient).sum(), wanted))
        d_images.index_add_(0, rows, found[0] * -step)
        if d_labels is not None:
            d_labels.index_add_(0, rows, found[1] * -step)
        if not constant:
            back = back - step * found[-1]
    return Unrolled(left.square().sum() / distance, d_images, d_labels, d_rate, path)
