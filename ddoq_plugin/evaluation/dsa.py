"""Differentiable siamese augmentation (Zhao & Bilen, "Dataset Condensation with Differentiable Siamese Augmentation",
ICML 2021, arXiv 2102.08259; utils.py of VICO-UoE/DatasetCondensation and of GeorgeCazenavette/mtt-distillation).

Parameters are drawn first and applied later, from a generator of the caller: a draw can be replayed, or applied to real
and to made images. All operations take normalised images, where 0 is the mean colour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError
from .dsa_strategy import OPERATIONS, strategy_operations

VALUES = 3  # numbers that an operation takes at most
CROP, CUTOUT = 0.125, 0.5  # of the side: the largest shift, the side of the square
SHORT_RUN = 8  # images in a row with one operation, below which they are sorted first
SCALE, ROTATE = 1.2, 15.0  # the largest enlargement, the largest angle in degrees


@dataclass(frozen=True)
class Draw:
    """The parameters of ``n`` images, on the CPU; one draw (``n`` = 1) serves any number of images.

    operation: int64 ``[n]``, places in ``OPERATIONS``. values: float32 ``[n, 3]``.

    Values of color: uniform numbers of brightness, saturation and contrast. Of crop: rows and columns to shift by, in
    pixels. Of cutout: row and column of the square's centre. Of flip: a uniform number; below 0.5 flips. Of scale: the
    diagonal (x, y) of the affine map. Of rotate: the angle in radians."""

    operation: Tensor
    values: Tensor

    def __len__(self) -> int:
        return len(self.operation)

    def __getitem__(self, rows: int | slice | Tensor) -> Draw:
        return Draw(self.operation[rows], self.values[rows])

    def repeated(self, times: int) -> Draw:
        """Return each draw ``times`` times in a row: one draw for each of ``times`` images."""
        return Draw(self.operation.repeat_interleave(times), self.values.repeat_interleave(times, 0))


def draw(strategy: str, n: int, size: int, generator: torch.Generator, *, operations: str = "one") -> Draw:
    """Draw the parameters of ``n`` images of ``size`` pixels a side.

    ``operations``: ``one`` operation for all, as in a call of the official code, or ``each`` its own. For Siamese use
    draw once (``n`` = 1) and apply it to both sides. Raises ConfigError for an unknown or empty strategy."""
    known = torch.tensor(strategy_operations(strategy))
    if not len(known):
        raise ConfigError("DSA needs at least one operation; without augmentation there is nothing to draw")
    chosen = torch.randint(len(known), (n if operations == "each" else 1,), generator=generator).expand(n)
    operation, u = known[chosen], torch.rand(n, VALUES, generator=generator)
    return Draw(operation, _values(operation, u, size))


def _values(operation: Tensor, u: Tensor, size: int) -> Tensor:
    """Return the values of operations from uniform numbers ``u`` [n, 3]."""
    shift, side, angle = int(CROP * size + 0.5), int(CUTOUT * size + 0.5), torch.pi / 180 * ROTATE
    made = {
        "color": u,
        "crop": (u * (2 * shift + 1)).floor() - shift,
        "cutout": (u * (size + 1 - side % 2)).floor(),
        "flip": u,
        "scale": 1 / SCALE + u * (SCALE - 1 / SCALE),
        "rotate": (2 * u - 1) * angle,
    }
    return torch.stack([made[name] for name in OPERATIONS])[operation, torch.arange(len(u))]


def augment(images: Tensor, drawn: Draw, *, align_corners: bool = True) -> Tensor:
    """Return normalised ``images`` float ``[n, 3, S, S]`` under a draw of 1 or n; differentiable.

    Scale and rotate pass ``align_corners`` to PyTorch's ``affine_grid``. It is True in MTT, FTD and DATM, and in the
    torch 1.2 of DSA's paper. DSA's code under a newer torch takes False.

    Raises ValueError where there is neither one draw nor one an image."""
    if len(drawn) not in (1, len(images)):
        raise ValueError(f"{len(drawn)} draws do not fit {len(images)} images")
    if len(drawn) == 1:
        return _apply(int(drawn.operation[0]), images, drawn.values.to(images), align_corners)
    order, operation = None, drawn.operation
    if len(operation.unique_consecutive()) > max(1, len(images) // SHORT_RUN):  # together what is one operation's
        order = operation.argsort(stable=True)
        operation, drawn, images = operation[order], drawn[order], images[order.to(images.device)]
    operations, counts = operation.unique_consecutive(return_counts=True)
    sizes, values = counts.tolist(), drawn.values.to(images)
    parts = zip(operations.tolist(), images.split(sizes), values.split(sizes), strict=True)
    done = [_apply(number, part, own, align_corners) for number, part, own in parts]
    whole = done[0] if len(done) == 1 else torch.cat(done)
    return whole if order is None else whole[order.argsort().to(images.device)]


def _apply(number: int, images: Tensor, values: Tensor, align_corners: bool) -> Tensor:
    name = OPERATIONS[number]
    if name == "scale":
        return _affine(images, torch.diag_embed(values[:, :2]), align_corners)
    if name == "rotate":
        cosine, sine = values[:, 0].cos(), values[:, 0].sin()
        matrix = torch.stack([cosine, -sine, sine, cosine], dim=1).view(-1, 2, 2)
        return _affine(images, matrix, align_corners)
    return _PLAIN[name](images, values)


def _color(images: Tensor, values: Tensor) -> Tensor:
    brightness, saturation, contrast = (one.view(-1, 1, 1, 1) for one in values.unbind(1))
    images = images + (brightness - 0.5)
    mean = images.mean(1, keepdim=True)
    images = (images - mean) * (2 * saturation) + mean
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * (contrast + 0.5) + mean


def _crop(images: Tensor, values: Tensor) -> Tensor:
    """Return images whose pixel (r, c) is that at (r + rows, c + columns), 0 outside."""
    for axis in (2, 3):
        size = images.shape[axis]
        at = values[:, axis - 2].long()[:, None] + torch.arange(size, device=images.device)  # [n or 1, size]
        inside = ((at >= 0) & (at < size)).to(images.dtype)
        shape = (-1, 1, size, 1) if axis == 2 else (-1, 1, 1, size)
        index = at.clamp(0, size - 1).view(shape).expand(images.shape)
        images = images.gather(axis, index) * inside.view(shape)
    return images


def _cutout(images: Tensor, values: Tensor) -> Tensor:
    """Return images with a square of half the side set to 0, cut off at the borders."""
    size = images.shape[-1]
    side = int(CUTOUT * size + 0.5)
    at, first = torch.arange(size, device=images.device), values[:, :2, None] - side // 2  # [n or 1, 2, 1]
    within = (at >= first) & (at < first + side)  # [n or 1, 2, size]
    return images * ~(within[:, 0, :, None] & within[:, 1, None, :])[:, None]


def _flip(images: Tensor, values: Tensor) -> Tensor:
    return torch.where(values[:, 0].view(-1, 1, 1, 1) < 0.5, images.flip(3), images)


_PLAIN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
}


def _affine(images: Tensor, matrix: Tensor, align_corners: bool) -> Tensor:
    """Return images read bilinearly at ``matrix`` [n or 1, 2, 2] times their coordinates, 0 outside."""
    maps = F.pad(matrix, (0, 1)).expand(len(images), 2, 3)
    grid = F.affine_grid(maps, list(images.shape), align_corners=align_corners)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=align_corners)
