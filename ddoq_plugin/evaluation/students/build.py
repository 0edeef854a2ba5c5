"""Build a student by name, initialised from its own seed."""

from functools import partial
from typing import Any

import torch
from torch import nn

from ...errors import DDOQError, EvaluationError, UnknownNameError, nearest
from ...registry import STUDENTS
from ...seeding import derive_seed


def build_student(name: str, num_classes: int, image_size: int, *, seed: int) -> nn.Module:
    """Return an untrained student in float32 on the CPU for square images of side ``image_size`` in pixels.

    ``name`` is a registered student or belongs to a registered namespace: ``timm:NAME`` and ``torchvision:NAME`` are
    any architecture of those libraries, without pretrained weights. The same seed gives the same initial weights; the
    global random state is left as it was. Raises UnknownNameError with the nearest names for an unknown student and
    EvaluationError where the architecture does not take images of this size."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(derive_seed("student-init", seed))
        namespace, model_name = STUDENTS.namespace(name)
        if namespace is not None:
            return STUDENTS.load(namespace.name)(model_name, num_classes, image_size)
        entry = STUDENTS.entry(name)
        smallest: Any = entry.flags.get("min_size", 1)
        if image_size < smallest:
            raise EvaluationError(
                f"student {name!r} needs images of at least {smallest} px and got {image_size}; "
                "resize the data or choose a student for smaller images"
            )
        return STUDENTS.load(name)(num_classes, image_size)


def flag_of(name: str, flag: str, device: str = "cpu") -> bool:
    """Return whether student ``name`` is registered with ``flag`` for this kind of device. A flag is true for every
    device or for the one it names ("cpu"); students that are not registered have none."""
    value = STUDENTS.entry(name).flags.get(flag, False) if name in STUDENTS else False
    return value == device if isinstance(value, str) else bool(value)


def check_student(name: str) -> None:
    """Raise UnknownNameError unless ``name`` is a registered student or of a registered namespace, whose factory may
    have ``check(model_name)``; what it raises is passed on."""
    namespace, model_name = STUDENTS.namespace(name)
    if namespace is None:
        STUDENTS.entry(name)
    elif (check := getattr(STUDENTS.load(namespace.name), "check", None)) is not None:
        check(model_name)


def _check_library(library: str, name: str) -> None:
    if library == "timm":
        import timm

        known = timm.list_models()
    else:
        import torchvision

        known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise UnknownNameError(f"unknown student '{library}:{name}': {library} has no such model{nearest(name, known)}")


def _from_library(library: str, name: str, num_classes: int, image_size: int) -> nn.Module:
    """Return the library's architecture without pretrained weights."""
    _check_library(library, name)
    try:
        model = _create(library, name, num_classes, image_size)
        with torch.inference_mode():
            shape = model.eval()(torch.zeros(1, 3, image_size, image_size)).shape
    except DDOQError:
        raise
    except Exception as problem:  # whatever a foreign architecture says about a size it cannot take
        raise EvaluationError(
            f"student '{library}:{name}' does not take images of {image_size} px ({problem}); "
            "resize the data or choose another student"
        ) from problem
    if tuple(shape) != (1, num_classes):
        raise EvaluationError(f"'{library}:{name}' is no classifier: it returns {list(shape)}; choose another student")
    return model.train()


def _create(library: str, name: str, num_classes: int, image_size: int) -> nn.Module:
    if library == "torchvision":
        import torchvision

        return torchvision.models.get_model(name, weights=None, num_classes=num_classes)
    import timm

    try:
        return timm.create_model(name, num_classes=num_classes, img_size=image_size)
    except TypeError:  # architectures that fit any size take no img_size
        return timm.create_model(name, num_classes=num_classes)


timm_student, torchvision_student = (partial(_from_library, library) for library in ("timm", "torchvision"))
timm_student.check = partial(_check_library, "timm")  # type: ignore[attr-defined]
torchvision_student.check = partial(_check_library, "torchvision")  # type: ignore[attr-defined]
