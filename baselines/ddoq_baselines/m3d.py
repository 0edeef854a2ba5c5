"""M3D: mosaics whose features have the distribution of their class in a kernel's space (Zhang et al., "M3D: Dataset
Condensation by Minimizing Maximum Mean Discrepancy", AAAI 2024, arXiv 2312.15927).

Its code was not to be had. The loss is that of two later repositories which copy it; the frame, the mosaics and the
augmentation are those of the code it builds on, IDC (Kim et al. 2022, snu-mllab/Efficient-Dataset-Condensation). Rate,
iterations and images a network are ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ddoq_plugin.errors import DistillError
from ddoq_plugin.seeding import generator

from .engine.learning import Count, Counts, Learner, Learning, MatchingConfig, check_even_side

if TYPE_CHECKING:
    import torch

    from ddoq_plugin.distiller import DistillContext


class M3DConfig(MatchingConfig.preset(batch=64, lr=0.3, init="mosaic", dsa="color_crop_cutout")):  # type: ignore[misc]
    """Settings of M3D. batch and dsa are IDC's; lr is in pixels and ours, chosen on validation
    images of Fashion-MNIST and CIFAR-10 at 16 px; so are the iterations.

    dsa: operations that are all applied, one after the other. factor: 2 for mosaics, 1 for plain images. kernel:
    gaussian is the paper's. network_steps: image steps with a random network."""

    iterations: Counts = 10_000
    network_steps: Count = 1
    factor: Literal[1, 2] = 2
    kernel: Literal["gaussian", "linear", "polynomial", "laplace"] = "gaussian"


class M3D(Learner):
    """Images that match the features of their class in maximum mean discrepancy, under random networks.

    All classes take one step together, where IDC's code takes one for each. Sets of factor 2 count mosaics: a student
    sees 4 IPC images."""

    name = "m3d"
    quick = {"iterations": 3, "batch": 8, "network": "convnet3_w32"}
    uses_sampler = True
    conditions = True
    Config = M3DConfig
    config: M3DConfig

    def passes(self, context: DistillContext, ipc: int) -> dict[str, float]:
        config = self.config.at(ipc)
        seen = config.batch + 2 * config.factor**2 * ipc
        return {config.network: float(config.iterations * context.num_classes * seen)}

    def kept(self, context: DistillContext, ipc: int) -> int:
        return super().kept(context, ipc * self.config.factor**2)

    def check(self, context: DistillContext, ipc: int, clusters: int | None) -> None:
        super().check(context, ipc, clusters)
        config = self.config
        if config.factor == 1 and config.init == "mosaic":
            raise DistillError(f"{self.label()!r}: init mosaic goes with factor 2; set init: real")
        if config.factor == 2:
            check_even_side(context, self.label())

    def begin(self, context: DistillContext, ipc: int, seed: int) -> Learning:
        return Matching(self.config.at(ipc), context, ipc, seed)


class Matching(Learning):
    """Steps of all classes together."""

    def __init__(self, config: M3DConfig, context: DistillContext, ipc: int, seed: int) -> None:
        from .engine.pixels import begin_pixels

        self.config, self.context, self.ipc, self.seed, self.total = config, context, ipc, seed, config.iterations
        draws = generator("m3d init", seed)
        self.pixels = begin_pixels(context, ipc, config, draws, units="pixels", reduction="nearest")
        self.state = self.pixels.state

    def step(self, number: int) -> float:
        import torch

        from ddoq_plugin.data.transforms import decode_mosaic

        from .engine.features import features_by_class, matched, real_by_class
        from .engine.losses import discrepancy

        config, context, classes = self.config, self.context, self.context.num_classes
        network = context.network(config.network, "m3d", self.seed, number // config.network_steps)
        network.requires_grad_(False)
        draws = generator("m3d batch", self.seed, number)
        real, weights = real_by_class(context, config.batch, draws)
        seen, parts = self.pixels.seen(), config.factor**2
        own = seen.unflatten(0, (classes, self.ipc))
        if parts > 1:  # the parts of a class stay together
            own = decode_mosaic(seen).unflatten(0, (parts, classes, self.ipc)).transpose(0, 1).flatten(1, 2)
        real, own = self._augmented(real, own, draws)
        with torch.no_grad():
            target = features_by_class(network, real, classes)

        def distance(made: torch.Tensor, part: slice) -> torch.Tensor:
            return discrepancy(made, target[part], config.kernel, weights[part]).sum()

        loss, gradient = matched(network, own, seen, classes, distance)
        self.pixels.step(gradient)
        return loss

    def _augmented(
        self, real: torch.Tensor, own: torch.Tensor, draws: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both sides ``[C n, 3, S, S]`` under every operation, drawn once a class."""
        from .engine.features import augmented, draw_for_classes

        for operation in filter(None, self.config.dsa.split("_")):
            drawn = draw_for_classes(operation, len(real), real.shape[-1], draws)
            real, own = (augmented(side, drawn, self.config.align_corners).view(side.shape) for side in (real, own))
        return real.flatten(0, 1), own.flatten(0, 1)

    def fields(self) -> dict[str, int]:
        return {"mosaic": self.config.factor}
