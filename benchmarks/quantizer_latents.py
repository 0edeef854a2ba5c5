"""Latents for the quantiser's benchmark: real images through a tiny auto-encoder, or a mixture that decays alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ddoq_plugin.progress import track


def mixture(samples: int, dimensions: int, seed: int = 0, modes: int = 40) -> Tensor:
    """Return float32 [N, d]: a mixture of ``modes`` Gaussians whose spectrum decays as 1 / rank."""
    random = np.random.default_rng(seed)
    scales = np.arange(1, dimensions + 1, dtype=np.float32) ** -0.5
    centres = random.standard_normal((modes, dimensions), dtype=np.float32)
    points = random.standard_normal((samples, dimensions), dtype=np.float32)
    points += 0.7 * centres[random.integers(0, modes, samples)]
    return torch.from_numpy(points * scales)


def class_images(pack: Path, class_index: int) -> Tensor:
    """Return a class's training images of an ``.npz`` pack (``x_train`` uint8 NHWC, ``y_train``), float [N,3,H,W]."""
    with np.load(pack) as arrays:
        images = arrays["x_train"][arrays["y_train"] == class_index]
    if images.ndim == 3:
        images = images[..., None]
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels


def tiny_encoder(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """Encode float images [B,3,H,W] in [0,1] with the tiny auto-encoder (taesd family) whose state dict is ``weights``.

    The structure is read off the names: "i.weight" is a 3x3 convolution (stride 2 where it has no bias), "i.conv.*" a
    residual block of three with ReLU between, "i.pool.*" a GroupNorm branch added to the block's input.
    """
    hidden = images
    for index in range(1 + max(int(name.split(".")[0]) for name in weights)):
        if f"{index}.weight" in weights:
            bias = weights.get(f"{index}.bias")
            hidden = F.conv2d(hidden, weights[f"{index}.weight"], bias, stride=1 if bias is not None else 2, padding=1)
            continue
        if f"{index}.pool.0.weight" in weights:
            wide = F.conv2d(hidden, weights[f"{index}.pool.0.weight"])
            scale, shift = weights[f"{index}.pool.1.weight"], weights[f"{index}.pool.1.bias"]
            hidden = hidden + F.conv2d(F.relu(F.group_norm(wide, 4, scale, shift)), weights[f"{index}.pool.3.weight"])
        branch = hidden
        for layer in (0, 2, 4):
            name = f"{index}.conv.{layer}"
            branch = F.conv2d(branch, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)
            branch = F.relu(branch) if layer < 4 else branch
        hidden = F.relu(branch + hidden)
    return hidden


@torch.inference_mode()
def real_latents(pack: Path, encoder: Path, class_index: int, size: int, cache: Path | None) -> Tensor:
    """Return latents float32 [N, 32 (size / 8)^2] of a class, its images resized to ``size``; kept in ``cache``."""
    file = cache / f"{pack.stem}-{class_index}-{size}.npy" if cache else None
    if file and file.exists():
        return torch.from_numpy(np.load(file))
    stored = torch.load(encoder, map_location="cpu", weights_only=True)
    weights = {name: tensor.float() for name, tensor in stored.items()}
    images = class_images(pack, class_index)
    parts = []
    for batch in track(images.split(16), f"encode {pack.stem}"):
        batch = F.interpolate(batch, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)
        parts.append(tiny_encoder(weights, batch).flatten(1))
    latents = torch.cat(parts)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, latents.numpy())
    return latents
