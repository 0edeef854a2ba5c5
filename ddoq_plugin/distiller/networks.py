"""The doors of networks: fresh students, features and scores of training images, real batches."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from ..errors import DistillError, nearest
from ..evaluation.dynamics import KINDS, training_scores
from ..evaluation.evaluator import student_code
from ..evaluation.features import features_of
from ..evaluation.inputs import Normaliser
from ..evaluation.students.build import build_student
from ..seeding import derive_seed
from ..store.code import code_hash
from ..store.tensor_files import read_tensors, write_tensors
from .latents import LatentDoors
from .work import Effort, Work

if TYPE_CHECKING:
    from ..distilled_set import DistilledSet

Networks = Callable[..., nn.Module]
Sampler = Callable[[int, int, torch.Generator], tuple[torch.Tensor, torch.Tensor]]

NETWORK, SCORES, FEATURES = "network.safetensors", "scores.safetensors", "features.safetensors"
EPOCHS = 20  # of the training whose network and scores are kept; our choice
SCORER = "convnet3_w32"
DEVICE_BYTES = 1 << 30  # of a class's images, kept on the device up to this size


@dataclass(frozen=True)
class RealBatch:
    """Real images of one class: float32 ``[n, 3, S, S]`` in [0, 1] on the device, weights ``[n]`` of mean 1 under a
    uniform sampler, and their places ``[n]`` in the class."""

    images: torch.Tensor
    weights: torch.Tensor
    rows: torch.Tensor


class NetworkDoors(LatentDoors):
    """Networks for methods that learn from them, beside the doors of the diffusion pipeline."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._on_device: dict[int, torch.Tensor] = {}
        self._sampler: Sampler | None = None
        self._first_sampler: Sampler | None = None
        self._networks: Networks | None = None
        self.given: DistilledSet | None = None

    def network(self, name: str, *seed: int | str) -> nn.Module:
        """Return a fresh student in train mode on the device, its weights drawn from ``seed`` by name.

        Any name that a sweep takes; the global generators stay as they were. Not stored: building it is cheap. In a
        context that goes on from a set (:meth:`conditioned`) the student is one that was trained on the set."""
        return self._fresh(name, *seed) if self._networks is None else self._networks(name, *seed)

    def _fresh(self, name: str, *seed: int | str) -> nn.Module:
        made = build_student(name, self.num_classes, self.data.image_size, seed=derive_seed("network", *seed))
        return made.to(self.device).train()

    @property
    def normaliser(self) -> Normaliser:
        """What maps images in [0, 1] to a student's input: measured on the training images, differentiable."""
        return Normaliser.measured(self.data.train)

    def network_work(self, student: str = SCORER, seed: int = 0, epochs: int = EPOCHS) -> Work:
        """Declare a student trained on all training images, with the scores of each; one training for all who ask."""
        count = len(self.data.train)
        code = [student_code(student), code_hash("ddoq_plugin.evaluation.dynamics"), code_hash(__name__)]
        key = {"data": self.data.fingerprint, "student": student, "seed": seed, "epochs": epochs, "code": code}
        make = functools.partial(self._train, student, seed, epochs)
        effort = Effort(count * epochs, {student: 4.0 * count * epochs})  # three for training, one for scoring
        return Work("networks", key, make, title=f"train {student} for its scores", stage="train", effort=effort)

    def trained(self, student: str = SCORER, seed: int = 0, epochs: int = EPOCHS) -> nn.Module:
        """Return a student trained on all training images, in eval mode on the device; at most one training."""
        model = build_student(student, self.num_classes, self.data.image_size, seed=0)
        model.load_state_dict(read_tensors(self.do(self.network_work(student, seed, epochs)) / NETWORK))
        return model.to(self.device).eval()

    def scores(self, kind: str, seed: int = 0, student: str = SCORER, epochs: int = EPOCHS) -> torch.Tensor:
        """Return a number for each training image, float32 ``[N]`` in the order of ``data.train``.

        ``kind``: loss_early, loss_late, forgetting or el2n (:func:`ddoq_plugin.evaluation.dynamics.training_scores`).
        All kinds come from one training. Raises DistillError for another kind."""
        if kind not in KINDS:
            raise DistillError(f"there is no score {kind!r}{nearest(kind, KINDS)}; use one of {', '.join(KINDS)}")
        return read_tensors(self.do(self.network_work(student, seed, epochs)) / SCORES)[kind]

    def _train(self, student: str, seed: int, epochs: int, folder: Path) -> None:
        model = self._fresh(student, "scores", seed)
        scores = training_scores(model, self.data.train, self.normaliser, epochs=epochs, seed=seed, device=self.device)
        weights = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
        write_tensors(folder / NETWORK, weights)
        write_tensors(folder / SCORES, scores)

    def features(self, class_id: int, extractor: str, seed: int = 0) -> torch.Tensor:
        """Return features of a class, float32 ``[N, d]``: ``pixels``, ``latents``, or a student's penultimate layer,
        ``random:STUDENT`` with fresh weights or ``trained:STUDENT``; those of networks are stored.

        Raises DistillError for another extractor."""
        if extractor == "pixels":
            return self.images(class_id).flatten(1).float() / 255
        if extractor == "latents":
            return self.latents(class_id).flatten(1)
        return read_tensors(self.do(self.features_work(class_id, extractor, seed)[0]) / FEATURES)["features"]

    def features_work(self, class_id: int, extractor: str, seed: int = 0) -> tuple[Work, ...]:
        """Declare the features of a class; pixels have none, latents are their own work."""
        kind, _, student = extractor.partition(":")
        if extractor == "pixels":
            return ()
        if extractor == "latents":
            return self.encode_work(class_id)
        if kind not in ("random", "trained") or not student:
            raise DistillError(
                f"there is no extractor {extractor!r}; use pixels, latents, random:STUDENT or trained:STUDENT"
            )
        count = self.class_size(class_id)
        key = {"data": self.data.fingerprint, "class": class_id, "extractor": extractor, "seed": seed}
        key["code"] = [student_code(student), code_hash("ddoq_plugin.evaluation.features"), code_hash(__name__)]
        make = functools.partial(self._extract, class_id, kind, student, seed)
        needs = (self.network_work(student, seed),) if kind == "trained" else ()
        title, effort = f"features of class {self.class_names[class_id]!r}", Effort(count, {student: float(count)})
        return (Work("features", key, make, needs, title, "encode", effort=effort),)

    def _extract(self, class_id: int, kind: str, student: str, seed: int, folder: Path) -> None:
        trained = kind == "trained"
        model = self.trained(student, seed) if trained else self._fresh(student, "features", seed).eval()
        images = self.images(class_id).split(256)
        with torch.no_grad():
            parts = [features_of(model, self.normaliser(part.to(self.device))) for part in images]
        write_tensors(folder / FEATURES, {"features": torch.cat(parts).float().cpu()})

    def real_batch(self, class_id: int, size: int, generator: torch.Generator) -> RealBatch:
        """Return real images of a class drawn by the context's sampler: uniform and without repetition as far as the
        class reaches, unless :meth:`with_sampler` gave another."""
        return self._batch(self._sampler or self.uniform, class_id, size, generator)

    def first_batch(self, class_id: int, size: int, generator: torch.Generator) -> RealBatch:
        """Return real images of a class for an optimisation to begin with, as :meth:`real_batch` does."""
        return self._batch(self._first_sampler or self._sampler or self.uniform, class_id, size, generator)

    def _batch(self, sampler: Sampler, class_id: int, size: int, generator: torch.Generator) -> RealBatch:
        rows, weights = sampler(class_id, size, generator)
        if class_id not in self._on_device:
            images = self.images(class_id)
            kept = sum(one.numel() for one in self._on_device.values())
            if kept + images.numel() > DEVICE_BYTES:
                return RealBatch(images[rows].to(self.device).float() / 255, weights.to(self.device), rows)
            self._on_device[class_id] = images.to(self.device)
        images = self._on_device[class_id][rows.to(self.device)].float() / 255
        return RealBatch(images, weights.to(self.device, torch.float32), rows)

    def with_sampler(self, sampler: Sampler, key: Any, *, first: Sampler | None = None) -> Self:
        """Return this context with another source of real batches; ``key`` (plain data) tells it from others in keys.

        ``first`` is the source of the images that an optimisation begins with, where that differs.
        ``sampler(class_id, size, generator)`` gives places in the class, int64 ``[size]``, and weights, float32
        ``[size]``, such as 1 / (N p) for draws of probability p."""
        other = copy.copy(self)
        other._sampler, other._first_sampler = sampler, first
        other._identity = {**(self._identity or {}), "sampler": key}
        return other

    def conditioned(self, given: DistilledSet, networks: Networks, key: Any) -> Self:
        """Return this context for methods that go on from the images of ``given`` (``Distiller.conditions``).

        ``networks(name, *seed)`` takes the place of fresh students; ``key`` (plain data) says what both are made of."""
        other = copy.copy(self)
        other.given, other._networks = given, networks
        other._identity = {**(self._identity or {}), "given": [given.hash, key]}
        return other

    def uniform(self, class_id: int, size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """The sampler where no other is given: without repetition as far as the class reaches, equal weights."""
        count, drawn = self.class_size(class_id), torch.empty(0, dtype=torch.int64)
        while len(drawn) < size:
            drawn = torch.cat([drawn, torch.randperm(count, generator=generator)])
        return drawn[:size], torch.ones(size)
