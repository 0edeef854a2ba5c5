"""The doors of networks: fresh students, features and scores of training images, real batches."""

from __future__ import annotations

from .latents import LatentDoors


class NetworkDoors(LatentDoors):
    """Networks for methods that learn from them, beside the doors of the diffusion pipeline."""
