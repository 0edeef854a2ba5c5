"""Training protocols: every number of how a student is trained and scored, read from YAML, with its source.

Results of different protocols differ by tens of points, so a protocol is named beside every number.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib.resources
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import ConfigError, UnknownNameError, nearest

MORE = "more"
ByIPC = int | dict[int | Literal["more"], int]
"""A number, or one for each range of IPC: ``{10: 2000, 50: 1500, more: 1000}`` reads "up to 10, up to 50, more"."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Loss(_Part):
    """``cross_entropy`` of class labels, ``kl`` to soft labels at ``temperature`` (batch mean of the per-image sums),
    or ``mse`` to the set's regression targets (half the squares, summed over classes: :func:`.losses.half_squares`).

    ``scale_by_temperature_squared`` multiplies by T^2 (Hinton et al. 2015); SRe2L, D4M and RDED do not.
    """

    name: Literal["cross_entropy", "kl", "mse"]
    temperature: float = Field(1.0, gt=0)
    scale_by_temperature_squared: bool = False


class OptimizerSettings(_Part):
    """``sgd``, ``adam`` or ``adamw``. ``decay_biases_and_norms`` false exempts parameters of at most one dimension."""

    name: Literal["sgd", "adam", "adamw"]
    lr: float = Field(gt=0)
    weight_decay: float = Field(0.0, ge=0)
    momentum: float = Field(0.0, ge=0, lt=1)
    betas: tuple[float, float] = (0.9, 0.999)
    decay_biases_and_norms: bool = True


class ScheduleSettings(_Part):
    """Learning rate over the training; see :mod:`ddoq_plugin.evaluation.schedules` for the formulas."""

    name: Literal["constant", "cosine", "step"] = "cosine"
    granularity: Literal["step", "epoch"] = "step"
    horizon: float = Field(1.0, ge=1)  # cosine: its half period in units of the whole training
    milestones: tuple[float, ...] = ()  # step: fractions of the whole training
    factor: float = Field(0.1, gt=0, lt=1)  # step: the factor at each milestone
    warmup: float = Field(0.0, ge=0, lt=1)  # fraction of the training with a linear rise


class Augmentation(_Part):
    """What happens to each image before mixing.

    ``crop``: ``resized`` cuts a random box of area ``scale`` and aspect ``ratio`` and resizes it (torchvision's
    RandomResizedCrop, with boxes that are not rounded to pixels); ``shift`` moves the image by up to ``padding`` pixels
    (RandomCrop with zero padding); ``flip`` is the probability of a horizontal mirror.
    """

    crop: Literal["none", "resized", "shift"] = "none"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    padding: int = Field(0, ge=0)
    flip: float = Field(0.0, ge=0, le=1)


class Mixing(_Part):
    """CutMix (Yun et al. 2019) or MixUp (Zhang et al. 2018): one lam ~ Beta(alpha, alpha) and one pairing a batch."""

    name: Literal["none", "cutmix", "mixup"] = "none"
    probability: float = Field(1.0, ge=0, le=1)
    alpha: float = Field(1.0, gt=0)


class Scoring(_Part):
    """Evaluation: resize to ``resize`` times the image size, centre crop back to it."""

    resize: float = Field(1.0, ge=1)
    batch_size: int = Field(256, gt=0)


class StudentNumbers(_Part):
    """What a protocol sets for one student or a pattern of names; what is None stays as it is."""

    lr: float | None = Field(None, gt=0)
    weight_decay: float | None = Field(None, ge=0)
    steps: int | None = Field(None, gt=0)
    epochs: ByIPC | None = None
    warmup: float | None = Field(None, ge=0, lt=1)


class Execution(_Part):
    """How the same mathematics is run; see :func:`~ddoq_plugin.evaluation.runtime.resolve` for ``auto``."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    compile: Literal["auto"] | bool = "auto"


class Protocol(_Part):
    """Every number of a training protocol.

    ``label_mode``: ``hard``, class labels; ``soft_online``, the teacher's logits of each augmented batch, computed
    while training; ``soft_stored``, the same read from a :class:`~ddoq_plugin.evaluation.soft_labels.SoftLabelBank`
    (FKD); ``soft_fixed``, the targets that the set carries, one vector an image: logits for the loss ``kl``,
    regression targets for ``mse``.

    Exactly one of ``epochs`` and ``steps`` is given. ``batch_size`` is capped at the number of images and doubled from
    ``double_batch_from_classes`` classes on. ``image_size`` None means the data's own. ``normalisation`` is
    ``imagenet`` (mean and std of ImageNet), ``dataset`` (measured on the train split) or ``none``. ``stored_top_k``
    keeps that many logits of each stored soft label (:mod:`ddoq_plugin.evaluation.pruning`); None keeps all.

    ``learning_rate_from`` ``set`` takes the rate that the set's method learnt, in place of the optimiser's and the
    students'. ``staged`` trains on the first stage of the set, then on the first two, and so on (PDD, Chen et al.
    2023): each part takes an equal share of the steps, begins the schedule anew and keeps the optimiser's state.
    """

    name: str
    source: str = Field(min_length=10)
    ours: str = ""
    label_mode: Literal["hard", "soft_online", "soft_stored", "soft_fixed"]
    loss: Loss
    optimizer: OptimizerSettings
    schedule: ScheduleSettings = ScheduleSettings()
    epochs: ByIPC | None = None
    steps: int | None = Field(None, gt=0)
    batch_size: ByIPC
    double_batch_from_classes: int | None = Field(None, gt=0)
    accumulation: int = Field(1, gt=0)
    augmentation: Augmentation = Augmentation()
    mixing: Mixing = Mixing()
    normalisation: Literal["imagenet", "dataset", "none"] = "dataset"
    image_size: int | None = Field(None, gt=0)
    stored_top_k: int | None = Field(None, gt=0)
    learning_rate_from: Literal["protocol", "set"] = "protocol"
    staged: bool = False
    scoring: Scoring = Scoring()
    students: dict[str, StudentNumbers] = {}
    execution: Execution = Execution()

    @model_validator(mode="after")
    def _check(self) -> Protocol:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of 'epochs' and 'steps'")
        for numbers in self.students.values():
            if (numbers.steps is not None and self.steps is None) or (
                numbers.epochs is not None and self.epochs is None
            ):
                raise ValueError("a student's 'steps' or 'epochs' must be what the protocol itself counts in")
        for value in (self.batch_size, self.epochs, *(numbers.epochs for numbers in self.students.values())):
            if isinstance(value, dict) and MORE not in value:
                raise ValueError(f"a number by IPC needs a last entry called {MORE!r}")
        if self.stored_top_k is not None and self.label_mode != "soft_stored":
            raise ValueError("'stored_top_k' is for label_mode 'soft_stored'")
        if (self.label_mode == "hard") != (self.loss.name == "cross_entropy"):
            raise ValueError(f"label_mode {self.label_mode!r} does not go with loss {self.loss.name!r}")
        if self.loss.name == "mse" and self.label_mode != "soft_fixed":
            raise ValueError("loss 'mse' needs the set's own targets: use label_mode 'soft_fixed'")
        if self.staged and self.label_mode == "soft_stored":
            raise ValueError("'staged' does not go with label_mode 'soft_stored', whose labels are of one plan")
        return self

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher labels the images, now or beforehand."""
        return self.label_mode in ("soft_online", "soft_stored")

    def numbers(self, student: str, num_images: int, num_classes: int) -> TrainingNumbers:
        """Return what holds for one training of ``student`` on ``num_images`` images of ``num_classes`` classes.

        Student entries are matched as shell patterns; an entry that is the exact name wins, then the first that fits.
        """
        own = self.students.get(student) or next(
            (numbers for pattern, numbers in self.students.items() if fnmatch.fnmatch(student, pattern)),
            StudentNumbers(),
        )
        ipc = math.ceil(num_images / num_classes)
        doubled = self.double_batch_from_classes is not None and num_classes >= self.double_batch_from_classes
        batch_size = min(num_images, by_ipc(self.batch_size, ipc) * (2 if doubled else 1))
        if self.steps is not None:
            steps = own.steps or self.steps
        else:
            steps = math.ceil(by_ipc(own.epochs or self.epochs, ipc) * num_images / batch_size)
        return TrainingNumbers(
            steps=steps,
            batch_size=batch_size,
            steps_per_epoch=num_images / batch_size,
            lr=own.lr or self.optimizer.lr,
            weight_decay=self.optimizer.weight_decay if own.weight_decay is None else own.weight_decay,
            warmup=self.schedule.warmup if own.warmup is None else own.warmup,
        )

    def for_full_data(self) -> Protocol:
        """Return the protocol for real images, which have neither stages nor a learnt learning rate."""
        return self.model_copy(update={"learning_rate_from": "protocol", "staged": False})

    def lengthened(self, factor: int) -> Protocol:
        """Return the protocol with ``factor`` times the steps or epochs for every student."""
        changed = self.model_dump()
        for settings in (changed, *changed["students"].values()):
            for key in ("steps", "epochs"):
                value = settings[key]
                if isinstance(value, dict):
                    settings[key] = {ipc: number * factor for ipc, number in value.items()}
                elif value is not None:
                    settings[key] = value * factor
        return Protocol.model_validate(changed)


@dataclass(frozen=True)
class TrainingNumbers:
    """The numbers of one training: all that depends on the student and on the size of its set."""

    steps: int
    batch_size: int
    steps_per_epoch: float
    lr: float
    weight_decay: float
    warmup: float


def by_ipc(value: ByIPC, ipc: int) -> int:
    """Return the number for ``ipc``: that of the smallest bound which is not below it, or that of "more"."""
    if not isinstance(value, dict):
        return value
    bounds = sorted(bound for bound in value if bound != MORE and ipc <= bound)
    return value[bounds[0]] if bounds else value[MORE]


def protocol_names() -> list[str]:
    """Return the names of the protocols that come with the package."""
    folder = importlib.resources.files(__package__) / "protocols"
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def load_protocol(name: str | Path) -> Protocol:
    """Return the protocol of this name, or of the YAML file at this path.

    Raises UnknownNameError for an unknown name and ConfigError, naming file and key, for a file that is no protocol.
    """
    text = str(name)
    if text.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(
                f"the protocol file {path} does not exist; give a path or one of {', '.join(protocol_names())}"
            )
        return parse_protocol(path.read_text(encoding="utf-8"), where=str(path))
    known = protocol_names()
    if text not in known:
        raise UnknownNameError(f"unknown protocol {text!r}{nearest(text, known)} (known: {', '.join(known)})")
    file = importlib.resources.files(__package__) / "protocols" / f"{text}.yaml"
    return parse_protocol(file.read_text(encoding="utf-8"), where=f"{text}.yaml")


def parse_protocol(text: str, *, where: str) -> Protocol:
    """Return the protocol that a YAML text describes; ``where`` names it in errors (ConfigError)."""
    try:
        fields = yaml.safe_load(text)
    except yaml.YAMLError as problem:
        raise ConfigError(f"{where} is no YAML: {' '.join(str(problem).split())}") from problem
    if not isinstance(fields, dict):
        raise ConfigError(f"{where} holds no protocol; see the package's protocols for the keys")
    try:
        return Protocol.model_validate(fields)
    except ValidationError as problem:
        raise ConfigError(f"{where}: {_explain(problem.errors()[0])}") from problem


def _explain(error: Any) -> str:
    """Return one clause for a pydantic error, with the nearest key where a key is unknown."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return f"{key}: {error['msg']}" if key else error["msg"]
    known = _fields_at(error["loc"][:-1])
    close = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.4)
    return f"unknown key {key!r}" + (f"; did you mean {close[0]!r}?" if close else f" (known: {', '.join(known)})")


def _fields_at(location: tuple[Any, ...]) -> list[str]:
    model: Any = Protocol
    for part in location:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if part == "students":
            return list(StudentNumbers.model_fields)
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
