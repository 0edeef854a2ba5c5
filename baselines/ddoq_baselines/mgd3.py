"""MGD3: mode guidance (Chan-Santiago et al., "MGD3: Mode-Guided Dataset Distillation using Diffusion Models", ICML
2025, arXiv 2505.18963): images sampled from pure noise, each pulled to a mode of its class on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field

from ddoq_plugin.ddoq import DDOQ, DDOQConfig
from ddoq_plugin.priors.guide import Guide, GuideStep

if TYPE_CHECKING:
    import torch

    from ddoq_plugin.distiller import DistillContext, Pushforward


_Sampler = DDOQConfig.preset(
    fixed={"space": "latent", "strength": 1.0}, weighting="uniform", guidance_scale=4.0, scheduler="DDPMScheduler"
)


class MGD3Config(_Sampler):  # type: ignore[misc,valid-type]
    """Settings of MGD3, beside those of DDOQ's codebook and sampler; the defaults are the paper's.

    scale: lambda, the pull to the mode in units of a step's noise. stop: the share of the steps, counted from the last,
    that run without the pull. weighting: uniform is the paper's; the others weight an image by its mode's mass."""

    scale: float = Field(0.1, ge=0)
    stop: float = Field(0.5, ge=0, le=1)


class MGD3(DDOQ):
    """Samples of the prior guided to the centroids of each class, one image a centroid."""

    name = "mgd3"
    Config = MGD3Config
    config: MGD3Config

    def pushforward(self, context: DistillContext, ipc: int, clusters: int, seed: int) -> Pushforward:
        import torch

        plain, config = super().pushforward(context, ipc, clusters, seed), self.config

        def guide(classes: tuple[int, ...]) -> Guide:
            return ModeGuidance(torch.cat([plain.starts(class_id) for class_id in classes]), config.scale, config.stop)

        def noise(class_id: int) -> torch.Tensor:  # at strength 1 what is noised does not matter; zeros leave no trace
            return torch.zeros_like(plain.starts(class_id))

        recipe = {**plain.recipe, "mode_guidance": [config.scale, config.stop]}
        return replace(plain, starts=noise, guide=guide, recipe=recipe)

    def label(self) -> str:
        return self.name if self.config.weighting == "uniform" else super().label()


class ModeGuidance(Guide):
    """Adds lambda * sigma_t * (mode - x0) to the next latents while more than ``stop`` of the steps are left."""

    def __init__(self, modes: torch.Tensor, scale: float, stop: float) -> None:
        self.modes, self.scale, self.stop = modes, scale, stop

    @property
    def key(self) -> dict[str, object]:
        return {"name": "mode guidance", "scale": self.scale, "stop": self.stop}

    def __call__(self, step: GuideStep) -> torch.Tensor | None:
        if step.steps - 1 - step.index <= self.stop * step.steps:
            return None
        modes = self.modes[step.rows].to(step.x0)
        return self.scale * step.sigma_t * (modes - step.x0)
