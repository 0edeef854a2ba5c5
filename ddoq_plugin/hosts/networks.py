"""DD-Ranking's own architectures as students and teachers of this package, where the extra is installed.

``ddranking:ConvNet-3`` is a student wherever one is named (sweeps, ``ddoq evaluate``, teachers), as ``timm:NAME`` is;
``ddranking:ResNet-18-BN:torchvision`` is DD-Ranking's torchvision form of a name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..errors import EvaluationError, UnknownNameError
from ..evaluation import Teacher, train_teacher
from ..evaluation.evaluator import trained_teacher_key
from ..evaluation.students.build import build_student
from ..seeding import derive_seed
from ..store.artifacts import Store
from .patches import check_host
from .settings import HostSettings, score_protocol, teacher_training

if TYPE_CHECKING:
    from ..data import ImageData
    from ..evaluation import Protocol

PREFIX, TORCHVISION = "ddranking:", ":torchvision"


def split_name(name: str) -> tuple[str, bool]:
    """Return DD-Ranking's name of a model, and whether its torchvision form is meant."""
    bare = name.removeprefix(PREFIX)
    return bare.removesuffix(TORCHVISION), bare.endswith(TORCHVISION)


def build_host_student(name: str, num_classes: int, image_size: int) -> nn.Module:
    """Return DD-Ranking's model ``name`` in float32 on the CPU, initialised from the global random state.

    UnknownNameError: it has no such model. EvaluationError: the model does not take the images, or no DD-Ranking."""
    check_host()
    from ddranking.utils import build_model

    bare, torchvision = split_name(name)
    try:
        model = build_model(bare, num_classes, (image_size, image_size), use_torchvision=torchvision, device="cpu")
    except (ValueError, UnboundLocalError) as problem:  # utils/model.py:18, :91-110 and :120
        raise UnknownNameError(
            f"DD-Ranking has no model {name!r}; its own are ConvNet-D, ConvNet-D-BN, ResNet-18, -34 and -50 (-BN), "
            "VGG-11 to -19 (-BN), AlexNet, LeNet and MLP, and any name of torchvision or timm"
        ) from problem
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(2, 3, image_size, image_size))
    except Exception as problem:  # whatever its layers say about a size they cannot take
        raise EvaluationError(
            f"DD-Ranking's {name!r} does not take images of {image_size} px ({problem}); choose another model or size "
            "(ConvNet-3 takes multiples of 8)"
        ) from problem
    return model.train()


def check_host_student(student: str, data: ImageData, protocol: Protocol) -> None:
    """Raise as :func:`build_host_student` where one of DD-Ranking's models, with its prefix, cannot be built."""
    if student.startswith(PREFIX):
        build_student(student, data.num_classes, protocol.image_size or data.image_size, seed=0)


def stored_teacher(data: ImageData, student: str, settings: HostSettings, device: str, store: Store) -> Teacher:
    """Return any student, DD-Ranking's (``ddranking:NAME``) or ours, trained once by the settings' teacher protocol.

    Its test accuracy is also the full-data accuracy of that architecture."""
    protocol, seed = teacher_training(settings, score_protocol(settings)), settings.teacher_seed
    check_host_student(student, data, protocol)
    key = trained_teacher_key(data, student, protocol, seed)

    def make(folder: Path) -> None:
        train_teacher(data, student, protocol, derive_seed("teacher", seed), device=device).save(folder)

    return Teacher.load(store.get("teachers", key, make), device=device)


build_host_student.check = lambda name: check_host()  # type: ignore[attr-defined]  # it has no list of its models
