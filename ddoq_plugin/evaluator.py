"""Evaluator: students on one dataset under one protocol, with the teacher and the soft labels it needs.

Teachers and stored soft labels are artifacts of the store: made once, shared by students, weightings and runs.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigError
from .registry import source_hash
from .seeding import derive_seed
from .store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from .config import TeacherConfig
    from .data import ImageData
    from .distilled_set import DistilledSet
    from .evaluation import Protocol, SoftLabelBank, Teacher, TrainingSet


class Evaluator:
    """Trains and scores students.

    ``students`` are those that share the stored soft labels: the labels are made for the longest training among them.
    Raises ConfigError where the protocol needs a teacher and none is given.
    """

    def __init__(
        self,
        data: ImageData,
        protocol: Protocol,
        store: Store,
        *,
        students: Sequence[str],
        teacher: TeacherConfig | None = None,
        device: str = "cpu",
        progress: bool = False,
    ) -> None:
        if protocol.needs_teacher and teacher is None:
            raise ConfigError(
                f"the protocol {protocol.name!r} trains on a teacher's labels; name one (teacher: {{student: ...}})"
            )
        self.data, self.protocol, self.store, self.students = data, protocol, store, list(students)
        self.teacher_config, self.device, self.progress = teacher, device, progress

    @functools.cached_property
    def teacher_key(self) -> dict[str, Any] | None:
        """What the teacher depends on."""
        from .evaluation import load_protocol

        if self.teacher_config is None:
            return None
        return {
            "student": self.teacher_config.student,
            "protocol": load_protocol(self.teacher_config.protocol).model_dump(mode="json"),
            "seed": self.teacher_config.seed,
            "data": self.data.fingerprint,
            "code": source_hash("ddoq_plugin.evaluation"),
        }

    @functools.cached_property
    def key(self) -> dict[str, Any]:
        """What every trained student depends on beside its set."""
        return {
            "protocol": self.protocol.model_dump(mode="json"),
            "teacher": self.teacher_key,
            "data": self.data.fingerprint,
            "code": source_hash("ddoq_plugin.evaluation"),
        }

    @functools.cached_property
    def teacher(self) -> Teacher | None:
        """The teacher, trained first if it is not in the store."""
        from .evaluation import Teacher, load_protocol, train_teacher

        config = self.teacher_config
        if config is None:
            return None

        def make(folder: Path) -> None:
            protocol = load_protocol(config.protocol)
            seed = derive_seed("teacher", config.seed)
            made = train_teacher(
                self.data, config.student, protocol, seed, device=self.device, progress=self.progress
            )
            made.save(folder)

        teacher = Teacher.load(self.store.get("teachers", self.teacher_key, make), device=self.device)
        teacher.check_classes(self.data.class_names)
        return teacher

    def evaluate(self, made: DistilledSet, student: str, seed: int) -> dict[str, Any]:
        """Train one student on a set and return the result's columns (accuracies in percent, times in seconds)."""
        return self._train(self._training_set(made), made.image_hash, student, seed, self.protocol)

    def evaluate_full_data(self, student: str, seed: int, *, twice: bool = False) -> dict[str, Any]:
        """Train one student on the whole training split: the ceiling.

        ``twice`` takes twice the protocol's steps and scores on validation alone: it checks the protocol's convergence.
        """
        from .evaluation import TrainingSet

        protocol = self.protocol.lengthened(2) if twice else self.protocol
        training = TrainingSet.from_split(self.data.train)
        return self._train(training, f"train split {self.data.fingerprint}", student, seed, protocol, test=not twice)

    def soft_labels(self, made: DistilledSet, seed: int) -> None:
        """Make and store the soft labels of a set for this seed, so that no student waits for them."""
        self._bank(self._training_set(made), made.image_hash, seed, self.protocol)

    def _training_set(self, made: DistilledSet) -> TrainingSet:
        from .data.transforms import resize_images
        from .evaluation import TrainingSet

        images = resize_images(made.images, self.data.image_size)
        return TrainingSet(images, made.labels, made.weights, made.logits)

    def _train(
        self, training: TrainingSet, name: str, student: str, seed: int, protocol: Protocol, *, test: bool = True
    ) -> dict[str, Any]:
        from .evaluation import train_student

        started = time.perf_counter()
        bank = self._bank(training, name, seed, protocol) if protocol.label_mode == "soft_stored" else None
        labelled = time.perf_counter()
        result = train_student(
            training,
            student,
            protocol,
            self.data,
            seed=derive_seed("student", seed),
            teacher=self.teacher if protocol.label_mode == "soft_online" else None,
            bank=bank,
            device=self.device,
            split="test" if test else "val",
            progress=self.progress,
        )
        columns = {"top1": result.top1, "top5": result.top5, "val_top1": self._validate(result.model, student)}
        if not test:
            columns = {"val_top1": result.top1}
        return columns | {
            "steps": result.steps,
            "seconds_label": labelled - started,
            "seconds_train": result.seconds,
            "images_per_second": result.train_images_per_second,
            "peak_memory_mb": result.peak_memory_bytes / 2**20,
            "device": self.device,
        }

    def _validate(self, model: nn.Module, student: str) -> float:
        """Return top-1 on validation, for whoever compares settings."""
        from .evaluation import score
        from .evaluation.inputs import Normaliser
        from .evaluation.students import channels_last

        protocol = self.protocol
        return score(
            model,
            self.data.val,
            normaliser=Normaliser.named(protocol.normalisation, self.data),
            image_size=protocol.image_size or self.data.image_size,
            scoring=protocol.scoring,
            execution=protocol.execution,
            last=channels_last(student),
            device=self.device,
        ).top1

    def _bank(self, training: TrainingSet, name: str, seed: int, protocol: Protocol) -> SoftLabelBank:
        """Return the stored soft labels; their key knows images and augmentation, not weights or students."""
        from .evaluation import SoftLabelBank, bank_key, bank_steps, make_bank

        count, classes = len(training), self.data.num_classes
        steps = bank_steps(protocol, self.students, count, classes)
        stream = derive_seed("soft labels", seed)
        key = bank_key(
            name, self.teacher.fingerprint, protocol, num_images=count, num_classes=classes, steps=steps, seed=stream
        )
        folder = self.store.get(
            "soft_labels",
            key | {"code": source_hash("ddoq_plugin.evaluation")},
            lambda work: make_bank(
                training.images, self.teacher, protocol, steps=steps, seed=stream, folder=work, progress=self.progress
            ),
        )
        return SoftLabelBank.load(folder)
