"""Select: more images of any method than are wanted, and of these the best by a trained network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ddoq_plugin.distiller import Work

from .engine.wrapping import Wrapper, WrapperConfig

if TYPE_CHECKING:
    import torch

    from ddoq_plugin.distilled_set import DistilledSet
    from ddoq_plugin.distiller import DistillContext


class SelectConfig(WrapperConfig):
    """Settings of select.

    factor: candidates for each image. by: ``confidence``, the network's probability of the class (the first half of
    CaO2, arXiv 2506.22637), or ``cosine`` of the features to the mean feature of the class's training images (that of
    S3). network, epochs: of the network that selects; the seed of the set is that of its training."""

    factor: int = Field(3, ge=1, le=100)
    by: Literal["confidence", "cosine"] = "confidence"
    network: str = "convnet3_w32"
    epochs: int = Field(20, ge=1, le=10_000)


class Select(Wrapper):
    """The best of many candidates of any method. Equal ones go to the first.

    Where the network that selects is also the teacher, its labels fit the images that it likes; compare with hard
    labels, or with another teacher, before you call that a gain."""

    name = "select"
    quick = {"inner": {"name": "random"}, "factor": 2, "epochs": 1}
    Config = SelectConfig
    config: SelectConfig

    def title(self) -> str:
        return self.name if self.config.by == "confidence" else f"{self.name} {self.config.by}"

    def check(self, context: DistillContext, ipc: int, clusters: int | None) -> None:
        from ddoq_plugin.evaluation import check_student

        check_student(self.config.network)
        if ipc >= 1:
            self.inner.check(context, ipc * self.config.factor, self._clusters(ipc, clusters))
        super().check(context, ipc, clusters)

    def work(self, context: DistillContext, ipc: int, clusters: int | None, seed: int) -> Iterable[Work]:
        inner = context.work_of(self.inner, ipc * self.config.factor, self._clusters(ipc, clusters), seed)
        network = context.network_work(self.config.network, seed, self.config.epochs)
        yield context.set_work(self, ipc, clusters, seed, needs=[inner, network], stage="quantise")

    def distill(self, context: DistillContext, ipc: int, *, clusters: int | None = None, seed: int = 0) -> DistilledSet:
        import torch

        self.check(context, ipc, clusters)
        made = context.distilled(self.inner, ipc * self.config.factor, self._clusters(ipc, clusters), seed)
        goodness = self._goodness(context, made, seed).unflatten(0, (context.num_classes, -1))
        best = goodness.argsort(dim=1, descending=True, stable=True)[:, :ipc]
        rows = (best + torch.arange(context.num_classes).unsqueeze(1) * goodness.shape[1]).flatten()
        stats = {"mean_goodness": float(goodness.gather(1, best).mean())}
        return self.wrapped(context, made, ipc=ipc, clusters=clusters, seed=seed, rows=rows, stats=stats)

    def _goodness(self, context: DistillContext, made: DistilledSet, seed: int) -> torch.Tensor:
        """Return how good each candidate is, float32 ``[n]``; a mosaic is the mean of its parts."""
        import torch

        from ddoq_plugin.data.transforms import decode_mosaic
        from ddoq_plugin.evaluation.features import features_of

        model = context.trained(self.config.network, seed, self.config.epochs)
        means, found = None, []
        with torch.no_grad():
            if self.config.by == "cosine":
                means = torch.stack([self._mean(context, model, c) for c in range(context.num_classes)])
            for images, labels in zip(made.images.split(64), made.labels.split(64), strict=True):
                seen = images.float() / 255
                seen = decode_mosaic(seen, made.mosaic) if made.mosaic > 1 else seen
                own = labels.repeat(made.mosaic**2).to(context.device)
                seen = context.normaliser(seen.to(context.device))
                if means is None:
                    good = model(seen).softmax(1).gather(1, own.unsqueeze(1))[:, 0]
                else:
                    good = torch.cosine_similarity(features_of(model, seen), means[own])
                found.append(good.unflatten(0, (made.mosaic**2, -1)).mean(0).cpu())
        return torch.cat(found)

    @staticmethod
    def _mean(context: DistillContext, model: torch.nn.Module, class_id: int) -> torch.Tensor:
        from ddoq_plugin.evaluation.features import features_of

        parts = context.images(class_id).split(256)
        features = [features_of(model, context.normaliser(part.to(context.device))) for part in parts]
        total: torch.Tensor = sum(one.sum(0) for one in features)  # type: ignore[assignment]
        return total / context.class_size(class_id)

    def _clusters(self, ipc: int, clusters: int | None) -> int | None:
        """Return the K of the candidates: in proportion where it is given apart from IPC."""
        return None if clusters is None or clusters == ipc else clusters * self.config.factor
