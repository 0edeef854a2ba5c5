"""The steps of trajectory matching; :mod:`.trajectories` has the settings and the method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ddoq_plugin.errors import DistillError
from ddoq_plugin.evaluation.dsa import augment, draw
from ddoq_plugin.seeding import generator

from .learning import Learning
from .losses import soft_cross_entropy
from .networks import FlatNetwork
from .pixels import begin_pixels

if TYPE_CHECKING:
    from ddoq_plugin.distiller import DistillContext

    from .trajectories import TrajectoryConfig, TrajectoryMatcher

FAR = 1000.0  # times its start: a learnt rate that has left all bounds
LABEL_MOMENTUM = 0.9  # DATM's code


class Trajectory(Learning):
    """A set in the making by trajectory matching."""

    def __init__(self, method: TrajectoryMatcher, context: DistillContext, ipc: int, seed: int) -> None:
        self.config, self.context, self.ipc, self.seed = method.config.at(ipc), context, ipc, seed
        self.method, self.total = method, self.config.iterations
        config, device = self.config, context.device
        self.network = FlatNetwork(context.network(config.network, "check"))
        self.experts = method.experts(context)
        self.experts.check_given(accuracy=True)
        space, draws = self.experts.space().to(device), generator("trajectory init", seed)
        self.labels = torch.arange(context.num_classes, device=device).repeat_interleave(ipc)
        first = None
        if config.label_lr is not None:
            first, self.labels = self._known_images(space, draws)
        self.pixels = begin_pixels(context, ipc, config, draws, space=space, first=first)
        self.rate = torch.tensor(config.rate, device=device)
        self.rate_optimiser = torch.optim.SGD([self.rate], lr=config.rate_lr, momentum=config.momentum)
        self.state = {**self.pixels.state, "rate": self.rate, "rate optimiser": self.rate_optimiser}
        if config.label_lr is not None:
            self.label_optimiser = torch.optim.SGD([self.labels], lr=config.label_lr, momentum=LABEL_MOMENTUM)
            self.state |= {"labels": self.labels, "label optimiser": self.label_optimiser}
        self.decay, self.average = method.decay(ipc), None
        if self.decay:
            self.average = self.pixels.values.detach().clone()
            self.state["average"] = self.average
        self.skipped = torch.zeros((), dtype=torch.int64)
        self.state["skipped"] = self.skipped

    def step(self, number: int) -> float:
        config, draws = self.config, generator("trajectory step", self.seed, number)
        parameters = self._expert(number)
        t = int(torch.randint(config.min_start, max_start(config, number), (1,), generator=draws))
        start, target = (parameters[epoch].to(self.context.device) for epoch in (t, t + config.expert_epochs))
        seen = self.pixels.seen().detach()
        batches = inner_batches(len(seen), config.batch or len(seen), config.steps, draws)
        size = seen.shape[-1]
        drawn = [draw(config.dsa, len(rows), size, draws) if config.dsa else None for rows in batches]

        def loss(theta: Tensor, images: Tensor, labels: Tensor, place: int) -> Tensor:
            one = drawn[place]
            if one is not None:
                images = augment(images, one, align_corners=config.align_corners)
            logits = self.network.logits(theta, images)
            return soft_cross_entropy(logits, labels) if labels.is_floating_point() else F.cross_entropy(logits, labels)

        places = [rows.to(seen.device) for rows in batches]
        found = self.method.gradient(loss, start, target, seen, self.labels, self.rate, places)
        value = float(found.loss)
        if config.skip_above is not None and not value <= config.skip_above:
            self.skipped += 1
            return value if value != value else config.skip_above
        self.pixels.step(found.images)
        if self.average is not None:
            update_average(self.average, self.pixels.values.detach(), self.decay)
        if found.labels is not None:
            self.labels.grad = found.labels
            self.label_optimiser.step()
        before = float(self.rate)
        self.rate.grad = found.rate
        self.rate_optimiser.step()
        if not 0 < float(self.rate) < FAR * config.rate:
            raise DistillError(
                f"{self.method.label()!r} diverged: its learnt rate went from {before:.3g} to {float(self.rate):.3g} "
                f"at step {number}; lower rate_lr ({config.rate_lr:g}) or lr ({config.lr:g})"
            )
        return value

    def images(self) -> Tensor:
        return self.pixels.stored(self.average)

    def fields(self) -> dict[str, Any]:
        learnt = {"targets": self.labels.detach().cpu()} if self.labels.is_floating_point() else {}
        space = self.pixels.space.to("cpu")
        return {"learning_rate": float(self.rate), "preprocessing": space, **learnt}

    def stats(self) -> dict[str, float]:
        return {"learning_rate": float(self.rate), "skipped_steps": float(self.skipped)}

    def _expert(self, number: int) -> Tensor:
        """Return the parameters of an expert: all in a random order, then all in another."""
        count = self.config.experts.count
        turn, place = divmod(number, count)
        order = torch.randperm(count, generator=generator("expert order", self.seed, turn))
        return self.experts.parameters(int(order[place]))

    def _known_images(self, space: Any, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return real images that the first expert classifies right at its end, and the experts' logits for them: the
        mean over the experts that are right (DATM, Guo et al. 2024; get_images_and_labels in its code)."""
        context, count = self.context, self.config.experts.count
        ends = [self.experts.parameters(index)[-1].to(context.device) for index in range(count)]
        normalise = context.normaliser if space.kind == "none" else space.apply
        chosen, answers = [], []
        for class_id in range(context.num_classes):
            images = context.images(class_id)[torch.randperm(context.class_size(class_id), generator=draws)]
            pixels = images.to(context.device).float() / 255
            right = self._logits(ends[0], normalise(pixels)).argmax(1) == class_id
            order = right.int().argsort(descending=True, stable=True)[: self.ipc]
            own = pixels[order]
            logits = torch.stack([self._logits(end, normalise(own)) for end in ends])  # [experts, n, C]
            agree = (logits.argmax(2) == class_id).to(logits.dtype)
            agree[:, agree.sum(0) == 0] = 1  # where none is right all count
            answers.append((logits * agree[:, :, None]).sum(0) / agree.sum(0)[:, None])
            chosen.append(own)
        return torch.cat(chosen), torch.cat(answers)

    @torch.no_grad()
    def _logits(self, vector: Tensor, images: Tensor) -> Tensor:
        return torch.cat([self.network.logits(vector, part) for part in images.split(256)])


def max_start(config: TrajectoryConfig, number: int) -> int:
    """Return the bound of the epochs to start from at an iteration; it grows where ``first_max_start`` is given.

    min(T0 + int((T+ - T0) * iteration / growth), T+), as DATM's code has it."""
    last: int = config.max_start  # of one IPC
    if config.first_max_start is None:
        return last
    first: int = config.first_max_start
    return min(first + int((last - first) * number / config.growth), last)


def inner_batches(count: int, size: int, steps: int, draws: torch.Generator) -> list[Tensor]:
    """Return the places of the images of each step: permutations cut into chunks, the last (short) chunk first."""
    batches: list[Tensor] = []
    left: list[Tensor] = []
    while len(batches) < steps:
        left = left or list(torch.randperm(count, generator=draws).split(size))
        batches.append(left.pop())
    return batches


def update_average(average: Tensor, images: Tensor, decay: float) -> None:
    """Set ``average`` to decay * average + (1 - decay) * images, in place."""
    average.mul_(decay).add_(images, alpha=1 - decay)
