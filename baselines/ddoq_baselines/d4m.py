"""D4M (Su et al., CVPR 2024, arXiv 2407.15138; code suduo94/D4M): DDOQ's pipeline with equal weights.

Published settings are the defaults: one pass of mini-batch k-means, one ``partial_fit`` per ``km_expand * IPC`` latents
(km_expand 1 in its script), latents sampled from the posterior, strength 0.7, guidance scale 8, 50 steps. In its code
what is left over at the end of the pass is fitted for the last class only; here every class's left-over is.
"""

from __future__ import annotations

from typing import Literal

from ddoq_plugin.ddoq import DDOQ, DDOQConfig


class D4MConfig(DDOQConfig):
    """Settings of D4M; see :class:`ddoq_plugin.ddoq.DDOQConfig`. The weights are always equal."""

    weighting: Literal["uniform"] = "uniform"
    clustering: Literal["lloyd", "minibatch", "d4m"] = "d4m"
    encoding: Literal["mode", "sample"] = "sample"


class D4M(DDOQ):
    """Prototypes of one-pass mini-batch k-means through the diffusion prior, all weighted alike."""

    name = "d4m"
    uses_weights = False
    reference = True
    Config = D4MConfig
    requantise_by_mass = False

    def label(self) -> str:
        return self.name
