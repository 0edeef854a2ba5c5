"""A method that guides the sampler: samples of the prior, pushed away from the mean of their class on the way."""

import torch
from pydantic import Field

from ddoq_plugin import Distiller, DistillerConfig, register_distiller
from ddoq_plugin.priors.guide import Guide


class ApartConfig(DistillerConfig):
    push: float = Field(0.1, ge=0)
    steps: int = Field(50, ge=1)
    guidance_scale: float = Field(4.0, ge=1)


class AwayFromTheMean(Guide):
    """Adds push * sigma_t * (x0 - mean x0 of the class) to the next latents."""

    set_wide = True  # it looks at all images of a class at once

    def __init__(self, push):
        self.push = push

    @property
    def key(self):
        return {"name": "away from the mean", "push": self.push}

    def __call__(self, step):
        shift = torch.zeros_like(step.x0)
        for class_id in step.class_ids.unique():
            own = step.class_ids == class_id
            shift[own] = step.x0[own] - step.x0[own].mean(0)
        return self.push * step.sigma_t * shift


@register_distiller("apart")
class Apart(Distiller):
    """Samples of the prior from pure noise, kept apart within their class."""

    needs_prior = True
    Config = ApartConfig

    def images_of(self, context, ipc, seed):
        """Declare the images of all classes; a sweep spreads them over workers, a plan prices them."""
        return context.pushforward(
            lambda class_id: torch.zeros(ipc, *context.prior.latent_shape),  # strength 1 is noise alone
            ipc,
            seed=seed,
            recipe={"method": "apart", "push": self.config.push},
            needs=lambda class_id: (),
            guide=lambda classes: AwayFromTheMean(self.config.push),
            strength=1.0,
            steps=self.config.steps,
            guidance_scale=self.config.guidance_scale,
        )

    def work(self, context, ipc, clusters, seed):
        yield context.set_work(self, ipc, clusters, seed, needs=self.images_of(context, ipc, seed).works())

    def distill(self, context, ipc, *, clusters=None, seed=0):
        self.check(context, ipc, clusters)
        made = self.images_of(context, ipc, seed)
        images = torch.cat([made.images(class_id) for class_id in range(context.num_classes)])
        labels = torch.arange(context.num_classes).repeat_interleave(ipc)
        return context.finish(self, images, labels, ipc=ipc, clusters=None, seed=seed)
