"""Decoded centroids: the codebook's points straight through the decoder, without any denoising (strength 0)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ddoq_plugin.ddoq import DDOQ, DDOQConfig


class CentroidConfig(DDOQConfig):
    """Settings of the decoded centroids; see :class:`ddoq_plugin.ddoq.DDOQConfig`."""

    space: Literal["latent", "pixel"] = "latent"  # inverted centroids would have to be denoised
    weighting: Literal["uniform", "counts", "sqrt", "power"] = "uniform"
    strength: float = Field(0.0, ge=0, le=0)


class DecodedCentroid(DDOQ):
    """Centroids of the latents, decoded without denoising; equal weights unless asked otherwise."""

    name = "centroid"
    Config = CentroidConfig

    def label(self) -> str:
        return self.name if self.config.weighting == "uniform" else super().label()
