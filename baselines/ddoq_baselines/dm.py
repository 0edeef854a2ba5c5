"""DM: images whose mean features equal those of their class (Zhao & Bilen, "Dataset Condensation with Distribution
Matching", WACV 2023, arXiv 2110.04181; code VICO-UoE/DatasetCondensation, main_DM.py)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ddoq_plugin.distiller import Distiller, DistillerConfig, Effort, Work
from ddoq_plugin.errors import DistillError
from ddoq_plugin.seeding import generator

if TYPE_CHECKING:
    import torch

    from ddoq_plugin.distilled_set import DistilledSet
    from ddoq_plugin.distiller import DistillContext

FEATURES = 2048  # of the paper's network, for which its learning rate is


class DMConfig(DistillerConfig):
    """Settings of DM; the defaults are those of the authors' code.

    iterations: image steps, each with a new random network. batch: real images of a class in a step. lr: of SGD, for
    2048 features (the squared distance grows with their number): it is multiplied by 2048 over the network's own.
    network: any student with a linear last layer. init: from real images or from noise."""

    iterations: int = Field(20_000, ge=1)
    batch: int = Field(256, ge=1)
    lr: float = Field(1.0, gt=0, le=1e6)
    momentum: float = Field(0.5, ge=0, lt=1)
    network: str = "convnet3"
    init: Literal["real", "noise"] = "real"


class DM(Distiller):
    """Images that match the mean features of their class under many random networks, which are never trained.

    Pixels stay in [0, 1], where the code lets them leave it; real and made images are not augmented. A network with
    batch normalisation sees one class at a time, where the code shows it all classes together."""

    name = "dm"
    quick = {"iterations": 3, "batch": 8, "network": "convnet3_w32"}
    Config = DMConfig
    config: DMConfig

    def check(self, context: DistillContext, ipc: int, clusters: int | None) -> None:
        from ddoq_plugin.evaluation import check_student

        super().check(context, ipc, clusters)
        check_student(self.config.network)
        context.check_class_sizes(ipc if self.config.init == "real" else 1, "images", self.label())

    def work(self, context: DistillContext, ipc: int, clusters: int | None, seed: int) -> Iterable[Work]:
        config, seen = self.config, self.config.iterations * context.num_classes
        # a real image goes forward; a made one forward, and back to its pixels through fixed weights
        passes = {config.network: float(seen * (config.batch + 2 * ipc))}
        effort = Effort(seen * (config.batch + ipc), passes)
        yield context.set_work(self, ipc, clusters, seed, effort=effort, stage="train")

    def distill(self, context: DistillContext, ipc: int, *, clusters: int | None = None, seed: int = 0) -> DistilledSet:
        import torch

        self.check(context, ipc, clusters)
        config, normalise = self.config, context.normaliser
        black, white = (normalise(torch.full((1, 3, 1, 1), value, device=context.device)) for value in (0.0, 1.0))
        made = normalise(self._first(context, ipc, seed)).requires_grad_()  # steps are taken in the networks' space
        optimiser = torch.optim.SGD([made], lr=config.lr, momentum=config.momentum)
        losses = torch.zeros(2)  # of the first and the last step
        for step in context.steps(config.iterations, {"images": made, "optimiser": optimiser, "losses": losses}):
            network = context.network(config.network, "dm", seed, step).requires_grad_(False)
            draws, total = generator("dm batch", seed, step), 0.0
            for class_id, own in enumerate(made.split(ipc)):
                real = context.real_batch(class_id, config.batch, draws)
                loss, features = matching_loss(network, normalise(real.images), own, real.weights)
                loss.backward()
                total += float(loss.detach())
            if not total < float("inf"):
                raise DistillError(f"{self.label()!r} diverged: its loss is {total} at step {step}; lower lr")
            losses[0 if step == 0 else 1] = total
            optimiser.param_groups[0]["lr"] = config.lr * FEATURES / features
            optimiser.step()
            optimiser.zero_grad()
            with torch.no_grad():
                made.clamp_(black, white)
        images = normalise.undo(made.detach()).clamp(0, 1).cpu()
        labels = torch.arange(context.num_classes).repeat_interleave(ipc)
        stats = {"loss_first": float(losses[0]), "loss_last": float(losses[1])}
        return context.finish(self, images, labels, ipc=ipc, clusters=None, seed=seed, stats=stats)

    def _first(self, context: DistillContext, ipc: int, seed: int) -> torch.Tensor:
        """Return the images to begin with, float32 ``[C * IPC, 3, S, S]`` in [0, 1]."""
        import torch

        draws, size = generator("dm init", seed), context.data.image_size
        if self.config.init == "noise":
            return torch.rand(context.num_classes * ipc, 3, size, size, generator=draws).to(context.device)
        return torch.cat([context.real_batch(c, ipc, draws).images for c in range(context.num_classes)])


def matching_loss(
    network: torch.nn.Module, real: torch.Tensor, made: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, int]:
    """Return |sum_i w_i f(real_i) / n - mean_j f(made_j)|^2 of one class, and the number of features f."""
    import torch

    from ddoq_plugin.evaluation.features import features_of

    with torch.no_grad():
        target = (features_of(network, real) * weights[:, None]).mean(0)
    return (target - features_of(network, made).mean(0)).square().sum(), len(target)
