"""IDM: mosaics that match mean features under networks in training (Zhao, Li, Qin & Yu, "Improved Distribution Matching
for Dataset Condensation", CVPR 2023, arXiv 2307.09742; code uitrbn/IDM, IDM_cifar10.py and command.txt)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import Field

from ddoq_plugin.seeding import generator

from .engine.learning import Count, Counts, Learner, Learning, MatchingConfig, Momentum, Rate, check_even_side

if TYPE_CHECKING:
    import torch

    from ddoq_plugin.distiller import DistillContext
    from ddoq_plugin.evaluation.dsa import Draw

    from .engine.networks import FlatNetwork

FIRST = 3  # networks at the start

Share = Annotated[float, Field(ge=0, le=1e6)]
if TYPE_CHECKING:
    Shares: TypeAlias = Any
else:
    Shares = Share | dict[int, Share]


class IDMConfig(MatchingConfig.preset(lr=0.2, init="mosaic")):  # type: ignore[misc]
    """Settings of IDM; the defaults are those of the authors' commands for CIFAR-10 at IPC 10.

    iterations: matching steps of all classes. pool: networks that are kept at most; a fresh one comes every ``fresh``
    iterations, and the oldest goes. trained: networks that train in an iteration, ``network_steps`` SGD steps each on
    ``network_batch`` real images. ce_weight: of the cross-entropy, times the network's accuracy in percent."""

    iterations: Counts = 20_000
    pool: Count = 100
    fresh: Counts = 30
    trained: Count = 2
    network_steps: Counts = 10
    network_batch: Count = 256
    network_lr: Rate = 0.01
    network_momentum: Momentum = 0.9
    weight_decay: Share = 5e-4
    ce_weight: Shares = 0.5


class IDM(Learner):
    """Mosaics of four images each, matched class by class on a network of a pool that trains on real images.

    A class's step uses the momentum that the classes before it left, as in the code. A network's accuracy is that of
    its last training steps; the code's is since its last evaluation. Sets count mosaics: a student sees 4 IPC images.
    """

    name = "idm"
    quick = {
        "iterations": 3, "batch": 8, "network": "convnet3_w32", "pool": 4, "fresh": 2, "network_steps": 1,
        "network_batch": 16,
    }  # fmt: skip
    uses_sampler = True
    conditions = True
    Config = IDMConfig
    config: IDMConfig

    def passes(self, context: DistillContext, ipc: int) -> Mapping[str, float]:
        config = self.config.at(ipc)
        matched = context.num_classes * (config.batch + 3 * 4 * ipc)  # forward; and back for the four parts
        trained = 3 * config.trained * config.network_steps * config.network_batch
        return {config.network: float(config.iterations * (matched + trained))}

    def kept(self, context: DistillContext, ipc: int) -> int:
        return max(4 * ipc, self.config.network_batch)

    def check(self, context: DistillContext, ipc: int, clusters: int | None) -> None:
        from .engine.networks import refuse_batch_norm

        super().check(context, ipc, clusters)
        refuse_batch_norm(context, self.config.network, self.label())
        check_even_side(context, self.label())

    def begin(self, context: DistillContext, ipc: int, seed: int) -> Learning:
        return Matching(self.config.at(ipc), context, ipc, seed)


class Matching(Learning):
    """Matching steps, and the training of the pool between them."""

    def __init__(self, config: IDMConfig, context: DistillContext, ipc: int, seed: int) -> None:
        import torch

        from .engine.networks import FlatNetwork
        from .engine.pixels import TrainingImages, begin_pixels

        self.config, self.context, self.ipc, self.seed, self.total = config, context, ipc, seed, config.iterations
        self.pixels = begin_pixels(context, ipc, config, generator("idm init", seed))
        self.network = FlatNetwork(context.network(config.network, "idm", seed, 0))
        self.real = TrainingImages(context)
        rooms = max(config.pool, FIRST)
        self.vectors = torch.zeros(rooms, self.network.size, device=context.device)
        self.momenta, self.accuracy = torch.zeros_like(self.vectors), torch.zeros(rooms)
        for place in range(FIRST):
            self.vectors[place] = self._fresh(place)
        pool = {"vectors": self.vectors, "momenta": self.momenta, "accuracy": self.accuracy}
        self.state = {**self.pixels.state, **pool}

    def _fresh(self, number: int) -> torch.Tensor:
        from .engine.networks import FlatNetwork

        return FlatNetwork(self.context.network(self.config.network, "idm", self.seed, number)).vector()

    def step(self, number: int) -> float:
        import torch

        config, draws = self.config, generator("idm step", self.seed, number)
        made = FIRST + number // config.fresh  # networks so far; number n lies at place n mod rooms
        rooms = len(self.vectors)
        if number and number % config.fresh == 0:
            place = (made - 1) % rooms
            self.vectors[place] = self._fresh(made - 1)
            self.momenta[place], self.accuracy[place] = 0, 0
        kept = min(made, rooms)
        place = int(torch.randint(kept, (1,), generator=draws))
        loss = self._match(self.vectors[place], float(self.accuracy[place]), draws)
        for place in torch.randperm(kept, generator=draws)[: config.trained].tolist():
            self._train(place, draws)
        return loss

    def _match(self, vector: torch.Tensor, accuracy: float, draws: torch.Generator) -> float:
        """Take a step for each class in turn and return the sum of their losses."""
        import torch

        from .engine.features import draw_for_classes, real_by_class

        config, context = self.config, self.context
        real, weights = real_by_class(context, config.batch, draws)
        drawn = draw_for_classes(config.dsa, len(real), context.data.image_size, draws)
        total = 0.0
        for class_id in range(len(real)):
            seen = self.pixels.seen()
            own = slice(class_id * self.ipc, (class_id + 1) * self.ipc)
            one = None if drawn is None else drawn[class_id : class_id + 1]
            loss = matching_loss(
                self.network,
                vector,
                seen[own],
                real[class_id],
                class_id,
                weights=weights[class_id],
                drawn=one,
                ce_weight=accuracy * config.ce_weight,
                align_corners=config.align_corners,
            )
            (gradient,) = torch.autograd.grad(loss, seen)
            self.pixels.step(gradient)
            total += float(loss.detach())
        return total

    def _train(self, place: int, draws: torch.Generator) -> None:
        """Take SGD steps of one network of the pool on real images of all classes."""
        import torch
        from torch.nn import functional as F

        config, vector, momentum = self.config, self.vectors[place], self.momenta[place]
        right, seen = torch.zeros((), device=vector.device), 0
        for _ in range(config.network_steps):
            rows = torch.randperm(len(self.real), generator=draws)[: config.network_batch]
            images, labels = self.real.batch(rows)
            theta = vector.detach().requires_grad_()
            logits = self.network.logits(theta, images.contiguous(memory_format=torch.channels_last))
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels), theta)
            with torch.no_grad():
                momentum.mul_(config.network_momentum).add_(gradient).add_(theta, alpha=config.weight_decay)
                vector.sub_(momentum, alpha=config.network_lr)
                right, seen = right + (logits.argmax(1) == labels).sum(), seen + len(labels)
        self.accuracy[place] = 100 * float(right) / seen

    def fields(self) -> dict[str, int]:
        return {"mosaic": 2}

    def stats(self) -> dict[str, float]:
        return {"pool_accuracy": float(self.accuracy.max())}


def matching_loss(
    network: FlatNetwork,
    vector: torch.Tensor,
    mosaics: torch.Tensor,
    real: torch.Tensor,
    label: int,
    *,
    weights: torch.Tensor | None = None,
    drawn: Draw | None = None,
    ce_weight: float = 0.0,
    align_corners: bool = True,
) -> torch.Tensor:
    """Return |mean f(real) - mean f(parts)|^2 + ce_weight * cross-entropy(parts, label) of a class, under its draw.

    ``mosaics`` ``[n, 3, S, S]`` and ``real`` ``[b, 3, S, S]`` are normalised; ``weights`` ``[b]`` are of mean 1."""
    import torch
    from torch.nn import functional as F

    from ddoq_plugin.data.transforms import decode_mosaic
    from ddoq_plugin.evaluation.dsa import augment

    from .engine.losses import mean_distance

    parts = decode_mosaic(mosaics)
    if drawn is not None:
        parts, real = (augment(x, drawn, align_corners=align_corners) for x in (parts, real))
    with torch.no_grad():
        target = network.features_and_logits(vector, real)[0]
    features, logits = network.features_and_logits(vector, parts)
    distance = mean_distance(target[None], features[None], None if weights is None else weights[None])
    labels = torch.full((len(parts),), label, device=parts.device)
    return distance + ce_weight * F.cross_entropy(logits, labels)
