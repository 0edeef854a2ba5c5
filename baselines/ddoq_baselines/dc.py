"""DC: images whose loss gradients equal those of their class (Zhao, Mopuri & Bilen, "Dataset Condensation with Gradient
Matching", ICLR 2021, arXiv 2006.05929; code VICO-UoE/DatasetCondensation, main.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ddoq_plugin.seeding import generator

from .engine.learning import Count, Counts, Learner, Learning, MatchingConfig, Rate

if TYPE_CHECKING:
    import torch

    from ddoq_plugin.distiller import DistillContext

OUTER = {1: 1, 10: 10, 20: 20, 30: 30, 40: 40, 50: 50}  # utils.get_loops of the code
INNER = {1: 1, 10: 50, 20: 25, 30: 20, 40: 15, 50: 10}
NORM_IMAGES = 16  # real images of a class that set the statistics of batch norms (BNSizePC in main.py)


class DCConfig(MatchingConfig.preset(lr=0.1, init="noise", dsa="")):  # type: ignore[misc]
    """Settings of DC; the defaults are those of the authors' code, which takes one iteration more.

    iterations: random networks. outer: image steps with each. inner: epochs of the network on the made images between
    two image steps; the code defines outer and inner for IPC 1, 10, 20, 30, 40 and 50. metric: ours (one cosine a row
    of a layer), mse or cos (one cosine of all). network_lr, network_batch: of the network's SGD."""

    iterations: Counts = 1000
    outer: Counts = OUTER
    inner: Counts = INNER
    metric: Literal["ours", "mse", "cos"] = "ours"
    network_lr: Rate = 0.01
    network_batch: Count = 256


class DC(Learner):
    """Images with which a network's loss has the gradient that real images of their class give.

    Pixels stay in [0, 1], where the code lets them leave it."""

    name = "dc"
    quick = {"iterations": 2, "outer": 2, "inner": 1, "batch": 8, "network": "convnet3_w32"}
    uses_sampler = True
    conditions = True
    Config = DCConfig
    config: DCConfig

    def passes(self, context: DistillContext, ipc: int) -> dict[str, float]:
        config = self.config.at(ipc)
        # a real image: forward and back; a made one: that, and back through both; an epoch: forward and back
        a_step = context.num_classes * (3 * config.batch + 9 * ipc)
        between = 3 * context.num_classes * ipc * config.inner
        return {config.network: float(config.iterations * (config.outer * a_step + (config.outer - 1) * between))}

    def kept(self, context: DistillContext, ipc: int) -> int:
        return max(4 * ipc, self.config.at(ipc).batch)

    def begin(self, context: DistillContext, ipc: int, seed: int) -> Learning:
        return Matching(self.config.at(ipc), context, ipc, seed)


class Matching(Learning):
    """Image steps of all classes together, and between them epochs of the network on the made images."""

    def __init__(self, config: DCConfig, context: DistillContext, ipc: int, seed: int) -> None:
        from .engine.pixels import begin_pixels

        self.config, self.context, self.ipc, self.seed = config, context, ipc, seed
        self.total = config.iterations * config.outer
        self.pixels = begin_pixels(context, ipc, config, generator("dc init", seed))
        self.network = context.network(config.network, "dc", seed, 0)
        self.state = {**self.pixels.state, "network": self.network}

    def step(self, number: int) -> float:

        from .engine.networks import has_batch_norm

        config, context = self.config, self.context
        iteration, outer = divmod(number, config.outer)
        draws = generator("dc step", self.seed, number)
        if outer == 0:
            fresh = context.network(config.network, "dc", self.seed, iteration)
            self.network.load_state_dict(fresh.state_dict())
        if has_batch_norm(self.network):
            self._set_statistics(draws)
        seen = self.pixels.seen()
        loss, gradient = self.matched(seen.detach(), draws)
        self.pixels.step(gradient)
        if outer < config.outer - 1:
            self._train(draws)
        return loss

    def matched(self, seen: torch.Tensor, draws: torch.Generator) -> tuple[float, torch.Tensor]:
        """Return the distance of the gradients of all classes, and its gradient with respect to images as networks see
        them; class by class, so that memory does not grow with their number."""
        import torch
        from torch.nn import functional as F

        from ddoq_plugin.evaluation.dsa import augment, draw

        from .engine.losses import gradient_distance

        config, context = self.config, self.context
        parameters = list(self.network.parameters())
        total, gradients = 0.0, []
        for class_id, own in enumerate(seen.split(self.ipc)):
            leaf = own.requires_grad_()
            real = context.real_batch(class_id, config.batch, draws)
            images = context.normaliser(real.images)
            if config.dsa:
                drawn = draw(config.dsa, 1, own.shape[-1], draws)
                images, own = (augment(x, drawn, align_corners=config.align_corners) for x in (images, own))
            labels = torch.full((len(images),), class_id, device=seen.device)
            losses = F.cross_entropy(self.network(images), labels, reduction="none")
            target = torch.autograd.grad((losses * real.weights).mean(), parameters)
            loss = F.cross_entropy(self.network(own), labels[:1].expand(len(own)))
            made = torch.autograd.grad(loss, parameters, create_graph=True)
            distance = gradient_distance(target, made, config.metric)
            gradients.append(torch.autograd.grad(distance, leaf)[0])
            total += float(distance.detach())
        return total, torch.cat(gradients)

    def _train(self, draws: torch.Generator) -> None:
        """Train the network on the made images; augmentations are each image's own."""
        import torch
        from torch.nn import functional as F

        from ddoq_plugin.evaluation.dsa import augment, draw

        config, images = self.config, self.pixels.seen().detach()
        labels = torch.arange(self.context.num_classes, device=images.device).repeat_interleave(self.ipc)
        optimiser = torch.optim.SGD(self.network.parameters(), lr=config.network_lr)
        self.network.train()
        for _ in range(config.inner):
            for rows in torch.randperm(len(images), generator=draws).split(config.network_batch):
                batch, place = images[rows.to(images.device)], rows.to(images.device)
                if config.dsa:
                    drawn = draw(config.dsa, len(batch), batch.shape[-1], draws)
                    batch = augment(batch, drawn, align_corners=config.align_corners)
                loss = F.cross_entropy(self.network(batch.contiguous(memory_format=torch.channels_last)), labels[place])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()

    def _set_statistics(self, draws: torch.Generator) -> None:
        """Let batch norms see some real images of all classes, and hold their statistics for the matching."""
        import torch
        from torch import nn

        context = self.context
        batches = [context.real_batch(c, NORM_IMAGES, draws).images for c in range(context.num_classes)]
        self.network.train()
        with torch.no_grad():
            self.network(context.normaliser(torch.cat(batches)))
        for layer in self.network.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()
