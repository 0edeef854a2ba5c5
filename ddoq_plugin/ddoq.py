"""DDOQ: dataset distillation as pushforward optimal quantisation (Tan & Slade, arXiv 2501.07681).

Per class: encode the images, quantise the latents optimally (centroids c_k and masses w_k), push the centroids through
the diffusion prior, and train students on the weighted images,

    min over theta of  sum_k w_k loss(x_k, y_k; theta).

The masses are the shares of the class's samples in the Voronoi cells. Of all weights on these points they bring the
points nearest to the class in Wasserstein-2 distance. D4M is the same with equal weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from .distiller import CodebookOptions, Distiller, DistillerConfig, Effort, Work
from .errors import DistillError, nearest

if TYPE_CHECKING:
    import torch

    from .distilled_set import DistilledSet
    from .distiller import DistillContext, Pushforward
    from .quantization import Codebook
    from .quantization.allocation import Allocation


class DDOQConfig(CodebookOptions, DistillerConfig):
    """Settings of DDOQ, beside those of its codebook and of every method.

    share: how images are shared out where K < IPC, ``equal`` (so that all weightings have the same images) or
    ``proportional`` to the masses; an image stands for its point's mass over the point's images. requantise: how K >
    IPC points are quantised again, by their ``masses`` or as ``equal`` ones (D4M). That second step is for comparing
    with D4M's code: IPC points of two steps are never nearer to the class than the K = IPC of one, and mostly further.
    weighting: the shape of an image's weight: ``uniform``, ``counts`` (the masses, the paper's theory), ``sqrt`` or
    ``power`` (masses to the ``alpha``). The paper mentions a variance-reduction heuristic without its formula; the only
    public re-implementation takes the square root, and so does the default.
    strength: the time to which a centroid is noised, 0 (decode only) to 1; steps: of the full schedule, of which
    ``strength * steps`` run. The defaults 0.7, 8 and 50 are D4M's (its code and Section 2 of DDOQ: "the same model").
    scheduler: a diffusers scheduler's class name; None: the prior's own."""

    share: Literal["equal", "proportional"] = "equal"
    requantise: Literal["masses", "equal"] = "masses"
    weighting: Literal["uniform", "counts", "sqrt", "power"] = "sqrt"
    alpha: float | None = Field(None, ge=0, le=100)
    strength: float = Field(0.7, ge=0, le=1)
    guidance_scale: float = Field(8.0, ge=1, le=1000)
    steps: int = Field(50, ge=1, le=1000)
    scheduler: str | None = None


class DDOQ(Distiller):
    """Centroids of optimally quantised latents through the diffusion prior, weighted by Voronoi masses."""

    name = "ddoq"
    uses_clusters = True
    uses_weights = True
    needs_prior = True
    weight_settings = ("weighting", "alpha")
    quick = {"steps": 4}
    Config = DDOQConfig
    config: DDOQConfig

    def distill(self, context: DistillContext, ipc: int, *, clusters: int | None = None, seed: int = 0) -> DistilledSet:
        import torch

        self.check(context, ipc, clusters)
        clusters, points = clusters or ipc, self._clusters(ipc, clusters)
        images = context.empty_images(context.num_classes * ipc, self.config.stored_size)
        weights, stats = [], []
        with context.bar(context.num_classes, self.label()) as shown:
            for class_id in range(context.num_classes):
                made, own, measured = self.distill_class(context, class_id, ipc, points, seed)
                images[class_id * ipc : (class_id + 1) * ipc] = made
                weights.append(own)
                stats.append(measured)
                shown.update(1)
        labels = torch.arange(context.num_classes).repeat_interleave(ipc)
        means = {name: sum(row[name] for row in stats) / len(stats) for name in stats[0]} | {"space": self.space.space}
        return context.finish(
            self, images, labels, ipc=ipc, clusters=clusters, seed=seed, weights=torch.cat(weights), stats=means
        )

    def distill_class(
        self, context: DistillContext, class_id: int, ipc: int, clusters: int, seed: int
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
        """Return a class's images uint8 ``[IPC, 3, S, S]``, their weights ``[IPC]`` of mean 1, and W2 with them."""
        # the latents of the class: z_i = E(x_i), i = 1 ... N
        latents = context.latents(class_id, self.space)
        # their optimal quantiser: min over c_1 ... c_K of  sum_i min_k |z_i - c_k|^2
        book = context.codebook(class_id, clusters, seed, self.space)
        # its masses: w_k = #{i : z_i is nearest to c_k} / N; K becomes IPC
        points = self.allocate(context, class_id, latents, book, ipc, seed)
        # the pushforward of the points: x_k = D(denoise(noise(c_k, t), y))
        images = self.pushforward(context, ipc, clusters, seed).images(class_id)
        # the weights in  sum_k w_k loss(x_k, y_k; theta):  w_k, w_k^(1/2) or 1, of mean 1 so that classes are balanced
        shaped = self.shape(points)
        weights = (shaped / shaped.mean()).float()
        return images, weights, self.measure(context, class_id, points, shaped)

    @property
    def space(self) -> CodebookOptions:
        """How latents become the codebook."""
        return CodebookOptions.of(self.config)

    def allocate(
        self, context: DistillContext, class_id: int, latents: torch.Tensor, book: Codebook, ipc: int, seed: int
    ) -> Allocation:
        """Return the class's points, their masses and the number of images of each; where K = IPC, the codebook's."""
        from .quantization.allocation import allocate

        config, name = self.config, context.class_names[class_id]
        masses = config.masses if config.requantise == "masses" else "unweighted"
        return allocate(latents.flatten(1), book, ipc, share=config.share, masses=masses, seed=seed, name=name)

    def pushforward(self, context: DistillContext, ipc: int, clusters: int, seed: int) -> Pushforward:
        """Declare the images of all classes: the points, noised, denoised and decoded. Weights are no part of it."""
        config, space = self.config, self.space
        prior_space = space.model_copy(update={"space": "latent"})

        def starts(class_id: int) -> torch.Tensor:
            latents, book = context.latents(class_id, space), context.codebook(class_id, clusters, seed, space)
            points = self.allocate(context, class_id, latents, book, ipc, seed)
            if space.space != "pixel":
                return points.points.reshape(-1, *latents.shape[1:]).repeat_interleave(points.copies, 0)
            from .quantization.allocation import nearest_samples

            # a codebook of pixels has no latents of its own: that of the real image nearest to each point stands in
            nearest = nearest_samples(latents.flatten(1), points.once())
            return context.latents(class_id, prior_space)[nearest].repeat_interleave(points.copies, 0)

        def needs(class_id: int) -> tuple[Work, ...]:
            own = context.encode_work(class_id, prior_space) if space.space == "pixel" else ()
            return (context.codebook_work(class_id, clusters, seed, space), *own)

        recipe = {
            "points": "nearest" if space.space == "pixel" else "centroids",
            "share": config.share if clusters < ipc else None,
            "requantise": [config.requantise, config.masses] if clusters > ipc else None,
        }
        sampler = config.model_dump(include={"strength", "guidance_scale", "steps", "scheduler"})
        sampler["space"] = "noise" if space.space == "noise" else "latent"
        size = config.stored_size
        return context.pushforward(starts, ipc, seed=seed, recipe=recipe, needs=needs, size=size, **sampler)

    def shape(self, points: Allocation) -> torch.Tensor:
        """Return the weights of the images, float64 ``[IPC]``, from the mass that each stands for."""
        from .quantization import shape_weights

        return shape_weights(points.image_masses, self.config.weighting, self.config.alpha)

    def measure(
        self, context: DistillContext, class_id: int, points: Allocation, shaped: torch.Tensor
    ) -> dict[str, float]:
        """Return W2 of the points under the weights used and under equal ones, and the effective number of images."""
        from .quantization import effective_sample_size

        weights = (shaped / shaped.mean()).float()
        modes, equal = self.space.measured(), shaped.new_ones(len(shaped))
        used, uniform = (context.w2(class_id, points.points, modes, points.at_points(own)) for own in (shaped, equal))
        return {"w2_used": used, "w2_uniform": uniform, "effective_sample_size": effective_sample_size(weights)}

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        if (self.config.weighting == "power") != (self.config.alpha is not None):
            raise DistillError("weighting 'power' needs alpha, and the other weightings take none; set both or neither")

    def label(self) -> str:
        name = f"{self.name} balanced" if self.config.masses == "balanced" else f"{self.name} {self.config.weighting}"
        name += f" {self.config.alpha:g}" if self.config.alpha is not None else ""
        return name + (" proportional" if self.config.share == "proportional" else "")

    def work(self, context: DistillContext, ipc: int, clusters: int | None, seed: int) -> Iterable[Work]:
        images = self.pushforward(context, ipc, self._clusters(ipc, clusters), seed).works()
        measured = self.space.measured()
        modes = [work for class_id in range(context.num_classes) for work in context.encode_work(class_id, measured)]
        effort = Effort(operations=context.w2_operations(ipc, times=2))
        yield context.set_work(self, ipc, clusters, seed, needs=(*images, *modes), effort=effort, stage="quantise")

    def check(self, context: DistillContext, ipc: int, clusters: int | None) -> None:
        super().check(context, ipc, clusters)
        strength, steps, scheduler, label = self.config.strength, self.config.steps, self.config.scheduler, self.label()
        if strength > 0 and int(strength * steps) < 1 and self.config.space != "noise":
            raise DistillError(
                f"{label!r}: strength {strength:g} of {steps} steps runs none; raise one, or set strength: 0"
            )
        if scheduler is not None:
            from .priors.sampling import SCHEDULERS  # it loads diffusers

            if scheduler not in SCHEDULERS:
                hint = f"{nearest(scheduler, SCHEDULERS)} (known: {', '.join(SCHEDULERS)})"
                raise DistillError(f"{label!r}: unknown scheduler {scheduler!r}{hint}")
        if strength > 0 and not context.can_denoise:
            raise DistillError(f"the prior cannot denoise; set strength: 0 for {label!r} or use a diffusion one")

    def _clusters(self, ipc: int, clusters: int | None) -> int:
        """Return the K of the codebook. For one image it is 1: whatever K, the centroids of a stationary codebook,
        weighted by mass, average to the class mean."""
        by_mass = self.config.requantise == "masses" and self.config.clustering == "lloyd"
        return 1 if ipc == 1 and by_mass else clusters or ipc
