"""FRePo: images and targets whose kernel ridge regression classifies real images (Zhou, Nezhadarya & Ba, "Dataset
Distillation using Neural Feature Regression", NeurIPS 2022, arXiv 2206.00719; code yongchaoz/FRePo)."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddoq_plugin.distiller import Effort, Work
from ddoq_plugin.errors import DistillError
from ddoq_plugin.preprocessing import PIXELS, Preprocessing
from ddoq_plugin.seeding import generator
from ddoq_plugin.store.tensor_files import read_tensors, write_tensors

from .engine.learning import Count, Counts, Learner, LearnerConfig, Learning, Rate, Rates

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddoq_plugin.distiller import DistillContext

SPACE = "space.safetensors"
ZCA_SHARE = 0.1  # of the mean eigenvalue, added to the covariance (the code's zca_reg)
RIDGE = 1e-6  # of the kernel's mean diagonal


_NONE = {"momentum": 0.0, "dsa": ""}  # LAMB has its own moments, and nothing is augmented


class FRePoConfig(LearnerConfig.preset(network="frepo3_bn", lr=3e-4, fixed=_NONE)):  # type: ignore[misc]
    """Settings of FRePo; the defaults are those of the authors' code for CIFAR-10, but for zca.

    iterations: steps of images and targets. batch: real images of all classes in a step. lr: of LAMB, whose step is lr
    times the length of all images together, whatever their gradient; it falls as a cosine to a tenth. pool, limit,
    network_lr, network_batch: networks in training, the steps after which one begins anew, and their Adam. flip:
    mirrored images stand beside the images in the kernel; leave it out for digits. learn_targets: targets are learnt
    too. zca: networks see whitened images, and the set is stored so; without it pixels stay in [0, 1]."""

    iterations: Counts = 500_000
    batch: Counts = 1024
    lr: Rates = 3e-4
    pool: Count = 10
    limit: Count = 100
    network_lr: Rate = 3e-4
    network_batch: Count = 1000
    flip: bool = True
    learn_targets: bool = True
    zca: bool = False


class FRePo(Learner):
    """Images and targets from which networks of a pool regress the labels of real images.

    The set carries its targets; without them, or with cross-entropy, it is worth much less: score it by ``soft_frepo``
    on a network without norm, such as ``frepo3``."""

    name = "frepo"
    conditions = True
    quick = {"iterations": 3, "batch": 32, "network": "frepo3_bn_w32", "pool": 2, "limit": 1}
    Config = FRePoConfig
    config: FRePoConfig

    def passes(self, context: DistillContext, ipc: int) -> Mapping[str, float]:
        config, images = self.config.at(ipc), context.num_classes * ipc
        seen = config.batch + 3 * images * (2 if config.flip else 1) + 3 * min(images, config.network_batch)
        return {config.network: float(config.iterations * seen)}

    def kept(self, context: DistillContext, ipc: int) -> int:
        return context.num_classes * ipc * (2 if self.config.flip else 1)

    def needs(self, context: DistillContext, ipc: int, seed: int) -> tuple[Work, ...]:
        return (space_work(context),) if self.config.zca else ()

    def begin(self, context: DistillContext, ipc: int, seed: int) -> Learning:
        return Regression(self.config.at(ipc), context, ipc, seed)


class Prototypes:
    """Learnt images ``values``, as networks see them, float32 ``[n, 3, S, S]``, and their targets ``[n, C]``.

    Without a whitening, images stay within what pixels of [0, 1] become. What the context's set gives stays as it is.
    """

    def __init__(self, first: Tensor, context: DistillContext, space: Preprocessing) -> None:
        import torch

        from .engine.kernel import centred

        classes, given, self.space = context.num_classes, context.given, space
        self.bounded, self.normalise = space.kind == "none", context.normaliser
        labels = torch.arange(classes, device=first.device).repeat_interleave(len(first) // classes)
        values = self.normalise(first) if self.bounded else space.apply(first)
        targets = centred(labels, classes) / math.sqrt(classes / 10)
        self.free = torch.ones(len(first), device=first.device)
        if given is not None:
            held = given.images.to(first.device) if given.floats is None else given.floats.to(first.device)
            if given.floats is None or self.bounded:
                held = self.normalise(held)
            fixed = held.new_zeros(len(held)) if given.targets is None else given.targets.to(first.device)
            pairs = [(values, held), (self.free, held.new_zeros(len(held)))]
            pairs += [] if given.targets is None else [(targets, fixed)]
            for own, value in pairs:
                own.unflatten(0, (classes, -1))[:, : len(held) // classes] = value.unflatten(0, (classes, -1))
        self.values, self.targets = values.clone().requires_grad_(), targets.requires_grad_()
        if self.bounded:
            self.low, self.high = (self.normalise(torch.full_like(first[:1], end)) for end in (0.0, 1.0))

    def clamp(self) -> None:
        """Bring images back to what pixels can be."""
        if self.bounded:
            self.values.data.clamp_(self.low, self.high)

    def stored(self) -> Tensor:
        """Return the images of a set: uint8, or float32 of a whitened space."""
        from ddoq_plugin.distilled_set import to_uint8

        kept = self.values.detach()
        return to_uint8(self.normalise.undo(kept).cpu()) if self.bounded else kept.cpu()


class Regression(Learning):
    """Steps of images and targets on one network of the pool, which then takes a step on them, or begins anew."""

    def __init__(self, config: FRePoConfig, context: DistillContext, ipc: int, seed: int) -> None:
        import torch

        from .engine.kernel import centred
        from .engine.pixels import TrainingImages, first_images

        self.config, self.context, self.seed, self.total = config, context, seed, config.iterations
        space = read_space(context) if config.zca else PIXELS
        first = first_images(context, ipc, config.init, generator("frepo init", seed))
        self.prototypes = Prototypes(first, context, space.to(context.device))
        self.pixels: Any = self.prototypes  # of which the loop asks for values alone
        self.real = TrainingImages(context, space)
        self.wanted = centred(self.real.labels, context.num_classes)
        self.optimiser = lamb([self.prototypes.values, self.prototypes.targets], config.lr)
        self.networks = torch.nn.ModuleList(self._fresh(place, 0) for place in range(config.pool))
        self.adams = [self._adam(network) for network in self.networks]
        share = config.limit / config.pool
        self.counters = torch.tensor([int(place * share) for place in range(config.pool)])  # staggered, as in the code
        self.made = torch.ones(config.pool, dtype=torch.int64)
        held = {"networks": self.networks, **{f"adam {place}": adam for place, adam in enumerate(self.adams)}}
        held |= {"counters": self.counters, "made": self.made, "optimiser": self.optimiser}
        self.state = {"images": self.prototypes.values, "targets": self.prototypes.targets, **held}

    def _fresh(self, place: int, number: int) -> torch.nn.Module:
        return self.context.network(self.config.network, "frepo", self.seed, place, number)

    def _adam(self, network: torch.nn.Module) -> torch.optim.Optimizer:
        import torch

        return torch.optim.Adam(network.parameters(), lr=self.config.network_lr)

    def step(self, number: int) -> float:
        import torch

        config, draws, prototypes = self.config, generator("frepo step", self.seed, number), self.prototypes
        place = int(torch.randint(config.pool, (1,), generator=draws))
        network = self.networks[place]
        rows = torch.randperm(len(self.real), generator=draws)[: config.batch]
        images, _ = self.real.batch(rows)
        wanted = self.wanted[rows.to(self.wanted.device)]
        loss = regression_loss(network, images, wanted, prototypes.values, prototypes.targets, flip=config.flip)
        for group in self.optimiser.param_groups:
            group["lr"] = config.lr * cosine(number, config.iterations)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward(inputs=[prototypes.values, prototypes.targets])
        if not config.learn_targets:
            prototypes.targets.grad = torch.zeros_like(prototypes.targets)
        for one in (prototypes.values, prototypes.targets):
            if one.grad is not None:
                one.grad *= prototypes.free.view(-1, *[1] * (one.ndim - 1))
        self.optimiser.step()
        prototypes.clamp()
        if self.counters[place] > config.limit:
            network.load_state_dict(self._fresh(place, int(self.made[place])).state_dict())
            self.adams[place].state.clear()
            self.counters[place], self.made[place] = 0, self.made[place] + 1
        else:
            train_on_prototypes(network, self.adams[place], prototypes, config.network_batch, draws)
            self.counters[place] += 1
        return float(loss.detach())

    def images(self) -> Tensor:
        return self.prototypes.stored()

    def fields(self) -> dict[str, Any]:
        targets = self.prototypes.targets.detach().cpu()
        space = self.prototypes.space
        return {"targets": targets, "target_kind": "regression", "preprocessing": space.to("cpu")}

    def stats(self) -> dict[str, float]:
        return {"networks_made": float(self.made.sum())}


def regression_loss(
    network: torch.nn.Module, images: Tensor, wanted: Tensor, prototypes: Tensor, targets: Tensor, *, flip: bool
) -> Tensor:
    """Return FRePo's loss of prototypes ``[m, 3, S, S]`` and targets ``[m, C]``, float64.

    Half the squared error of kernel ridge regression on real ``images``, less the margins of the targets. The network
    is in eval mode for it; real images carry no gradient."""
    import torch

    from ddoq_plugin.evaluation.features import features_of

    from .engine.features import features_by_class
    from .engine.kernel import half_squares, margins, predictions, share_of_trace

    mode = network.training
    network.eval()
    seen, labels = prototypes, targets
    if flip:
        seen, labels = torch.cat([prototypes, prototypes.flip(3)]), torch.cat([targets, targets])
    with torch.no_grad():
        real = features_by_class(network, images, 1)[0]
    own = features_of(network, seen.contiguous(memory_format=torch.channels_last))
    network.train(mode)
    made = predictions(real, own, labels, share_of_trace(own, RIDGE, per_row=True))
    return half_squares(made, wanted) - margins(targets).mean()


def train_on_prototypes(
    network: torch.nn.Module, adam: torch.optim.Optimizer, prototypes: Prototypes, batch: int, draws: torch.Generator
) -> None:
    """Take one step of a network on at most ``batch`` prototypes, by half the squared error of their targets."""
    import torch

    from .engine.kernel import half_squares

    images, targets = prototypes.values.detach(), prototypes.targets.detach()
    if len(images) > batch:
        rows = torch.randperm(len(images), generator=draws)[:batch].to(images.device)
        images, targets = images[rows], targets[rows]
    network.train()
    loss = half_squares(network(images.contiguous(memory_format=torch.channels_last)), targets)
    adam.zero_grad(set_to_none=True)
    loss.backward()
    adam.step()


def lamb(parameters: list[Tensor], lr: float) -> torch.optim.Optimizer:
    """Return LAMB (You et al. 2020) as FRePo takes it: a trust ratio for each whole tensor, no decay, no clipping."""
    from timm.optim import Lamb

    options: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0}
    return Lamb(parameters, lr=lr, max_grad_norm=None, always_adapt=True, **options)


def cosine(step: int, total: int, floor: float = 0.1) -> float:
    """Return the factor of a rate that falls as a cosine from 1 to ``floor``."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(step / total, 1.0)))


def space_work(context: DistillContext) -> Work:
    """Declare FRePo's whitening of the training images."""
    values = 3 * context.data.image_size**2
    flops = values**2 * (2.0 * len(context.data.train) + 20 * values)
    effort = Effort(operations={"flops": flops}, bytes=4 * values**2)
    key = {"kind": "zca", "share": ZCA_SHARE}
    make = functools.partial(_fit_space, context)
    return context.artifact_work("spaces", key, make, title="fit the ZCA whitening", effort=effort)


def _fit_space(context: DistillContext, folder: Path) -> None:
    write_tensors(folder / SPACE, Preprocessing.fit_share(context.data.train, ZCA_SHARE).tensors())


def read_space(context: DistillContext) -> Preprocessing:
    """Return the whitening of :func:`space_work`."""
    found = Preprocessing.from_tensors(read_tensors(context.do(space_work(context)) / SPACE))
    if found.kind != "zca":
        raise DistillError("the stored whitening is none; empty the store's folder spaces")
    return found
