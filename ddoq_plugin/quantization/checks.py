"""Checks of what a user gives to the quantiser, each with one sentence that says what to mend."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import QuantizationError


def called(name: str | None) -> str:
    """Return the class's name as it stands in a message, or "the data" where none was given."""
    return "the data" if name is None else f"class {name!r}"


def as_matrix(latents: Tensor, name: str | None) -> Tensor:
    """Return ``latents`` [N, ...] as a detached floating-point matrix [N, d], without a copy where that is possible.

    Raises QuantizationError where there are no samples, no dimensions or no real numbers."""
    points = torch.as_tensor(latents).detach()
    if points.ndim == 0 or points.numel() == 0:
        raise QuantizationError(f"There are no latents of {called(name)} to quantise: give a tensor [N, ...].")
    if points.is_complex():
        raise QuantizationError(f"The latents of {called(name)} are complex: give real numbers.")
    points = points.reshape(len(points), -1)
    return points if points.is_floating_point() else points.to(torch.float32)


def as_masses(weights: Tensor, title: str) -> Tensor:
    """Return ``weights`` as float64 [N].

    Raises QuantizationError, which calls them ``title``, where there are none, one is negative or not finite, or all
    are zero."""
    values = torch.as_tensor(weights).to(torch.float64).reshape(-1)
    usable = len(values) > 0 and bool(torch.isfinite(values).all())
    if not usable or float(values.min()) < 0 or float(values.max()) <= 0:
        raise QuantizationError(f"{title} must be finite, none negative and not all zero.")
    return values


def as_weights(weights: Tensor | None, points: Tensor, name: str | None) -> Tensor | None:
    """Return sample weights as float64 [N] of mean 1 on the device of ``points``; None stays None (all equal).

    Raises QuantizationError where their number is wrong, one is negative or not finite, or all are zero."""
    if weights is None:
        return None
    values = torch.as_tensor(weights).detach().to(points.device).reshape(-1)
    if len(values) != len(points):
        raise QuantizationError(f"{len(values)} weights were given for the {len(points)} samples of {called(name)}.")
    values = as_masses(values, f"The weights of {called(name)}")
    values = values / values.max()  # so that the sum cannot overflow
    return values / values.mean()


def check_clusters(clusters: Sequence[int], points: Tensor, weights: Tensor | None, name: str | None) -> None:
    """Raise a ``QuantizationError`` unless every K is between 1 and the number of samples of positive weight."""
    usable = len(points) if weights is None else int((weights > 0).sum())
    for count in clusters:
        if count < 1:
            raise QuantizationError(f"The number of clusters must be 1 or more, not {count}.")
        if count > usable:
            raise QuantizationError(
                f"{count} clusters were asked for, but {called(name)} has only {usable} samples of positive weight: "
                "lower the number of clusters."
            )


def check_finite(points: Tensor, name: str | None, block: int = 4096) -> None:
    """Raise a ``QuantizationError`` that names the first sample with a NaN or an infinity."""
    for start in range(0, len(points), block):
        rows = points[start : start + block]
        # a sum is finite only if all its terms are, and is taken an order of magnitude faster
        if math.isfinite(float(rows.sum(dtype=torch.float32 if rows.dtype.itemsize < 4 else None))):
            continue
        finite = torch.isfinite(rows).all(dim=1)
        if not bool(finite.all()):
            where = f"Sample {start + int((~finite).nonzero()[0])} of {called(name)}"
            raise QuantizationError(f"{where} holds NaN or infinity: find where its latent was made.")


def too_large(name: str | None) -> QuantizationError:
    """The error for latents whose squares exceed the floating-point range."""
    return QuantizationError(f"The latents of {called(name)} are too large to square: rescale them.")
