"""Random crops and mirrors for whole batches. Parameters are drawn apart from being applied, so that they can be
stored and replayed exactly.

A crop and a mirror together are one affine map, applied to a batch by a single ``grid_sample``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .protocol import Augmentation

CROP_ATTEMPTS = 10  # torchvision's RandomResizedCrop tries this often before it takes the whole image


@dataclass(frozen=True)
class CropParams:
    """Boxes float32 [..., 4] as (x, y, width, height) in fractions of the image, and flips bool [...]."""

    boxes: Tensor
    flips: Tensor

    def __getitem__(self, rows: int | slice) -> CropParams:
        return CropParams(self.boxes[rows], self.flips[rows])


def sample_params(augmentation: Augmentation, n: int, image_size: int, rng: np.random.Generator) -> CropParams:
    """Draw the parameters of ``n`` images of side ``image_size`` pixels.

    Boxes of ``resized`` crops follow torchvision's RandomResizedCrop: area uniform in ``scale``, logarithm of the
    aspect uniform in ``ratio``, up to ten attempts to fit, otherwise the whole image; ours are not rounded to pixels.
    A ``shift`` is by whole pixels, uniform in [-padding, padding] on both axes."""
    boxes = np.tile(np.array([0.0, 0.0, 1.0, 1.0]), (n, 1))
    if augmentation.crop == "resized":
        boxes = _resized_boxes(augmentation, n, rng)
    elif augmentation.crop == "shift":
        boxes[:, :2] = rng.integers(-augmentation.padding, augmentation.padding + 1, (n, 2)) / image_size
    flips = rng.random(n) < augmentation.flip
    return CropParams(torch.from_numpy(boxes.astype(np.float32)), torch.from_numpy(flips))


def is_identity(augmentation: Augmentation) -> bool:
    """Return whether the augmentation cuts and mirrors nothing."""
    return augmentation.crop == "none" and augmentation.flip == 0


def affine_maps(params: CropParams) -> Tensor:
    """Return float32 [..., 2, 3]: maps from output to input coordinates (in [-1, 1]) that cut the boxes and mirror."""
    x, y, width, height = params.boxes.unbind(-1)
    sign = torch.where(params.flips, -1.0, 1.0)
    zero = torch.zeros_like(x)
    rows = (width * sign, zero, 2 * x + width - 1, zero, height, 2 * y + height - 1)
    return torch.stack(rows, dim=-1).unflatten(-1, (2, 3))


def cut(images: Tensor, maps: Tensor, size: int, *, black: Tensor | None = None) -> Tensor:
    """Return float [B, 3, size, size]: ``images`` [B, 3, H, W] seen through ``affine_maps`` [B, 2, 3], bilinearly.

    What lies outside an image is ``black`` (float [1, 3, 1, 1], the value of a black pixel in the images' units)
    where it is given, as after zero padding, and otherwise the nearest edge pixel."""
    grid = _grid(maps, size)
    if black is None:
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return F.grid_sample(images - black, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + black


def _grid(maps: Tensor, size: int) -> Tensor:
    """Return the coordinates [B, size, size, 2] at which ``cut`` reads.

    Maps that cut and mirror treat rows and columns apart, which makes this several times faster than ``affine_grid``.
    """
    centres = (torch.arange(size, device=maps.device, dtype=maps.dtype) * 2 + 1) / size - 1
    columns = maps[:, 0, :1] * centres + maps[:, 0, 2:]
    rows = maps[:, 1, 1:2] * centres + maps[:, 1, 2:]
    shape = (len(maps), size, size)
    return torch.stack([columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)], dim=-1)


def apply(images: Tensor, params: CropParams, size: int | None = None, *, black: Tensor | None = None) -> Tensor:
    """Return ``images`` float [B, 3, H, W] cut and mirrored by ``params``, of side ``size`` (default H)."""
    return cut(images, affine_maps(params).to(images.device), size or images.shape[-1], black=black)


def _resized_boxes(augmentation: Augmentation, n: int, rng: np.random.Generator) -> np.ndarray:
    area = rng.uniform(*augmentation.scale, (n, CROP_ATTEMPTS))
    aspect = np.exp(rng.uniform(np.log(augmentation.ratio[0]), np.log(augmentation.ratio[1]), (n, CROP_ATTEMPTS)))
    widths, heights = np.sqrt(area * aspect), np.sqrt(area / aspect)
    fits = (widths <= 1) & (heights <= 1)
    first, rows = fits.argmax(1), np.arange(n)
    any_fits = fits[rows, first]
    size = np.where(any_fits[:, None], np.stack([widths[rows, first], heights[rows, first]], 1), 1.0)
    return np.concatenate([rng.random((n, 2)) * (1 - size), size], axis=1)
