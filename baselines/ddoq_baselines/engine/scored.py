"""What selections share that go by a number of every image (``context.scores``)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ddoq_plugin.distiller import DistillerConfig, Work

from .selection import Selection

if TYPE_CHECKING:
    import torch

    from ddoq_plugin.distiller import DistillContext

    from .selection import Choice

NETWORK = "convnet3_w32"


class NetworksConfig(DistillerConfig):
    """Settings of the trainings that scores come from. network, epochs: of each. networks: how many are trained; their
    scores are averaged, and the seed decides which they are."""

    network: str = NETWORK
    epochs: int = Field(20, ge=1, le=10_000)
    networks: int = Field(3, ge=1, le=100)


class ScoredConfig(NetworksConfig):
    """Settings of a selection by scores. pick: the ``easiest`` images of each class (lowest scores) or the
    ``hardest``."""

    pick: Literal["easiest", "hardest"] = "easiest"


class Scored(Selection):
    """The images of each class with the lowest or highest scores; equal ones in the order of the class."""

    kind: ClassVar[str] = ""
    quick = {"epochs": 1, "networks": 1}
    Config = ScoredConfig
    config: ScoredConfig

    def label(self) -> str:
        return f"{self.name} {self.config.pick}"

    def check(self, context: DistillContext, ipc: int, clusters: int | None) -> None:
        from ddoq_plugin.evaluation import check_student

        super().check(context, ipc, clusters)
        check_student(self.config.network)

    def needs(self, context: DistillContext, ipc: int, clusters: int | None, seed: int) -> Iterable[Work]:
        for run in runs(seed, self.config.networks):
            yield context.network_work(self.config.network, run, self.config.epochs)

    def choose(self, context: DistillContext, class_id: int, ipc: int, clusters: int | None, seed: int) -> Choice:
        every = mean_scores(context, self.kind, self.config, seed)
        own = every[context.data.train.class_indices(class_id)]
        return own.argsort(stable=True, descending=self.config.pick == "hardest")[:ipc], None


def runs(seed: int, networks: int) -> list[int]:
    """Return the seeds of the networks of one seed."""
    return [seed * networks + number for number in range(networks)]


def mean_scores(context: DistillContext, kind: str, config: NetworksConfig, seed: int) -> torch.Tensor:
    """Return the mean scores of all training images, float64 ``[N]``, over the networks of a seed."""
    import torch

    found = [context.scores(kind, run, config.network, config.epochs) for run in runs(seed, config.networks)]
    return torch.stack(found).double().mean(0)
