"""Importance sampling inside a method that learns: the images it begins with, and the real ones of its batches.

After "Provable and efficient dataset distillation by subset selection" (arXiv 2307.08086), of which we had the abstract
only: leverage or k-means importance for the beginning, relative cross-entropy for batches. The formulas are the
standard ones; the losses are those of networks trained beforehand, where the paper's follow the training."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ddoq_plugin.distiller import Work
from ddoq_plugin.errors import DistillError

from .engine.wrapping import Wrapper, WrapperConfig

if TYPE_CHECKING:
    import torch

    from ddoq_plugin.distilled_set import DistilledSet
    from ddoq_plugin.distiller import DistillContext

Kind = Literal["uniform", "leverage", "sensitivity", "lightweight"]


class ImportanceConfig(WrapperConfig):
    """Settings of importance sampling.

    start: what the first images are drawn by, each at most once: ``uniform``, ``leverage``, ``sensitivity`` or
    ``lightweight`` (as of the method leverage). batches: what images of batches are drawn by, with repetition:
    ``uniform``, ``leverage``, or ``loss`` (of a network trained on all images); they weigh 1 / (N p), so that sums stay
    unbiased. mix: the uniform share of the draw of batches. lam, features: as of the method leverage."""

    start: Kind = "leverage"
    batches: Literal["uniform", "leverage", "loss"] = "uniform"
    mix: float = Field(0.2, gt=0, le=1)
    lam: float = Field(1e-3, gt=0, le=1e6)
    features: str = "pixels"
    network: str = "convnet3_w32"
    epochs: int = Field(20, ge=1, le=10_000)


class Importance(Wrapper):
    """A method that learns its images, with importance in place of its uniform draws."""

    name = "importance"
    quick = {"inner": {"name": "dm", "iterations": 3, "batch": 8, "network": "convnet3_w32"}, "epochs": 1}
    Config = ImportanceConfig
    config: ImportanceConfig

    def title(self) -> str:
        named = {"start": self.config.start, "batches": self.config.batches}
        return " ".join([self.name, *(f"{name} {kind}" for name, kind in named.items() if kind != "uniform")])

    def check(self, context: DistillContext, ipc: int, clusters: int | None) -> None:
        from ddoq_plugin.evaluation import check_student

        super().check(context, ipc, clusters)
        if not self.inner.uses_sampler:
            raise DistillError(
                f"{self.inner.label()!r} draws no batches of real images; wrap one that does, such as dm"
            )
        context.features_work(0, self.config.features)
        check_student(self.config.network)

    def work(self, context: DistillContext, ipc: int, clusters: int | None, seed: int) -> Iterable[Work]:
        needs = [self._sampled(context, ipc, seed).work_of(self.inner, ipc, clusters, seed)]
        if {self.config.start, self.config.batches} - {"uniform", "loss"}:
            for class_id in range(context.num_classes):
                needs += context.features_work(class_id, self.config.features)
        if self.config.batches == "loss":
            needs.append(context.network_work(self.config.network, seed, self.config.epochs))
        yield context.set_work(self, ipc, clusters, seed, needs=needs, stage="quantise")

    def distill(self, context: DistillContext, ipc: int, *, clusters: int | None = None, seed: int = 0) -> DistilledSet:
        self.check(context, ipc, clusters)
        made = self._sampled(context, ipc, seed).distilled(self.inner, ipc, clusters, seed)
        return self.wrapped(context, made, ipc=ipc, clusters=clusters, seed=seed)

    def _sampled(self, context: DistillContext, ipc: int, seed: int) -> DistillContext:
        """Return the context with these samplers; importance is found when it is first asked for."""
        found = functools.cache(lambda kind, class_id: self._importance(context, kind, class_id, ipc, seed))

        def first(class_id: int, size: int, draws: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
            import torch

            from .engine.importance import draw

            if size > context.class_size(class_id):
                return context.uniform(class_id, size, draws)
            return draw(found(self.config.start, class_id), size, draws), torch.ones(size)

        def batch(class_id: int, size: int, draws: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
            import torch

            importance = found(self.config.batches, class_id)
            p = (1 - self.config.mix) * importance / importance.sum() + self.config.mix / len(importance)
            rows = torch.multinomial(p, size, replacement=True, generator=draws)
            return rows, (1 / (len(p) * p[rows])).float()

        key = self.config.model_dump(mode="json", exclude={"inner", "stored_size"}) | {"seed": seed, "ipc": ipc}
        return context.with_sampler(
            context.uniform if self.config.batches == "uniform" else batch,
            key,
            first=context.uniform if self.config.start == "uniform" else first,
        )

    def _importance(self, context: DistillContext, kind: str, class_id: int, ipc: int, seed: int) -> torch.Tensor:
        from .engine.importance import lightweight, ridge_leverage, sensitivity

        if kind == "loss":
            losses = context.scores("loss_late", seed, self.config.network, self.config.epochs)
            return losses[context.data.train.class_indices(class_id)].double()
        features = context.features(class_id, self.config.features)
        if kind == "lightweight":
            return lightweight(features)
        if kind == "sensitivity":
            return sensitivity(features, min(ipc, len(features)), seed, class_id)
        return ridge_leverage(features, self.config.lam, share=True)
