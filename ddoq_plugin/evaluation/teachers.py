"""How teachers come about: trained once on the full train split, or read from a file of weights."""

from pathlib import Path

import torch
from torch import Tensor

from ..data.base import ImageData
from ..errors import EvaluationError
from .inputs import Normaliser
from .protocol import Protocol, Scoring
from .scoring import score
from .students.build import build_student
from .teacher import Teacher
from .training import train_student
from .training_set import TrainingSet


def train_teacher(
    data: ImageData,
    student: str,
    protocol: Protocol,
    seed: int,
    *,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Teacher:
    """Train ``student`` on the full train split of ``data`` with hard labels and return it as a teacher.

    Raises EvaluationError where the protocol needs soft labels or the training diverges."""
    if protocol.label_mode != "hard":
        raise EvaluationError(
            f"a teacher learns from class labels, and protocol {protocol.name!r} does not; use 'teacher_short'"
        )
    result = train_student(
        TrainingSet.from_split(data.train),
        student,
        protocol,
        data,
        seed=seed,
        device=device,
        split="val",
        progress=progress,
    )
    size = protocol.image_size or data.image_size
    normaliser = Normaliser.named(protocol.normalisation, data)
    test = score(
        result.model,
        data.test,
        normaliser=normaliser,
        image_size=size,
        scoring=protocol.scoring,
        running=result.running,
        device=device,
    )
    return Teacher(
        result.model, student, data.class_names, size, normaliser, protocol.name, seed, result.top1, test.top1
    )


def pretrained_teacher(
    name: str,
    weights: str | Path,
    data: ImageData,
    *,
    normalisation: str = "imagenet",
    image_size: int | None = None,
    scoring: Scoring | None = None,
    device: str | torch.device = "cpu",
) -> Teacher:
    """Return a teacher from a file of weights (a state dict, .pt or .safetensors) for a student's name.

    It sees ``image_size`` pixels (None: the data's own) and is scored as ``scoring`` says.

    Its outputs must stand for the classes of ``data`` in order; its accuracy on both splits is measured and kept, so
    that a wrong order shows. Raises EvaluationError where the file does not fit the architecture."""
    path, size = Path(weights), image_size or data.image_size
    model = build_student(name, data.num_classes, size, seed=0)
    try:
        model.load_state_dict(_read_state(path))
    except (OSError, RuntimeError, ValueError) as problem:
        raise EvaluationError(
            f"the weights {path} do not fit {name!r} with {data.num_classes} classes ({problem})"
        ) from problem
    normaliser = Normaliser.named(normalisation, data)
    model.to(device)
    top1 = {
        part: score(
            model, data.split(part), normaliser=normaliser, image_size=size, scoring=scoring or Scoring(), device=device
        ).top1
        for part in ("val", "test")
    }
    return Teacher(
        model, name, data.class_names, size, normaliser, f"weights of {path.name}", None, top1["val"], top1["test"]
    )


def _read_state(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
