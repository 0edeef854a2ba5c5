"""Experts: networks trained on real images, with their parameters after every epoch.

One artifact is one expert, so that workers train many at once, a killed one goes on, and all methods, IPC and seeds
that ask with the same settings share them."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ddoq_plugin.distiller import Effort, Work
from ddoq_plugin.errors import DistillError
from ddoq_plugin.evaluation.dsa import augment, draw
from ddoq_plugin.evaluation.evaluator import student_code
from ddoq_plugin.evaluation.runtime import keep_freed_memory
from ddoq_plugin.preprocessing import PIXELS, Preprocessing
from ddoq_plugin.seeding import generator
from ddoq_plugin.store.code import code_hash
from ddoq_plugin.store.tensor_files import read_tensors, write_tensors

from .expert_files import read_experts
from .networks import FlatNetwork
from .pixels import TrainingImages

if TYPE_CHECKING:
    from ddoq_plugin.distiller import DistillContext

    from .trajectories import ExpertConfig

TRAJECTORY, SPACE = "trajectory.safetensors", "space.safetensors"
EPS = 0.1  # added to the eigenvalues of ZCA, as in MTT's code
FAR = 100.0  # times the loss of a guess: a training that has left all bounds
PROBES = 1000  # training images on which given experts must do twice as well as a guess
SMALL = 1e-12  # added to norms, as in the code of GSAM


class Experts:
    """The experts that a method asks for: their declared work, and their parameters."""

    def __init__(
        self, context: DistillContext, config: ExpertConfig, network: str, *, zca: bool, align_corners: bool
    ) -> None:
        self.context, self.config, self.name, self.zca = context, config, network, zca
        self.align_corners = align_corners
        self._read: dict[int, Tensor] = {}

    def works(self) -> tuple[Work, ...]:
        """Declare them, each with the whitening that it needs; of given experts the whitening alone."""
        if self.config.path is not None:
            return (self._space_work(),) if self.zca else ()
        return tuple(self._work(index) for index in range(self.config.count))

    def check_given(self, accuracy: bool = False) -> None:
        """Raise DistillError where experts are given and do not fit; ``accuracy``: try them on training images."""
        path, config = self.config.path, self.config
        if path is None:
            return
        network = FlatNetwork(self.context.network(self.name, "check"))
        self._read = dict(enumerate(read_experts(path, network, self.name)))
        shortest = min(len(parameters) for parameters in self._read.values()) - 1
        if len(self._read) < config.count or shortest < config.epochs:
            raise DistillError(
                f"the experts in {path} are {len(self._read)} of {shortest} epochs; set experts.count and "
                "experts.epochs to at most that"
            )
        share = self._accuracy(network, self._read[0][config.epochs]) if accuracy else 1.0
        if share < 2 / self.context.num_classes:
            raise DistillError(
                f"the experts in {path} classify {share:.0%} of the training images right after {config.epochs} "
                "epochs: they are of other data or of another preprocessing (zca)"
            )

    @torch.no_grad()
    def _accuracy(self, network: FlatNetwork, vector: Tensor) -> float:
        real = TrainingImages(self.context, self.space())
        rows = torch.randperm(len(real), generator=generator("expert probes"))[:PROBES]
        images, labels = real.batch(rows)
        logits = torch.cat([network.logits(vector.to(images.device), part) for part in images.split(256)])
        return float((logits.argmax(1) == labels).float().mean())

    def space(self) -> Preprocessing:
        """Return the space that the networks see: ZCA of the training images, or pixels (normalised as usual)."""
        if not self.zca:
            return PIXELS
        return Preprocessing.from_tensors(read_tensors(self.context.do(self._space_work()) / SPACE))

    def parameters(self, index: int) -> Tensor:
        """Return an expert's parameters, float32 ``[epochs + 1, P]``: at the start and after each epoch."""
        if index not in self._read:  # given ones have been read by check_given
            self._read[index] = read_tensors(self.context.do(self._work(index)) / TRAJECTORY)["parameters"]
        return self._read[index]

    def _space_work(self) -> Work:
        def make(folder: Path) -> None:
            fitted = Preprocessing.fit("zca", self.context.data.train, EPS)
            write_tensors(folder / SPACE, fitted.tensors())

        values = 3 * self.context.data.image_size**2
        flops = values**2 * (2.0 * len(self.context.data.train) + 20 * values)  # the covariance; its eigenvectors
        effort = Effort(operations={"flops": flops}, bytes=4 * values**2)
        key = {"kind": "zca", "eps": EPS, "code": code_hash("ddoq_plugin.preprocessing")}
        return self.context.artifact_work("spaces", key, make, title="fit the ZCA whitening", effort=effort)

    def _work(self, index: int) -> Work:
        config, context = self.config, self.context
        settings = config.model_dump(mode="json", exclude={"count", "path"})
        key = {"network": self.name, "zca": self.zca, "align_corners": self.align_corners, "index": index, **settings}
        key["code"] = [student_code(self.name), code_hash("ddoq_plugin.evaluation.dsa")]
        images = len(context.data.train) * config.epochs
        passes = {self.name: (6.0 if config.optimiser == "gsam" else 3.0) * images}
        size = 4 * (config.epochs + 1) * FlatNetwork(context.network(self.name, "check")).size
        effort = Effort(images, passes, bytes=size, memory=2 * size, kept=config.batch)
        needs = (self._space_work(),) if self.zca else ()
        make, title = functools.partial(self._train, index), f"train expert {index + 1} of {config.count}"
        return context.artifact_work("experts", key, make, needs=needs, title=title, resumable=True, effort=effort)

    def _train(self, index: int, folder: Path) -> None:
        keep_freed_memory()
        config, context = self.config, self.context
        name = ("expert", config.seed, index)
        network = FlatNetwork(context.network(self.name, *name))
        real, vector = TrainingImages(context, self.space()), network.vector()
        an_epoch = -(-len(real) // config.batch)
        kept = torch.empty(config.epochs + 1, network.size)
        kept[0] = vector.cpu()
        gradient_at = functools.partial(loss_gradient, network)
        for step in context.steps(
            config.epochs * an_epoch, {"vector": vector, "kept": kept}, name=f"expert {index + 1}"
        ):
            epoch, place = divmod(step, an_epoch)
            rows = torch.randperm(len(real), generator=generator(*name, "epoch", epoch)).split(config.batch)[place]
            images, labels = real.batch(rows)
            if config.dsa:
                drawn = draw(config.dsa, len(images), images.shape[-1], generator(*name, "step", step))
                images = augment(images, drawn, align_corners=self.align_corners)
            images = images.contiguous(memory_format=torch.channels_last)
            loss, gradient = gradient_at(vector, images, labels)
            if config.optimiser == "gsam":
                shift = gsam_shift(vector, gradient, config.rho, adaptive=config.adaptive)
                gradient = gsam_direction(gradient, gradient_at(vector + shift, images, labels)[1], config.alpha)
            vector.sub_(gradient, alpha=config.lr)
            if place == an_epoch - 1:
                kept[epoch + 1] = vector.cpu()  # a copy
                bound = FAR * math.log(context.num_classes)
                if not (float(loss) <= bound and bool(kept[epoch + 1].isfinite().all())):
                    raise DistillError(
                        f"expert {index + 1} diverged: its loss is {float(loss):.3g} after epoch {epoch + 1}; lower "
                        "the experts' lr"
                    )
        write_tensors(folder / TRAJECTORY, {"parameters": kept})


def loss_gradient(network: FlatNetwork, vector: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy of a batch and its gradient with respect to the parameters ``[P]``."""
    theta = vector.detach().requires_grad_()
    loss = F.cross_entropy(network.logits(theta, images), labels)
    return loss.detach(), torch.autograd.grad(loss, theta)[0]


def gsam_shift(vector: Tensor, gradient: Tensor, rho: float, *, adaptive: bool) -> Tensor:
    """Return the perturbation of parameters that raises the loss: rho g / |g|, or, adaptive, rho w^2 g / | |w| g |.

    Foret et al. 2021; Kwon et al. 2021 (adaptive)."""
    if adaptive:
        return vector.square() * gradient * (rho / ((vector.abs() * gradient).norm() + SMALL))
    return gradient * (rho / (gradient.norm() + SMALL))


def gsam_direction(gradient: Tensor, perturbed: Tensor, alpha: float) -> Tensor:
    """Return g' - alpha (g - <g, g'> g' / |g'|^2): the perturbed gradient g', less a share of the part of g that is
    orthogonal to it. Zhuang et al. 2022, as FTD takes it (buffer/gsam of FTD-distillation)."""
    along = (gradient * perturbed).sum() / (perturbed.norm() + SMALL) ** 2
    return perturbed - alpha * (gradient - along * perturbed)
