"""DD-Ranking's own architectures as students and teachers of this package, where the extra is installed.

``ddranking:ConvNet-3`` is a student wherever one is named (sweeps, ``ddoq evaluate``, teachers), as ``timm:NAME`` is;
``ddranking:ResNet-18-BN:torchvision`` is DD-Ranking's torchvision form of a name.
"""

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

if TYPE_CHECKING:
    from ..data import ImageData
    from ..evaluation import Protocol

PREFIX, TORCHVISION = "ddranking:", ":torchvision"


def split_name(name: str) -> tuple[str, bool]:
    """Return DD-Ranking's name of a model, and whether its torchvision form is meant."""
    bare = name.removeprefix(PREFIX)
    return bare.removesuffix(TORCHVISION), bare.endswith(TORCHVISION)


def host_student(name: str, num_classes: int, image_size: int) -> str:
    """Return the student's name of DD-Ranking's model ``name``, with its prefix, once it has been built.

    Raises as :func:`build_host_student`.
    """
    student = PREFIX + name.removeprefix(PREFIX)
    build_student(student, num_classes, image_size, seed=0)
    return student


def build_host_student(name: str, num_classes: int, image_size: int) -> nn.Module:
    """Return DD-Ranking's model ``name`` in float32 on the CPU, initialised from the global random state.

    Raises UnknownNameError where it has no such model, EvaluationError where the model does not take the images or
    DD-Ranking is not installed.
    """
    check_host()
    model = _build(name, num_classes, image_size).eval()
    try:
        with torch.inference_mode():
            model(torch.zeros(2, 3, image_size, image_size))
    except Exception as problem:  # whatever its layers say about a size they cannot take
        raise EvaluationError(
            f"DD-Ranking's {name!r} does not take images of {image_size} px ({problem}); choose another model or size "
            "(ConvNet-3 takes multiples of 8)"
        ) from problem
    return model.train()


def stored_teacher(
    data: ImageData, student: str, protocol: Protocol, *, seed: int, device: str, store: Store
) -> Teacher:
    """Return any student, DD-Ranking's (``ddranking:NAME``) or ours, trained once, with class labels.

    Its test accuracy is also the full-data accuracy of that architecture.
    """
    if student.startswith(PREFIX):
        host_student(student, data.num_classes, protocol.image_size or data.image_size)
    key = trained_teacher_key(data, student, protocol, seed)

    def make(folder: Path) -> None:
        train_teacher(data, student, protocol, derive_seed("teacher", seed), device=device).save(folder)

    return Teacher.load(store.get("teachers", key, make), device=device)


def write_checkpoint(teacher: Teacher, name: str, dataset: str, folder: Path) -> Path:
    """Write a teacher where DD-Ranking looks for it, ``folder/<dataset>/<model>/ckpt_best.pt``; return ``folder``."""
    path = folder / dataset / split_name(name)[0] / "ckpt_best.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({key: value.cpu() for key, value in teacher.model.state_dict().items()}, path)
    return folder


def _build(name: str, num_classes: int, image_size: int) -> nn.Module:
    from ddranking.utils import build_model

    model, torchvision = split_name(name)
    try:
        return build_model(model, num_classes, (image_size, image_size), use_torchvision=torchvision, device="cpu")
    except (ValueError, UnboundLocalError) as problem:  # utils/model.py:18, :91-110 and :120
        raise UnknownNameError(
            f"DD-Ranking has no model {name!r}; its own are ConvNet-D, ConvNet-D-BN, ResNet-18, "
            "-34 and -50 (-BN), VGG-11 to -19 (-BN), AlexNet, LeNet and MLP, and any name of torchvision or timm"
        ) from problem


build_host_student.check = lambda name: check_host()  # type: ignore[attr-defined]  # it has no list of its models
