"""Whether a protocol trains a student to convergence: full-data validation accuracy against that at twice the steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..data.base import ImageData
from .protocol import Protocol
from .soft_labels import bank_steps, make_bank
from .teachers import Teacher
from .training import TrainingSet, train_student

TOLERANCE = 1.0  # points of top-1


@dataclass(frozen=True)
class Convergence:
    """Full-data top-1 on validation, in percent, after the protocol's steps and after twice as many."""

    student: str
    accuracy: float
    accuracy_at_twice: float

    @property
    def converged(self) -> bool:
        """Whether twice the steps gain at most one point."""
        return self.accuracy_at_twice - self.accuracy <= TOLERANCE


def check_convergence(
    student: str,
    protocol: Protocol,
    data: ImageData,
    *,
    seed: int,
    teacher: Teacher | None = None,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> Convergence:
    """Train ``student`` on the full train split under ``protocol`` and under its form with twice the steps.

    Both are scored on validation; the test split is not touched. Raises EvaluationError as ``train_student`` does.
    """
    full = TrainingSet.from_split(data.train)
    accuracies = []
    for form in (protocol, protocol.lengthened(2)):
        bank = None
        if protocol.label_mode == "soft_stored" and teacher is not None:
            steps = bank_steps(form, [student], len(full), data.num_classes)
            bank = make_bank(full.images, teacher, form, steps=steps, seed=seed, progress=progress)
        result = train_student(
            full,
            student,
            form,
            data,
            seed=seed,
            teacher=teacher,
            bank=bank,
            device=device,
            split="val",
            progress=progress,
        )
        accuracies.append(result.top1)
    return Convergence(student, *accuracies)
