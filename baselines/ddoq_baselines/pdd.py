"""PDD: a method in stages, each of which goes on from the images of those before (Chen et al., "Data Distillation Can
Be Like Vodka", arXiv 2310.06982; code VITA-Group/ProgressiveDD)."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ddoq_plugin.distiller import Distiller, Effort, Work, make_distiller
from ddoq_plugin.distiller.work import all_work
from ddoq_plugin.errors import DistillError
from ddoq_plugin.evaluation.dsa_strategy import STRATEGY
from ddoq_plugin.seeding import derive_seed, generator
from ddoq_plugin.yaml_files import Checked

from .engine.wrapping import Wrapper, WrapperConfig, added, priced

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ddoq_plugin.distilled_set import DistilledSet
    from ddoq_plugin.distiller import DistillContext

WEIGHTS = "network.safetensors"
Count = Annotated[int, Field(ge=1, le=100_000)]


class NetworkTraining(Checked):
    """How the networks between two stages are trained: ``count`` of them, on the images of the first stage, then on
    those of the first two, and so on, ``epochs`` each; SGD as in the authors' code, whose epochs are 60 to 1000. What
    asks for a fresh network takes one of them in turn; count and epochs are ours."""

    count: Count = 5
    epochs: Count = 100
    batch: Count = 256
    lr: float = Field(0.01, gt=0, le=1e3)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0, le=1)
    dsa: str = STRATEGY


class PDDConfig(WrapperConfig):
    """Settings of PDD. stages: P; each makes IPC / P images a class. networks: see NetworkTraining."""

    stages: Count = 5
    networks: NetworkTraining = NetworkTraining()


class PDD(Wrapper):
    """Images in P stages. A stage's images are learnt together with the earlier ones, which stay as they are, on
    networks that were trained on the earlier ones.

    The inner method's settings by IPC are those of the whole set. With one stage the set is the inner method's. The
    set tells its stages: a protocol with ``staged: true`` trains on them one after another."""

    name = "pdd"
    quick = {"inner": {"name": "dm", "iterations": 3, "batch": 8, "network": "convnet3_w32"}, "stages": 1}
    Config = PDDConfig
    config: PDDConfig

    def check(self, context: DistillContext, ipc: int, clusters: int | None) -> None:
        from ddoq_plugin.evaluation.dsa_strategy import strategy_operations

        super().check(context, ipc, clusters)
        stages = self.config.stages
        strategy_operations(self.config.networks.dsa)
        if not self.inner.conditions:
            raise DistillError(
                f"{self.inner.label()!r} cannot go on from images of an earlier stage; wrap a method that can, such as "
                "dm or mtt"
            )
        if ipc % stages:
            raise DistillError(f"{self.label()!r}: {ipc} images a class cannot be made in {stages} equal stages")
        if stages > 1 and context.given is not None:
            raise DistillError(f"{self.label()!r} is in the stages of another pdd already; give one of them one stage")
        for stage in range(stages):
            self._settled(ipc).check(context, (stage + 1) * ipc // stages, clusters)

    def work(self, context: DistillContext, ipc: int, clusters: int | None, seed: int) -> Iterable[Work]:
        stages, inner = self.config.stages, self._settled(ipc)
        if ipc % stages:  # check says so
            stages = 1
        sizes = [(stage + 1) * ipc // stages for stage in range(stages)]
        first, *later = (context.work_of(inner, size, clusters, seed) for size in sizes)
        effort = added([priced(later, without=all_work([first])), self._networks_effort(context, sizes[:-1])])
        yield context.set_work(self, ipc, clusters, seed, needs=[first], effort=effort, stage=first.stage)

    def distill(self, context: DistillContext, ipc: int, *, clusters: int | None = None, seed: int = 0) -> DistilledSet:
        import torch

        self.check(context, ipc, clusters)
        stages, inner = self.config.stages, self._settled(ipc)
        made = context.distilled(inner, ipc // stages, clusters, seed)
        earlier = [made]
        for stage in range(1, stages):
            made = self._conditioned(context, earlier).distilled(inner, (stage + 1) * ipc // stages, clusters, seed)
            earlier.append(made)
        fields: dict[str, Any] = {}
        if stages > 1:
            fields["stage"] = torch.arange(stages).repeat_interleave(ipc // stages).repeat(context.num_classes)
        return self.wrapped(context, made, ipc=ipc, clusters=clusters, seed=seed, **fields)

    def _settled(self, ipc: int) -> Distiller:
        """Return the inner method with its settings of the whole set; itself for one stage, so that they share sets."""
        if self.config.stages == 1:
            return self.inner
        settings = self.inner.config.at(ipc).model_dump(mode="json")
        return make_distiller(self.inner.name, settings)

    def _conditioned(self, context: DistillContext, earlier: list[DistilledSet]) -> DistillContext:
        """Return the context of the next stage: the last set is given, and networks are trained on all of them."""
        training = self.config.networks

        def network(name: str, *asked: int | str) -> nn.Module:
            place = derive_seed("pdd network", *asked) % training.count
            return self._trained(context, earlier, name, place)

        key = {"networks": training.model_dump(mode="json"), "sets": [one.hash for one in earlier]}
        return context.conditioned(earlier[-1], network, key)

    def _trained(self, context: DistillContext, earlier: list[DistilledSet], name: str, place: int) -> nn.Module:
        from ddoq_plugin.evaluation.evaluator import student_code
        from ddoq_plugin.store.tensor_files import read_tensors

        key = {"sets": [one.hash for one in earlier], "network": name, "place": place, "code": student_code(name)}
        key |= {"training": self.config.networks.model_dump(mode="json", exclude={"count"})}
        make = functools.partial(self._train, context, earlier, name, place)
        model = context.network(name, "pdd", place)
        model.load_state_dict(read_tensors(context.artifact("stage_networks", key, make) / WEIGHTS))
        return model

    def _train(self, context: DistillContext, earlier: list[DistilledSet], name: str, place: int, folder: Path) -> None:
        from ddoq_plugin.store.tensor_files import write_tensors

        model, training = context.network(name, "pdd", place), self.config.networks
        for stage, made in enumerate(earlier):
            train_on(context, model, made, training, generator("pdd network", place, stage))
        write_tensors(folder / WEIGHTS, {key: value.contiguous().cpu() for key, value in model.state_dict().items()})

    def _networks_effort(self, context: DistillContext, sizes: list[int]) -> Effort:
        """Return what the training of the networks takes, between stages that end with ``sizes`` images a class."""
        network, training = getattr(self.inner.config, "network", None), self.config.networks
        if network is None:
            return Effort()
        images = sum(sum(sizes[: last + 1]) for last in range(len(sizes))) * context.num_classes
        seen = training.count * training.epochs * images
        return Effort(seen, {network: 3.0 * seen})


def train_on(
    context: DistillContext, model: nn.Module, made: DistilledSet, training: NetworkTraining, draws: torch.Generator
) -> None:
    """Train a model in place on a set's images and labels, with differentiable augmentation."""
    import torch
    from torch.nn import functional as F

    from ddoq_plugin.data.transforms import decode_mosaic
    from ddoq_plugin.evaluation.dsa import augment, draw

    device, size = context.device, context.data.image_size
    images, labels = made.images.float() / 255 if made.floats is None else made.floats, made.labels.to(device)
    if made.mosaic > 1:
        images, labels = decode_mosaic(images, made.mosaic), labels.repeat(made.mosaic**2)
    images = images.to(device)
    images = context.normaliser(images) if made.preprocessing.kind == "none" else images
    options: dict[str, Any] = {"momentum": training.momentum, "weight_decay": training.weight_decay}
    optimiser = torch.optim.SGD(model.parameters(), lr=training.lr, **options)
    model.train()
    for _ in range(training.epochs):
        for rows in torch.randperm(len(images), generator=draws).split(training.batch):
            batch = images[rows.to(device)]
            if training.dsa:
                batch = augment(batch, draw(training.dsa, len(batch), size, draws))
            loss = F.cross_entropy(model(batch.contiguous(memory_format=torch.channels_last)), labels[rows.to(device)])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
