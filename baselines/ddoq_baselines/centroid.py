"""Decoded centroids: the codebook's points straight through the decoder, without any denoising (strength 0)."""

from ddoq_plugin.ddoq import DDOQ, DDOQConfig


class DecodedCentroid(DDOQ):
    """Centroids of the latents, decoded without denoising; equal weights unless asked otherwise."""

    name = "centroid"
    Config = DDOQConfig.preset(fixed={"strength": 0.0}, weighting="uniform")

    def label(self) -> str:
        return self.name if self.config.weighting == "uniform" else super().label()
