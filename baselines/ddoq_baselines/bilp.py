"""BiLP's static level: any method on what is left when a share of each class is dropped (Xu et al., "Distill Gold from
Massive Ores", ECCV 2024, arXiv 2305.18381; code silicx/GoldFromOres-BiLP)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ddoq_plugin.distiller import Work
from ddoq_plugin.seeding import generator

from .engine.scored import NetworksConfig, mean_scores, runs
from .engine.wrapping import Wrapper, WrapperConfig, priced, unchanged

if TYPE_CHECKING:
    import torch

    from ddoq_plugin.distilled_set import DistilledSet
    from ddoq_plugin.distiller import DistillContext


class BiLPConfig(WrapperConfig, NetworksConfig):
    """Settings of BiLP.

    ratio: the share of each class that is dropped; choose it on validation, it is less the larger IPC is. score: what
    images are ranked by, ``loss_late`` (the authors' LossConverge), ``loss_early`` (LossInit), ``el2n``,
    ``forgetting``, or ``random``, the control. keep: the ``easy`` ones (low scores) or the ``hard``."""

    ratio: float = Field(0.5, ge=0, lt=1)
    score: Literal["loss_late", "loss_early", "el2n", "forgetting", "random"] = "loss_late"
    keep: Literal["easy", "hard"] = "easy"


class BiLP(Wrapper):
    """Drops a share of each class by a score and lets another method work on the rest; never below what IPC and K need.

    Scores come from networks trained on all training images, so there is less to distil, not less to label. The
    authors' dynamic level, of which there is no code, is left out."""

    name = "bilp"
    quick = {"inner": {"name": "random"}, "epochs": 1, "networks": 1}
    Config = BiLPConfig
    config: BiLPConfig

    def title(self) -> str:
        control, hard = self.config.score == "random", self.config.keep == "hard"
        return f"{self.name} random" if control else f"{self.name} hard" if hard else self.name

    def check(self, context: DistillContext, ipc: int, clusters: int | None) -> None:
        from ddoq_plugin.evaluation import check_student

        super().check(context, ipc, clusters)
        check_student(self.config.network)
        self.inner.check(self._some(context, ipc, clusters), ipc, clusters)

    def work(self, context: DistillContext, ipc: int, clusters: int | None, seed: int) -> Iterable[Work]:
        if self.config.score == "random":  # what is kept is known
            inner = context.restricted(self.kept(context, ipc, clusters, seed)).work_of(self.inner, ipc, clusters, seed)
            yield context.set_work(self, ipc, clusters, seed, needs=[inner], stage="quantise")
            return
        first, last = (
            self._some(context, ipc, clusters, end).work_of(self.inner, ipc, clusters, seed) for end in (False, True)
        )
        scores = [context.network_work(self.config.network, run, self.config.epochs) for run in self._runs(seed)]
        shared = unchanged([first], [last])
        rest = priced([first], without=shared)
        yield context.set_work(self, ipc, clusters, seed, needs=[*scores, *shared], effort=rest, stage=first.stage)

    def distill(self, context: DistillContext, ipc: int, *, clusters: int | None = None, seed: int = 0) -> DistilledSet:
        self.check(context, ipc, clusters)
        kept = self.kept(context, ipc, clusters, seed)
        made = context.restricted(kept).distilled(self.inner, ipc, clusters, seed)
        shares = [len(rows) / context.class_size(class_id) for class_id, rows in kept.items()]
        stats = {"kept_share": sum(shares) / len(shares)}
        return self.wrapped(context, made, ipc=ipc, clusters=clusters, seed=seed, stats=stats)

    def kept(self, context: DistillContext, ipc: int, clusters: int | None, seed: int) -> dict[int, torch.Tensor]:
        """Return the places of each class that are kept, in the order of the class."""
        import torch

        every, kept = None, {}
        if self.config.score != "random":
            every = mean_scores(context, self.config.score, self.config, seed)
        for class_id in range(context.num_classes):
            size = context.class_size(class_id)
            if every is None:
                scores = torch.rand(size, generator=generator("bilp", seed, class_id))
            else:
                scores = every[context.data.train.class_indices(class_id)]
            count = self._count(size, ipc, clusters)
            kept[class_id] = remaining(scores, count, large=self.config.keep == "easy")
        return kept

    def _count(self, size: int, ipc: int, clusters: int | None) -> int:
        return max(min(size, max(ipc, clusters or 0)), size - int(self.config.ratio * size))

    def _some(self, context: DistillContext, ipc: int, clusters: int | None, end: bool = False) -> DistillContext:
        """Return a context of as many images as will be kept, the first or the last ones."""
        sizes = {class_id: context.class_size(class_id) for class_id in range(context.num_classes)}
        counts = {class_id: self._count(size, ipc, clusters) for class_id, size in sizes.items()}
        rows = {
            class_id: range(sizes[class_id] - count, sizes[class_id]) if end else range(count)
            for class_id, count in counts.items()
        }
        return context.restricted(rows)

    def _runs(self, seed: int) -> list[int]:
        return runs(seed, self.config.networks)


def remaining(scores: torch.Tensor, count: int, *, large: bool) -> torch.Tensor:
    """Return the ``count`` places that are left, ascending, when those of the largest (or smallest) scores ``[N]`` are
    dropped first; among equal scores the first are dropped first, as in the authors' stable sort."""
    order = scores.argsort(stable=True, descending=large)
    return order[len(scores) - count :].sort().values
