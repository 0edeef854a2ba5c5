"""CutMix and MixUp: drawn once a batch, stored, and applied to whole batches."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .protocol import Mixing


@dataclass(frozen=True)
class MixParams:
    """The mixes of T steps with batches of B images.

    partners: int64 [T, B], the row of each image's partner. lam: float32 [T], the share of the image itself (1: no
    mix).
    boxes: int64 [T, 4], the box (x0, y0, x1, y1) in pixels that CutMix takes from the partner (empty: none)."""

    partners: Tensor
    lam: Tensor
    boxes: Tensor


def sample_mixes(mixing: Mixing, steps: int, batch_size: int, image_size: int, rng: np.random.Generator) -> MixParams:
    """Draw one mix a step: lam ~ Beta(alpha, alpha), a random pairing, and for CutMix a box of area 1 - lam around a
    uniform centre, clipped to the image; lam is then 1 - the box's share of the pixels, as in the authors' code."""
    partners = rng.permuted(np.tile(np.arange(batch_size), (steps, 1)), axis=1)
    lam = rng.beta(mixing.alpha, mixing.alpha, steps)
    centres = rng.integers(0, image_size, (steps, 2))
    mixed = rng.random(steps) < mixing.probability
    boxes = np.zeros((steps, 4), dtype=np.int64)
    if mixing.name == "cutmix":
        half = (image_size * np.sqrt(1 - lam)).astype(np.int64)[:, None] // 2
        boxes = np.concatenate([centres - half, centres + half], axis=1).clip(0, image_size) * mixed[:, None]
        lam = 1 - (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / image_size**2
    lam = np.where(mixed, lam, 1.0)
    return MixParams(torch.from_numpy(partners), torch.from_numpy(lam.astype(np.float32)), torch.from_numpy(boxes))


def apply_mix(images: Tensor, partners: Tensor, lam: float, box: tuple[int, int, int, int], name: str) -> Tensor:
    """Return ``images`` [B, 3, H, W] mixed with their ``partners`` (int64 [B]); CutMix changes ``images`` in place."""
    if name == "mixup":
        return torch.lerp(images.index_select(0, partners), images, lam)
    x0, y0, x1, y1 = box
    window = images[:, :, y0:y1, x0:x1]
    window.copy_(window.index_select(0, partners))
    return images
