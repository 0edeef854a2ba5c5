"""DM: images whose mean features equal those of their class (Zhao & Bilen, "Dataset Condensation with Distribution
Matching", WACV 2023, arXiv 2110.04181; code VICO-UoE/DatasetCondensation, main_DM.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddoq_plugin.seeding import generator

from .engine.learning import Counts, Learner, Learning, MatchingConfig, Rates

if TYPE_CHECKING:
    from ddoq_plugin.distiller import DistillContext

FEATURES = 2048  # of the paper's network, for which its learning rate is


class DMConfig(MatchingConfig):
    """Settings of DM; the defaults are those of the authors' code.

    iterations: image steps, each with a new random network. lr: for 2048 features (the squared distance grows with
    their number): it is multiplied by 2048 over the network's own; the code takes 10 from 100 images a class on."""

    iterations: Counts = 20_000
    lr: Rates = 1.0


class DM(Learner):
    """Images that match the mean features of their class under many random networks, which are never trained.

    Pixels stay in [0, 1], where the code lets them leave it. Real and made images of a class share an augmentation. All
    classes pass a network together, which is the code's way for batch norm; other networks see each image alone."""

    name = "dm"
    quick = {"iterations": 3, "batch": 8, "network": "convnet3_w32"}
    uses_sampler = True
    conditions = True
    Config = DMConfig
    config: DMConfig

    def passes(self, context: DistillContext, ipc: int) -> dict[str, float]:
        # a real image goes forward; a made one forward, and back to its pixels through fixed weights
        config = self.config.at(ipc)
        return {config.network: float(config.iterations * context.num_classes * (config.batch + 2 * ipc))}

    def begin(self, context: DistillContext, ipc: int, seed: int) -> Learning:
        return Matching(self.config.at(ipc), context, ipc, seed)


class Matching(Learning):
    """Steps of all classes together, each under a new random network."""

    def __init__(self, config: DMConfig, context: DistillContext, ipc: int, seed: int) -> None:
        from .engine.pixels import begin_pixels

        self.config, self.context, self.ipc, self.seed, self.total = config, context, ipc, seed, config.iterations
        self.pixels = begin_pixels(context, ipc, config, generator("dm init", seed), lr=1.0)
        self.state = self.pixels.state

    def step(self, number: int) -> float:
        import torch

        from .engine.features import augmented, draw_for_classes, features_by_class, matched, real_by_class
        from .engine.losses import mean_distance

        config, context, classes = self.config, self.context, self.context.num_classes
        network = context.network(config.network, "dm", self.seed, number).requires_grad_(False)
        draws = generator("dm batch", self.seed, number)
        real, weights = real_by_class(context, config.batch, draws)
        drawn = draw_for_classes(config.dsa, classes, context.data.image_size, draws)
        with torch.no_grad():
            target = features_by_class(network, augmented(real, drawn, config.align_corners), classes)
        seen = self.pixels.seen()
        own = augmented(seen.unflatten(0, (classes, self.ipc)), drawn, config.align_corners)

        def distance(made: torch.Tensor, part: slice) -> torch.Tensor:
            return mean_distance(target[part], made, weights[part])

        loss, gradient = matched(network, own, seen, classes, distance)
        self.pixels.step(gradient, config.lr * FEATURES / target.shape[-1])
        return loss
