"""DDOQ: dataset distillation as pushforward optimal quantisation (Tan & Slade, arXiv 2501.07681).

Per class: encode the images, quantise the latents optimally (centroids z_k and masses w_k), push the centroids through
the diffusion prior, x_k = decode(denoise(noise(z_k), y)), and train students on the weighted images,

    min over theta of  sum_k w_k loss(x_k, y_k; theta).

The masses are the shares of the class's samples in the Voronoi cells: they are the weights that bring the
weighted points nearest to the class in Wasserstein-2 distance. D4M is the same with equal weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from .distiller import CodebookOptions, DistillContext, Distiller, DistillerConfig
from .errors import DistillError, nearest
from .seeding import derive_seed

if TYPE_CHECKING:
    import torch

    from .distilled_set import DistilledSet
    from .quantization.allocation import Allocation


class DDOQConfig(CodebookOptions, DistillerConfig):
    """Settings of DDOQ, beside those of its codebook and of every method.

    share: how images are shared out where K < IPC, ``equal`` (so that all weightings have the same images) or
    ``proportional`` to the masses.
    weighting: the shape of an image's weight: ``uniform``, ``counts`` (the masses, the paper's theory), ``sqrt`` (the
    paper's experiments are said to use a heuristic "for variance reduction" whose form its reviewers give no source
    for; the only public re-implementation takes the square root) or ``power`` (masses to the ``alpha``).
    strength: the time to which a centroid is noised, 0 (decode only) to 1; steps: of the full schedule, of which
    ``strength * steps`` run. The defaults 0.7, 8 and 50 are D4M's (its code and Section 2 of DDOQ: "the same model").
    scheduler: a diffusers scheduler's class name; None: the prior's own.
    """

    share: Literal["equal", "proportional"] = "equal"
    weighting: Literal["uniform", "counts", "sqrt", "power"] = "sqrt"
    alpha: float | None = Field(None, ge=0)
    strength: float = Field(0.7, ge=0, le=1)
    guidance_scale: float = Field(8.0, ge=1)
    steps: int = Field(50, ge=1)
    scheduler: str | None = None


class DDOQ(Distiller):
    """Centroids of optimally quantised latents through the diffusion prior, weighted by Voronoi masses."""

    name = "ddoq"
    uses_clusters = True
    uses_weights = True
    needs_prior = True
    Config = DDOQConfig
    config: DDOQConfig

    requantise_by_mass = True
    """K > IPC: whether the second quantisation weighs the centroids by their masses (D4M does not)."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        if (self.config.weighting == "power") != (self.config.alpha is not None):
            raise DistillError("weighting 'power' needs alpha, and the other weightings take none; set both or neither")

    def label(self) -> str:
        name = f"{self.name} balanced" if self.config.masses == "balanced" else f"{self.name} {self.config.weighting}"
        name += f" {self.config.alpha:g}" if self.config.alpha is not None else ""
        return name + (" proportional" if self.config.share == "proportional" else "")

    def codebook_options(self) -> CodebookOptions:
        return CodebookOptions.of(self.config)

    def check(self, context: DistillContext, ipc: int, clusters: int | None) -> None:
        super().check(context, ipc, clusters)
        strength, steps = self.config.strength, self.config.steps
        if strength > 0 and int(strength * steps) < 1 and self.config.space != "noise":
            raise DistillError(
                f"{self.label()!r}: strength {strength:g} of {steps} steps runs none; raise one, or set strength: 0"
            )
        if self.config.scheduler is not None:
            from .priors.sampling import SCHEDULERS

            if self.config.scheduler not in SCHEDULERS:
                hint = f"{nearest(self.config.scheduler, SCHEDULERS)} (known: {', '.join(SCHEDULERS)})"
                raise DistillError(f"{self.label()!r}: unknown scheduler {self.config.scheduler!r}{hint}")
        if self.config.strength > 0 and not context.can_denoise:
            raise DistillError(f"the prior cannot denoise; set strength: 0 for {self.label()!r} or use a diffusion one")

    def distill(self, context: DistillContext, ipc: int, *, clusters: int | None = None, seed: int = 0) -> DistilledSet:
        import torch

        self.check(context, ipc, clusters)
        clusters = clusters or ipc
        images = context.empty_images(context.num_classes * ipc, self.config.stored_size)
        weights, stats = [], []
        with context.bar(context.num_classes, self.label()) as shown:
            for group in context.class_groups(ipc):
                allocations = [self.allocate(context, class_id, ipc, clusters, seed) for class_id in group]
                place = slice(group[0] * ipc, (group[-1] + 1) * ipc)
                images[place] = self._generate(context, group, allocations, ipc, seed)
                for class_id, allocation in zip(group, allocations, strict=True):
                    shaped = self._shape(allocation)
                    weights.append(allocation.per_image(shaped))
                    stats.append(self._measure(context, class_id, allocation, shaped, weights[-1]))
                    shown.update(1)
        labels = torch.arange(context.num_classes).repeat_interleave(ipc)
        means = {name: sum(row[name] for row in stats) / len(stats) for name in stats[0]}
        means["space"] = self.config.space
        return context.finish(
            self, images, labels, ipc=ipc, clusters=clusters, seed=seed, weights=torch.cat(weights), stats=means
        )

    def prepare(
        self, context: DistillContext, ipc: int, classes: Sequence[int], *, clusters: int | None = None, seed: int = 0
    ) -> None:
        """Store the latents, codebooks and images of a group of classes; without a store there is nowhere to."""
        self.check(context, ipc, clusters)
        group = context.check_group(classes, ipc)
        if context.store is not None:
            allocations = [self.allocate(context, class_id, ipc, clusters or ipc, seed) for class_id in group]
            self._generate(context, group, allocations, ipc, seed)
            for class_id in group:
                context.encode(class_id, self.codebook_options().measured())

    def _generate(
        self, context: DistillContext, group: Sequence[int], allocations: Sequence[Allocation], ipc: int, seed: int
    ) -> torch.Tensor:
        """Return the images of a group of classes, uint8 ``[len(group) * ipc, 3, S, S]``, S as they are stored."""
        import torch

        starts = [
            self._starts(context, class_id, allocation).repeat_interleave(allocation.copies, 0)
            for class_id, allocation in zip(group, allocations, strict=True)
        ]
        return context.generate(
            torch.cat(starts),
            torch.tensor(group).repeat_interleave(ipc),
            seeds=[derive_seed("noise", seed, class_id, i) for class_id in group for i in range(ipc)],
            strength=self.config.strength,
            guidance_scale=self.config.guidance_scale,
            steps=self.config.steps,
            space="noise" if self.config.space == "noise" else "latent",
            scheduler=self.config.scheduler,
            size=self.config.stored_size,
        )

    def allocate(self, context: DistillContext, class_id: int, ipc: int, clusters: int, seed: int) -> Allocation:
        """Return the class's points, their masses and the number of images of each."""
        from .quantization.allocation import allocate

        options = self.codebook_options()
        if ipc == 1 and self.requantise_by_mass and options.clustering == "lloyd":
            # centroids of a stationary codebook, weighted by mass, average to the class mean: K does not matter
            clusters = 1
        return allocate(
            context.latents(class_id, options).flatten(1),
            context.codebook(class_id, clusters, seed, options),
            ipc,
            share=self.config.share,
            masses=self.config.masses if self.requantise_by_mass else "unweighted",
            seed=seed,
            name=context.class_names[class_id],
        )

    def _shape(self, allocation: Allocation) -> torch.Tensor:
        """Return the weights of the points, [m]; without weighting every image has the same."""
        from .quantization import shape_weights

        if self.config.weighting == "uniform" or not self.uses_weights:
            return allocation.copies.double()
        return shape_weights(allocation.masses, self.config.weighting, self.config.alpha)

    def _starts(self, context: DistillContext, class_id: int, allocation: Allocation) -> torch.Tensor:
        """Return the latents ``[m, *latent shape]`` that the points stand for in the prior's space."""
        if self.config.space != "pixel":
            return allocation.points.reshape(-1, *context.prior.latent_shape)
        from .quantization.allocation import nearest_samples

        latents = context.latents(class_id, self.codebook_options())
        # a codebook of pixels has no latents of its own: the latent of the real image nearest to each point stands in
        nearest = nearest_samples(latents.flatten(1), allocation.once())
        prior_options = self.codebook_options().model_copy(update={"space": "latent"})
        return context.latents(class_id, prior_options)[nearest]

    def _measure(
        self,
        context: DistillContext,
        class_id: int,
        allocation: Allocation,
        shaped: torch.Tensor,
        weights: torch.Tensor,
    ) -> dict[str, float]:
        """W2 of the distinct points under the weights used and under equal ones, and the images' effective number."""
        from .quantization import effective_sample_size

        options = self.codebook_options().measured()
        return {
            "w2_used": context.w2(class_id, allocation.points, options, shaped),
            "w2_uniform": context.w2(class_id, allocation.points, options),
            "effective_sample_size": effective_sample_size(weights),
        }
