"""Trajectory matching: images on which a student's training goes where an expert's went.

From an expert's parameters after t epochs, N steps on the made images shall end at those after t + M epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ddoq_plugin.distiller import Work
from ddoq_plugin.errors import DistillError
from ddoq_plugin.evaluation.dsa_strategy import STRATEGY
from ddoq_plugin.yaml_files import Checked

from .learning import Count, Counts, Learner, LearnerConfig, Learning, Rate, Rates

if TYPE_CHECKING:
    from torch import Tensor

    from ddoq_plugin.distiller import DistillContext

    from .experts import Experts
    from .unroll import Loss, Unrolled


Start = Annotated[int, Field(ge=0, le=10_000_000)]


class ExpertConfig(Checked):
    """How experts are trained; the defaults are those of MTT's code (buffer.py of mtt-distillation).

    count, epochs: how many, and how long each. batch, lr: of SGD without momentum, decay or schedule. dsa: operations
    drawn for a batch, with numbers of each image's own. optimiser: ``gsam`` for the flat experts of FTD, with rho (the
    size of the perturbation), alpha (the share of the orthogonal part that is taken away) and adaptive (a perturbation
    in proportion to the parameters). path: experts that are there already, as MTT's code writes them
    (replay_buffer_0.pt and so on), or files of ours; the other settings are then those they were trained with."""

    path: str | None = None
    count: Count = 100
    epochs: Count = 50
    batch: Count = 256
    lr: Rate = 0.01
    dsa: str = STRATEGY
    optimiser: Literal["sgd", "gsam"] = "sgd"
    rho: float = Field(0.01, ge=0, le=1e3)
    alpha: float = Field(0.4, ge=0, le=1e3)
    adaptive: bool = True
    seed: int = Field(0, ge=0, le=2**31)


class TrajectoryConfig(LearnerConfig):
    """Settings of trajectory matching; the defaults are those of MTT's code for CIFAR-10 at IPC 10.

    iterations: image steps. steps: N, of the student in each. expert_epochs: M. min_start, max_start: t is drawn from
    [min_start, max_start). batch: made images in a student's step (none: all). lr: of the images. rate: the student's
    learning rate at the start, learnt with rate_lr and the images' momentum. zca: networks see whitened images, and the
    set is stored so. experts: how they are trained; ``dsa`` is that of the student. first_max_start, growth: where
    given, max_start grows from the first to its value within that many iterations. skip_above: steps with a larger loss
    change nothing. label_lr: where given, labels are learnt too, as logits. constant: TESLA's gradient (Cui et al.
    2023) in place of the exact one."""

    iterations: Counts = 5000
    steps: Counts = 30
    expert_epochs: Counts = 2
    min_start: Start | dict[int, Start] = 0
    max_start: Counts = 20
    batch: Counts | None = None
    lr: Rates = 100.0
    rate: Rates = 0.01
    rate_lr: Rates = 1e-5
    zca: bool = False
    experts: ExpertConfig = ExpertConfig()
    first_max_start: Counts | None = None
    growth: Counts = 1000
    skip_above: float | None = Field(None, gt=0)
    label_lr: Rates | None = None
    constant: bool = False


class TrajectoryMatcher(Learner):
    """A method of this kind; subclasses change the gradient or what becomes of the images."""

    Config = TrajectoryConfig
    config: TrajectoryConfig
    conditions = True  # its experts begin with the networks of earlier stages, and its students see all images
    unrollings = 1  # of the student in one step
    quick = {
        "iterations": 2, "steps": 2, "expert_epochs": 1, "max_start": 1, "network": "convnet3_w32", "lr": 1.0,
        "experts": {"count": 1, "epochs": 2, "batch": 32},
    }  # fmt: skip

    def experts(self, context: DistillContext) -> Experts:
        """Return the experts that the settings ask for."""
        from .experts import Experts

        config = self.config
        how: dict[str, Any] = {"zca": config.zca, "align_corners": config.align_corners}
        return Experts(context, config.experts, config.network, **how)

    def needs(self, context: DistillContext, ipc: int, seed: int) -> tuple[Work, ...]:
        return self.experts(context).works()

    def inputs(self, ipc: int, seed: int) -> Any:
        from .expert_files import files_hash

        path = self.config.experts.path
        return None if path is None else files_hash(path)

    def passes(self, context: DistillContext, ipc: int) -> Mapping[str, float]:
        config, images = self.config.at(ipc), context.num_classes * ipc
        seen = config.iterations * config.steps * min(images, config.batch or images) * self.unrollings
        return {config.network: 12.0 * seen}  # a step: forward and back; then back through both

    def memory(self, context: DistillContext, ipc: int) -> int:
        from .networks import FlatNetwork

        network = FlatNetwork(context.network(self.config.network, "check"))
        own: int = 4 * network.size * (self.config.at(ipc).steps + 4)
        return own + super().memory(context, ipc)

    def kept(self, context: DistillContext, ipc: int) -> int:
        images = context.num_classes * ipc
        return 4 * min(images, self.config.at(ipc).batch or images)

    def check(self, context: DistillContext, ipc: int, clusters: int | None) -> None:
        from .networks import refuse_batch_norm

        super().check(context, ipc, clusters)
        config = self.config.at(ipc)
        refuse_batch_norm(context, config.network, self.label())
        last = config.max_start - 1 + config.expert_epochs
        if last > config.experts.epochs:
            raise DistillError(
                f"{self.label()!r} matches experts up to epoch {last} (max_start - 1 + expert_epochs), and they train "
                f"for {config.experts.epochs}; lower max_start or raise experts.epochs"
            )
        lowest = min(config.max_start, config.first_max_start or config.max_start)
        if config.min_start >= lowest:
            raise DistillError(f"{self.label()!r}: min_start {config.min_start} must be below max_start, {lowest}")
        self.experts(context).check_given()
        if context.given is not None and (config.label_lr is not None or config.experts.path is not None):
            raise DistillError(
                f"{self.label()!r} cannot go on from earlier images with learnt labels or given experts; leave out "
                "label_lr and experts.path"
            )
        if config.label_lr is not None and config.init != "real":
            raise DistillError(f"{self.label()!r}: learnt labels begin with those of real images; set init: real")

    def begin(self, context: DistillContext, ipc: int, seed: int) -> Learning:
        from .trajectory_steps import Trajectory

        context.do_together(self.needs(context, ipc, seed))  # before the first step, so that its progress is its own
        return Trajectory(self, context, ipc, seed)

    def gradient(
        self, loss: Loss, start: Tensor, target: Tensor, images: Tensor, labels: Tensor, rate: Tensor,
        batches: list[Tensor],
    ) -> Unrolled:  # fmt: skip
        """Return loss and gradients of one step; the arguments are those of :func:`.unroll.unroll`."""
        from .unroll import unroll

        return unroll(loss, start, target, images, labels, rate, batches, constant=self.config.constant)

    def decay(self, ipc: int) -> float:
        """Return the decay of the average of the images that is the set; 0: the images at the end."""
        return 0.0
