"""The pixel prior: images are their own latents."""

import hashlib

import torch
from torch import Tensor

from ..errors import PriorError
from .base import Prior, pick_device


class PixelPrior(Prior):
    """No encoder: latents are pixels in [-1, 1], the range of an auto-encoder's images; ``generate`` only decodes."""

    name = "pixel"
    can_denoise = False

    def __init__(self, image_size: int, device: torch.device, batch_size: int | str) -> None:
        super().__init__(device, batch_size)
        if image_size < 1:
            raise PriorError(f"image_size is {image_size}: give a positive number of pixels")
        self.image_size = image_size
        self.latent_shape = (3, image_size, image_size)
        self.fingerprint = hashlib.sha256(f"pixel {image_size}".encode()).hexdigest()

    def _match(self, class_names: tuple[str, ...], wordnet_ids: tuple[str, ...] | None) -> None:
        pass  # pixels need no condition

    def _encode(self, images: Tensor, generators: list[torch.Generator] | None) -> Tensor:
        return images * 2 - 1

    def _decode(self, latents: Tensor) -> Tensor:
        return (latents + 1) / 2


def load_pixel(
    path: object = None,
    device: str | torch.device = "auto",
    dtype: object = None,
    batch_size: int | str = "auto",
    *,
    image_size: int,
) -> PixelPrior:
    """Return the pixel prior for images of ``image_size`` pixels a side; it reads no files, so a path is an error."""
    if path is not None:
        raise PriorError(f"the pixel prior reads no files: leave out the path {path!r}")
    return PixelPrior(image_size, pick_device(device), batch_size)
