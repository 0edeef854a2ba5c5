"""A method that optimises images: real images, changed until a trained network is sure of their class."""

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field

from ddoq_plugin import Distiller, DistillerConfig, register_distiller
from ddoq_plugin.distiller import Effort
from ddoq_plugin.seeding import generator


class SharpenConfig(DistillerConfig):
    steps: int = Field(200, ge=1)
    lr: float = Field(0.01, gt=0)
    network: str = "convnet3_w32"


@register_distiller("sharpen")
class Sharpen(Distiller):
    """Steps on the pixels of random real images against the cross-entropy of a network trained on all of them."""

    Config = SharpenConfig

    def work(self, context, ipc, clusters, seed):
        count = context.num_classes * ipc
        # for the plan: a step is a forward pass and two of the same length backwards
        effort = Effort(count * self.config.steps, {self.config.network: 3.0 * count * self.config.steps})
        needs = [context.network_work(self.config.network)]  # shared by all sets that ask for this network
        yield context.set_work(self, ipc, clusters, seed, needs=needs, effort=effort, stage="train")

    def distill(self, context, ipc, *, clusters=None, seed=0):
        self.check(context, ipc, clusters)
        network, draws = context.trained(self.config.network), generator("sharpen", seed)
        labels = torch.arange(context.num_classes, device=context.device).repeat_interleave(ipc)
        images = torch.cat([context.real_batch(c, ipc, draws).images for c in range(context.num_classes)])
        images.requires_grad_()
        optimiser = torch.optim.Adam([images], lr=self.config.lr)
        state: dict[str, Any] = {"images": images, "optimiser": optimiser}  # what a killed run needs to go on
        for _ in context.steps(self.config.steps, state):
            loss = F.cross_entropy(network(context.normaliser(images)), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                images.clamp_(0, 1)
        made = images.detach().cpu()
        return context.finish(self, made, labels.cpu(), ipc=ipc, clusters=None, seed=seed, stats={"loss": loss.item()})
