"""Train one student on one set under one protocol, and score it.

The set lives on the device as tensors; a step is gather, cut, mix, forward, backward, update, without a data loader."""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..data.base import ImageData
from ..errors import EvaluationError
from ..progress import bar
from ..seeding import derive_seed
from .batches import PAGE_STEPS, BatchPlan
from .inputs import Inputs, PageBatches, source_size
from .losses import Targets, batch_losses
from .optimisers import make_optimizer, set_learning_rate
from .protocol import Protocol, TrainingNumbers
from .runtime import Runtime, arranged, called, forward, keep_freed_memory, resolve
from .schedules import learning_rates
from .scoring import score
from .soft_labels import SoftLabelBank
from .students.build import build_student
from .teacher import Teacher
from .training_set import TrainingSet


@dataclass(frozen=True)
class StudentResult:
    """A trained student.

    top1, top5: accuracy in percent (0 to 100) on the chosen split. seconds: building, training and scoring. steps:
    gradient steps. train_images_per_second: of the training alone. running: the number format, memory format and
    compilation that were used. model: the student, in eval mode."""

    top1: float
    top5: float
    seconds: float
    steps: int
    train_images_per_second: float
    running: Runtime
    model: nn.Module


def train_student(
    train: TrainingSet,
    student: str,
    protocol: Protocol,
    data: ImageData,
    *,
    seed: int,
    teacher: Teacher | None = None,
    bank: SoftLabelBank | None = None,
    device: str | torch.device = "cpu",
    split: str = "test",
    progress: bool = False,
) -> StudentResult:
    """Train ``student`` on ``train`` and score it on ``split`` of ``data``.

    The same seed gives the same bits on the same machine with the same number of threads. ``teacher`` is needed by the
    label mode ``soft_online``, ``bank`` by ``soft_stored`` (the bank's plan replaces the seed's).

    Raises:
        EvaluationError: teacher, bank, targets, learning rate or stages that the protocol needs are missing or do
            not fit; labels outside the dataset's classes; the loss is not finite.
        UnknownNameError: no such student.
    """
    started, device = time.perf_counter(), torch.device(device)
    image_size = protocol.image_size or data.image_size
    _check(train, student, protocol, data, teacher, bank, image_size)
    normaliser = train.normaliser(protocol, data, device)
    running = resolve(protocol.execution, student, device)
    model = build_student(student, data.num_classes, image_size, seed=derive_seed("student", seed)).to(device)
    arranged(model, running)
    zoom = protocol.scoring.zoom(image_size)
    parts = train.unions() if protocol.staged else [train]
    all_numbers = [_numbers(part, student, protocol, data.num_classes, len(parts)) for part in parts]
    training_seconds, optimizer = 0.0, make_optimizer(model, protocol.optimizer, all_numbers[0])
    for stage, (part, numbers) in enumerate(zip(parts, all_numbers, strict=True)):
        source = bank or BatchPlan(
            num_images=len(part),
            batch_size=numbers.batch_size,
            source_size=source_size(part.images.shape[-1], protocol.augmentation, image_size, zoom),
            image_size=image_size,
            augmentation=protocol.augmentation,
            mixing=protocol.mixing,
            seed=derive_seed("batches", seed, *([stage] if stage else [])),
        )
        inputs = Inputs(part.images, normaliser, protocol.augmentation, protocol.mixing, image_size, zoom, device)
        with _numerics(device, derive_seed("dropout", seed, *([stage] if stage else []))):
            targets = _targets(part, protocol, device)
            run = _Run(model, optimizer, inputs, source, protocol, numbers, teacher, targets, running, student)
            training_seconds += run.train(progress)
    with _numerics(device, derive_seed("dropout", seed)):
        scores = score(
            model,
            data.split(split),
            normaliser=normaliser,
            image_size=image_size,
            scoring=protocol.scoring,
            running=running,
            device=device,
        )
    return StudentResult(
        top1=scores.top1,
        top5=scores.top5,
        seconds=time.perf_counter() - started,
        steps=sum(numbers.steps for numbers in all_numbers),
        train_images_per_second=sum(n.steps * n.batch_size for n in all_numbers) / training_seconds,
        running=running,
        model=model.eval(),
    )


class _Run:
    """One training: what stays the same from step to step."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        inputs: Inputs,
        source: SoftLabelBank | BatchPlan,
        protocol: Protocol,
        numbers: TrainingNumbers,
        teacher: Teacher | None,
        targets: Targets,
        running: Runtime,
        name: str,
    ) -> None:
        self.model, self.inputs, self.source, self.protocol, self.numbers = model, inputs, source, protocol, numbers
        self.teacher = teacher if protocol.label_mode == "soft_online" else None
        self.targets, self.running, self.name = targets, running, name
        self.optimizer = optimizer
        self.called = called(model, running)

    def train(self, progress: bool) -> float:
        """Take every step and return the seconds it took."""
        started = time.perf_counter()
        rates = learning_rates(self.protocol.schedule, self.numbers)
        self.model.train()
        with bar(self.numbers.steps, f"training {self.name}", show=progress) as shown:
            for number in range(math.ceil(self.numbers.steps / PAGE_STEPS)):
                first = number * PAGE_STEPS
                page_rates = rates[first : first + PAGE_STEPS]
                self._check_loss(self._take_page(number, page_rates), first, len(page_rates))
                shown.update(len(page_rates))
        return time.perf_counter() - started

    def _take_page(self, number: int, rates: list[float]) -> Tensor:
        """Take the steps of one page and return the sum of their losses, still on the device."""
        page = self.source.page(number)
        batches = self.inputs.batches(page)
        stored = self.source.logits(number).to(self.inputs.device) if isinstance(self.source, SoftLabelBank) else None
        total = torch.zeros((), device=self.inputs.device)
        for step, rate in enumerate(rates):
            if self.protocol.schedule.restart and rate < self.optimizer.param_groups[0]["lr"]:
                self.optimizer.state.clear()
            set_learning_rate(self.optimizer, rate)
            total += self._take_step(batches, step, None if stored is None else stored[step])
        return total

    def _take_step(self, batches: PageBatches, step: int, stored: Tensor | None) -> Tensor:
        images, rows, lam = batches.images(step), batches.indices[step], batches.lam_at(step)
        partner_rows = rows[batches.partners[step]] if lam < 1 else None
        labels = stored
        if self.teacher is not None:
            with torch.no_grad():
                labels = self.teacher.label(images, self.inputs.normaliser)
        total = torch.zeros((), device=images.device)
        for part in _parts(len(images), self.protocol.accumulation):
            outputs = forward(self.called, images[part], self.running)
            losses = batch_losses(
                outputs,
                self.targets,
                rows[part],
                None if partner_rows is None else partner_rows[part],
                lam,
                None if labels is None else labels[part],
                self.protocol.loss,
            )
            loss = losses.sum() / len(images)  # of the whole batch, also for a part of it
            loss.backward()
            total += loss.detach()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def _check_loss(self, total: Tensor, first: int, count: int) -> None:
        if not torch.isfinite(total):
            rate = self.numbers.lr
            raise EvaluationError(
                f"student {self.name!r} diverged: its loss is not finite within steps {first} to {first + count - 1}; "
                f"lower its learning rate ({rate:g}) in protocol {self.protocol.name!r}"
            )


def _parts(batch_size: int, accumulation: int) -> list[slice]:
    size = math.ceil(batch_size / accumulation)
    return [slice(start, start + size) for start in range(0, batch_size, size)]


def _targets(train: TrainingSet, protocol: Protocol, device: torch.device) -> Targets:
    stored = train.targets if protocol.label_mode == "soft_fixed" else None
    return Targets(train.labels, train.weights.float(), stored).to(device)


def _numbers(part: TrainingSet, student: str, protocol: Protocol, classes: int, parts: int) -> TrainingNumbers:
    """Return the numbers of one of ``parts`` equally long parts of a training."""
    numbers = protocol.numbers(student, len(part), classes)
    if protocol.learning_rate_from == "set":
        numbers = replace(numbers, lr=part.learning_rate)
    return replace(numbers, steps=math.ceil(numbers.steps / parts))


def _check(
    train: TrainingSet,
    student: str,
    protocol: Protocol,
    data: ImageData,
    teacher: Teacher | None,
    bank: SoftLabelBank | None,
    image_size: int,
) -> None:
    """Raise EvaluationError for everything that can be known before training."""
    mode, name = protocol.label_mode, protocol.name
    if train.labels.min() < 0 or train.labels.max() >= data.num_classes:
        raise EvaluationError(
            f"the set has labels outside the {data.num_classes} classes of {data.name!r}; check its class order"
        )
    if (mode == "soft_stored") != (bank is not None):
        raise EvaluationError(
            f"protocol {name!r} (label_mode {mode}) "
            + (
                "needs a soft-label bank; make one with make_bank"
                if bank is None
                else "takes no soft-label bank; leave it out"
            )
        )
    if mode == "soft_online":
        if teacher is None:
            raise EvaluationError(f"protocol {name!r} needs a teacher; train one with train_teacher")
        if teacher.image_size != image_size:
            raise EvaluationError(
                f"the teacher was trained at {teacher.image_size} px, not at {image_size} px; train another"
            )
        teacher.check_classes(data.class_names)
    kind = "regression" if protocol.loss.name == "mse" else "logits"
    if mode == "soft_fixed" and (
        train.targets is None or train.target_kind != kind or train.targets.shape[1] != data.num_classes
    ):
        has = "none" if train.targets is None else f"{train.target_kind} {list(train.targets.shape)}"
        raise EvaluationError(
            f"protocol {name!r} (loss {protocol.loss.name}) needs {kind} [n, {data.num_classes}] in the set, which has "
            f"{has}; choose another loss or label mode"
        )
    if protocol.learning_rate_from == "set" and train.learning_rate is None:
        raise EvaluationError(
            f"protocol {name!r} takes the learning rate from the set, and the set has none; set learning_rate_from to "
            "protocol"
        )
    if protocol.staged and train.stage is None:
        raise EvaluationError(
            f"protocol {name!r} trains stage by stage, and the set has no stages; set staged to false"
        )
    if bank is not None:
        if bank.card["class_names"] != list(data.class_names):
            raise EvaluationError(
                "the soft-label bank's teacher has other classes or another order; make a bank for this dataset"
            )
        numbers = protocol.numbers(student, len(train), data.num_classes)
        bank.check(protocol, train.images, image_size, numbers.steps, numbers.batch_size, train.preprocessing)


@contextlib.contextmanager
def _numerics(device: torch.device, seed: int) -> Iterator[None]:
    """Seed dropout and the like, and flush denormals (they slow a CPU down tenfold); leave both as they were."""
    if device.type == "cpu":
        keep_freed_memory()
    cuda = [device.index or 0] if device.type == "cuda" else []
    flushed = bool((torch.tensor(1e-39) * 1.0) == 0)
    with torch.random.fork_rng(devices=cuda):
        torch.random.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        torch.set_flush_denormal(True)
        try:
            yield
        finally:
            torch.set_flush_denormal(flushed)
