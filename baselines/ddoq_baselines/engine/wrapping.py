"""What methods share that wrap another: its flags, its checks, its price, and the set that it gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from ddoq_plugin.config import name_only
from ddoq_plugin.distiller import Distiller, DistillerConfig, Effort, Work, make_distiller
from ddoq_plugin.distiller.work import all_work
from ddoq_plugin.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from ddoq_plugin.distilled_set import DistilledSet
    from ddoq_plugin.distiller import DistillContext

SET_FIELDS = ("targets", "target_kind", "preprocessing", "learning_rate", "stage", "mosaic")


class WrapperConfig(DistillerConfig):
    """Settings of every wrapper. inner: the method that is wrapped, by name, or with its settings as in a line of a
    config: ``{name: dm, lr: 0.3}``."""

    inner: Annotated[dict[str, Any], BeforeValidator(name_only)] = {"name": "random"}


class Wrapper(Distiller):
    """A method around another. It needs and makes what the wrapped one needs and makes."""

    Config = WrapperConfig
    config: WrapperConfig

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        given = dict(self.config.inner)
        name = given.pop("name", None)
        if not isinstance(name, str):
            raise ConfigError(f"{self.name}: inner is a method's name, or a mapping with its name: and settings")
        self.inner = make_distiller(name, given)
        whole = {"name": name, **self.inner.config.model_dump(mode="json")}  # rows tell every setting
        self.config = self.config.model_copy(update={"inner": whole})
        for flag in ("makes_images", "needs_prior", "uses_clusters", "uses_weights", "uses_sampler", "conditions"):
            setattr(self, flag, getattr(self.inner, flag))

    def parts(self) -> tuple[Distiller, ...]:
        return (self.inner,)

    def label(self) -> str:
        return f"{self.title()}({self.inner.label()})"

    def title(self) -> str:
        """Return the wrapper's own name with what matters of its settings."""
        return self.name

    def check(self, context: DistillContext, ipc: int, clusters: int | None) -> None:
        super().check(context, ipc, clusters)
        self.inner.check(context, ipc, clusters)

    def wrapped(
        self,
        context: DistillContext,
        made: DistilledSet,
        *,
        ipc: int,
        clusters: int | None,
        seed: int,
        rows: torch.Tensor | None = None,
        stats: dict[str, Any] | None = None,
        **fields: Any,
    ) -> DistilledSet:
        """Return the inner method's set as this method's: all of it, or the images at ``rows``, with the statistics of
        both and the inner set's provenance."""

        def kept(value: Any) -> Any:
            return value if rows is None or not hasattr(value, "shape") else value[rows]

        images = made.images if made.floats is None else made.floats
        own = {name: kept(getattr(made, name)) for name in SET_FIELDS if name != "preprocessing"}
        own["preprocessing"] = made.preprocessing
        weights = kept(made.weights)
        if rows is not None:  # of mean 1 a class again
            sums = weights.new_zeros(context.num_classes).index_add_(0, kept(made.labels), weights)
            weights = weights * ipc / sums[kept(made.labels)]
        if self.uses_weights:
            own["weights"] = weights
        stats = {**made.provenance.get("stats", {}), **(stats or {})}
        asked: dict[str, Any] = {"ipc": ipc, "clusters": clusters, "seed": seed, "stats": stats}
        finished = context.finish(self, kept(images), kept(made.labels), **asked, **{**own, **fields})
        return dataclasses.replace(finished, provenance={**finished.provenance, "inner": dict(made.provenance)})


def priced(works: Iterable[Work], without: Iterable[Work] = ()) -> Effort:
    """Return the effort of all of some work in one piece: of what is known by its size alone before it is begun.

    ``without``: work that is declared as itself."""
    known = {work.address for work in without}
    left = [work for work in all_work(works) if work.address not in known]
    batches = {work.batch.key: work.batch.operations for work in left if work.batch is not None}
    return added([*(work.effort for work in left), *(Effort(operations=own) for own in batches.values())])


def added(efforts: Iterable[Effort]) -> Effort:
    """Return the effort of several pieces that are done one after another."""
    efforts = list(efforts)
    operations: dict[str, float] = {}
    passes: dict[str, float] = {}
    for effort in efforts:
        for total, own in ((operations, effort.operations), (passes, effort.passes)):
            for name, count in own.items():
                total[name] = total.get(name, 0) + count
    return Effort(
        sum(effort.images for effort in efforts),
        passes,
        operations,
        sum(effort.bytes for effort in efforts),
        max((effort.memory for effort in efforts), default=0),
        next((effort.side for effort in efforts if effort.side is not None), None),
        max((effort.kept for effort in efforts), default=0),
    )


def unchanged(first: Iterable[Work], second: Iterable[Work]) -> list[Work]:
    """Return the work that both declare: what does not depend on what differs between them."""
    known = {work.address for work in all_work(second)}
    return [work for work in all_work(first) if work.address in known]
