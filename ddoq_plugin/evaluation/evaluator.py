"""Evaluator: students on one dataset under one protocol, with the teacher and the soft labels it needs.

Teachers, stored soft labels and the decoded images that students are scored on are artifacts of the store: made once,
shared by students, weightings and runs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..record import cost_columns
from ..registry import STUDENTS
from ..seeding import derive_seed
from ..store.artifacts import Store, cost_of, hash_file
from ..store.code import code_hash
from ..store.metering import Cost, measure
from . import load_protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from ..config import TeacherConfig
    from ..data import ImageData
    from ..distilled_set import DistilledSet
    from . import Protocol, SoftLabelBank, Teacher, TrainingSet


TRAINING = ("ddoq_plugin.evaluation.evaluator", "ddoq_plugin.data.transforms")
"""The modules whose code, with what they import, trains and scores a student."""


class Evaluator:
    """Trains and scores students.

    ``students`` are those that share the stored soft labels: the labels are made for the longest training among them.
    Raises ConfigError where the protocol needs a teacher and none is given."""

    def __init__(
        self,
        data: ImageData,
        protocol: Protocol,
        store: Store,
        *,
        students: Sequence[str],
        teacher: TeacherConfig | None = None,
        device: str = "cpu",
        plugins: Sequence[str] = (),
        progress: bool = False,
    ) -> None:
        if protocol.needs_teacher and teacher is None:
            raise ConfigError(
                f"the protocol {protocol.name!r} trains on a teacher's labels; name one (teacher: {{student: ...}})"
            )
        from .eval_cache import with_cached_scoring

        self.data, self.protocol, self.store = with_cached_scoring(data, store), protocol, store
        self.students = list(students)
        self.teacher_config = teacher if protocol.needs_teacher else None
        self.device, self.plugins, self.progress = device, list(plugins), progress

    @functools.cached_property
    def teacher_key(self) -> dict[str, Any] | None:
        """What the teacher depends on."""
        teacher = self.teacher_config
        if teacher is None:
            return None
        if teacher.weights is None:
            return trained_teacher_key(self.data, teacher.student, load_protocol(teacher.protocol), teacher.seed)
        seen = {"image_size": self.protocol.image_size, "resize": self.protocol.scoring.resize}
        return _teacher_key(self.data, teacher.student) | {"weights": hash_file(self._weights()), **seen}

    @functools.cached_property
    def key(self) -> dict[str, Any]:
        """What every trained student depends on beside its set."""
        return {"protocol": protocol_numbers(self.protocol), "teacher": self.teacher_key, **self._shared_key}

    @property
    def _shared_key(self) -> dict[str, Any]:
        return {"data": self.data.fingerprint, "code": code_hash(*TRAINING), "plugins": self.plugins}

    def check(self) -> None:
        """Raise the error of a student, teacher or protocol that cannot work, before anything is trained."""
        from . import build_student, load_protocol
        from .teachers import read_weights

        size = self.protocol.image_size or self.data.image_size
        for student in self.students:
            build_student(student, self.data.num_classes, size, seed=0)
        if self.teacher_config is not None:
            config, count = self.teacher_config, self.data.num_classes
            network = build_student(config.student, count, size, seed=0)
            if config.weights is not None:
                read_weights(self._weights(), network, f"{config.student!r} with {count} classes")
            else:
                teaching = load_protocol(config.protocol)
                if teaching.label_mode != "hard":
                    raise ConfigError(
                        f"the teacher's protocol {teaching.name!r} has label_mode {teaching.label_mode!r}; name one "
                        "with label_mode hard, since a teacher learns from class labels"
                    )
                own = teaching.image_size or self.data.image_size
                if own != size:
                    raise ConfigError(
                        f"the teacher would be trained at {own} px (protocol {teaching.name!r}) and the "
                        f"students at {size} px ({self.protocol.name!r}); give both protocols one image_size"
                    )
        _ = self.key

    def _weights(self) -> Path:
        path = Path(self.teacher_config.weights).expanduser()
        if not path.is_file():
            raise ConfigError(f"there is no file of teacher weights {path}; give a state dict (.pt or .safetensors)")
        return path

    @functools.cached_property
    def teacher(self) -> Teacher | None:
        """The teacher, trained first if it is not in the store."""
        from . import Teacher, load_protocol, pretrained_teacher, train_teacher

        config = self.teacher_config
        if config is None:
            return None

        def make(folder: Path) -> None:
            if config.weights is not None:
                size, scoring = self.protocol.image_size, self.protocol.scoring
                made = pretrained_teacher(
                    config.student, self._weights(), self.data, image_size=size, scoring=scoring, device=self.device
                )
                made.save(folder)
                return
            protocol = load_protocol(config.protocol)
            seed = derive_seed("teacher", config.seed)
            made = train_teacher(self.data, config.student, protocol, seed, device=self.device, progress=self.progress)
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
        from . import TrainingSet

        protocol = self.protocol.for_full_data()
        protocol = protocol.lengthened(2) if twice else protocol
        training = TrainingSet.from_split(self.data.train)
        return self._train(training, f"train split {self.data.fingerprint}", student, seed, protocol, test=not twice)

    def soft_labels(self, made: DistilledSet, seed: int) -> None:
        """Make and store the soft labels of a set for this seed, so that no student waits for them."""
        self._bank(self._training_set(made), made.image_hash, seed, self.protocol)

    def _training_set(self, made: DistilledSet) -> TrainingSet:
        from . import TrainingSet

        return TrainingSet.from_set(made, self.protocol, self.data.image_size)

    def _train(
        self, training: TrainingSet, name: str, student: str, seed: int, protocol: Protocol, *, test: bool = True
    ) -> dict[str, Any]:
        from . import train_student

        bank, label_cost = None, None
        if protocol.label_mode == "soft_stored":
            bank, label_cost = self._bank(training, name, seed, protocol)
        with measure(self.device) as meter:
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
        columns: dict[str, Any]
        if test:
            columns = {
                "top1": result.top1,
                "top5": result.top5,
                "val_top1": self._validate(result.model, student, training),
            }
        else:
            columns = {"val_top1": result.top1}
        train = cost_columns("train", Cost.of(meter)) | {"images_per_second_train": result.train_images_per_second}
        columns |= {"steps": result.steps} | result.running.columns()
        return columns | cost_columns("label", label_cost) | train

    def _validate(self, model: nn.Module, student: str, training: TrainingSet) -> float:
        """Return top-1 on validation, for whoever compares settings."""
        from . import score
        from .runtime import resolve

        protocol = self.protocol
        return score(
            model,
            self.data.val,
            normaliser=training.normaliser(protocol, self.data, self.device),
            image_size=protocol.image_size or self.data.image_size,
            scoring=protocol.scoring,
            running=resolve(protocol.execution, student, self.device),
            device=self.device,
        ).top1

    def _bank(self, training: TrainingSet, name: str, seed: int, protocol: Protocol) -> tuple[SoftLabelBank, Cost]:
        """Return the stored soft labels and what they cost; their key knows no weights and no students."""
        from . import SoftLabelBank, bank_key, bank_steps, make_bank

        count, classes = len(training), self.data.num_classes
        steps = bank_steps(protocol, self.students, count, classes)
        stream = derive_seed("soft labels", seed)
        key = bank_key(
            name, self.teacher.fingerprint, protocol, num_images=count, num_classes=classes, steps=steps, seed=stream
        )

        def make(work: Path) -> Cost:
            teacher, images, space = self.teacher, training.images, training.preprocessing
            how: dict[str, Any] = {"steps": steps, "seed": stream, "folder": work, "progress": self.progress}
            with measure(self.device) as meter:
                make_bank(images, teacher, protocol, preprocessing=space, **how)
            return Cost.of(meter, steps * protocol.numbers("", count, classes).batch_size)

        folder = self.store.get("soft_labels", key | {"code": code_hash("ddoq_plugin.evaluation.soft_labels")}, make)
        return SoftLabelBank.load(folder), cost_of(folder)


def student_code(name: str) -> str:
    """Return a hash of the sources that define a student, for keys."""
    # those of timm or torchvision have none: their version is in the row
    return code_hash(STUDENTS.module(name)) if name in STUDENTS else name


def trained_teacher_key(data: ImageData, student: str, protocol: Protocol, seed: int) -> dict[str, Any]:
    """Return the one key of a student trained on the training split as a teacher, whoever asks for it."""
    numbers = protocol_numbers(protocol)
    del numbers["name"]  # the same numbers under another name train the same teacher
    return _teacher_key(data, student) | {"protocol": numbers, "seed": seed}


def _teacher_key(data: ImageData, student: str) -> dict[str, Any]:
    code = [student_code(student), code_hash(*TRAINING)]
    return {"data": data.fingerprint, "student": student, "code": code}


def protocol_numbers(protocol: Protocol) -> dict[str, Any]:
    """Return what a protocol does, without the prose on where it comes from, for keys."""
    return protocol.model_dump(mode="json", exclude={"source", "ours"})
