"""Students, protocols, teachers, soft labels and the training loop: how a distilled set is scored.

Names are imported on first use, so that listing protocols or students loads no torch."""

from typing import TYPE_CHECKING

from ..lazy_imports import lazy_names

if TYPE_CHECKING:
    from .protocol import Protocol, load_protocol, protocol_names
    from .scoring import Scores, score
    from .soft_labels import SoftLabelBank, bank_key, bank_steps, make_bank
    from .students.build import build_student, check_student
    from .teacher import Teacher
    from .teachers import pretrained_teacher, train_teacher
    from .training import StudentResult, train_student
    from .training_set import TrainingSet

__all__ = [
    "Protocol", "load_protocol", "protocol_names", "build_student", "check_student", "Teacher", "train_teacher",
    "pretrained_teacher", "SoftLabelBank", "make_bank", "bank_key", "bank_steps", "TrainingSet", "StudentResult",
    "train_student", "Scores", "score",
]  # fmt: skip
__getattr__, __dir__ = lazy_names(__name__)
