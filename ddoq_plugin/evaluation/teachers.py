"""How teachers come about: trained once on the full train split, or read from a file of weights."""

from pathlib import Path

import torch
from torch import Tensor, nn

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
    path, size = Path(weights).expanduser(), image_size or data.image_size
    model = build_student(name, data.num_classes, size, seed=0)
    model.load_state_dict(read_weights(path, model, f"{name!r} with {data.num_classes} classes"))
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


WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")  # under which people save weights
PREFIXES = ("module.", "_orig_mod.")  # DataParallel and torch.compile put them before each name


def read_weights(path: Path, model: nn.Module, what: str) -> dict[str, Tensor]:
    """Return the state dict of a file of weights, as it is usually saved, for ``model``, called ``what``.

    Raises EvaluationError where the file cannot be read, holds more than tensors, or does not fit."""
    try:
        state = _read_state(path)
    except Exception as problem:  # torch, pickle, zip and safetensors raise what they like for a file of another kind
        objects = "Unpickler" in str(problem) or "weights_only" in str(problem)
        mend = "it holds objects; save model.state_dict() alone" if objects else "give a state dict (.pt, .safetensors)"
        raise EvaluationError(f"the weights {path} cannot be read ({type(problem).__name__}): {mend}") from None
    for name in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    if not isinstance(state, dict) or not all(isinstance(one, Tensor) for one in state.values()):
        raise EvaluationError(f"the weights {path} are no state dict ({type(state).__name__}); save model.state_dict()")
    for prefix in PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): one for name, one in state.items()}
    wanted = model.state_dict()
    wrong = [
        *(f"{name} is missing" for name in wanted if name not in state),
        *(f"{name} is of another network" for name in state if name not in wanted),
        *(
            f"{name} is {list(state[name].shape)}, not {list(one.shape)}"
            for name, one in wanted.items()
            if name in state and state[name].shape != one.shape
        ),
    ]
    if wrong:
        more = f" and {len(wrong) - 2} more" if len(wrong) > 2 else ""
        raise EvaluationError(f"the weights {path} do not fit {what} ({'; '.join(wrong[:2])}{more})")
    return state


def _read_state(path: Path) -> object:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
