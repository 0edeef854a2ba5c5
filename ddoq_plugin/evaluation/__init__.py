"""Students, protocols, teachers, soft labels and the training loop: how a distilled set is scored.

Names are imported on first use, so that listing protocols or students loads no torch.
"""

from __future__ import annotations

import importlib

_HOME = {
    "Protocol": "protocol",
    "load_protocol": "protocol",
    "protocol_names": "protocol",
    "build_student": "students.build",
    "check_student": "students.build",
    "Teacher": "teacher",
    "train_teacher": "teachers",
    "pretrained_teacher": "teachers",
    "SoftLabelBank": "soft_labels",
    "make_bank": "soft_labels",
    "bank_key": "soft_labels",
    "bank_steps": "soft_labels",
    "TrainingSet": "training_set",
    "StudentResult": "training",
    "train_student": "training",
    "Scores": "scoring",
    "score": "scoring",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'ddoq_plugin.evaluation' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
