"""D4M (Su et al., CVPR 2024, arXiv 2407.15138; code suduo94/D4M): DDOQ's pipeline with equal weights.

Strength 0.7, guidance scale 8 and 50 steps are its published settings, and DDOQ's defaults. In its code what is left
over at the end of the pass over the latents is fitted for the last class only; here every class's left-over is."""

from ddoq_plugin.ddoq import DDOQ, DDOQConfig


class D4M(DDOQ):
    """Prototypes of one-pass mini-batch k-means through the diffusion prior, all weighted alike."""

    name = "d4m"
    uses_weights = False
    reference = True
    Config = DDOQConfig.preset(
        fixed={"weighting": "uniform", "requantise": "equal"},
        clustering="d4m",  # one partial_fit per km_expand * K latents; km_expand is 1 in its script
        encoding="sample",  # a draw from the encoder's posterior
    )

    def label(self) -> str:
        return self.name
