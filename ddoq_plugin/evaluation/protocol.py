"""Training protocols: every number of how a student is trained and scored, read from YAML, with its source.

Results of different protocols differ by tens of points, so a protocol is named beside every number."""

from __future__ import annotations

import fnmatch
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from ..errors import ConfigError, UnknownNameError, nearest
from ..yaml_files import EXTENDS, Checked, Layers, merged, read_layers, valid
from .dsa_strategy import strategy_operations

MORE = "more"
Count = Annotated[int, Field(ge=1, le=100_000_000)]
ByIPC = Count | dict[int | Literal["more"], Count]
"""A number, or one for each range of IPC: ``{10: 2000, 50: 1500, more: 1000}`` reads "up to 10, up to 50, more"."""


class Loss(Checked):
    """``cross_entropy`` of class labels, ``kl`` to soft labels at ``temperature`` (batch mean of the per-image sums),
    or ``mse`` to the set's regression targets (half the squares, summed over classes: :func:`.losses.half_squares`).

    ``scale_by_temperature_squared`` multiplies by T^2 (Hinton et al. 2015); SRe2L, D4M and RDED do not."""

    name: Literal["cross_entropy", "kl", "mse"]
    temperature: float = Field(1.0, gt=0, le=1e6)
    scale_by_temperature_squared: bool = False


class OptimizerSettings(Checked):
    """``sgd``, ``adam`` or ``adamw``. ``decay_biases_and_norms`` false exempts parameters of at most one dimension."""

    name: Literal["sgd", "adam", "adamw"]
    lr: float = Field(gt=0, le=1e6)
    weight_decay: float = Field(0.0, ge=0, le=1e6)
    momentum: float = Field(0.0, ge=0, lt=1)
    betas: tuple[float, float] = (0.9, 0.999)
    decay_biases_and_norms: bool = True


class ScheduleSettings(Checked):
    """Learning rate over the training; see :mod:`ddoq_plugin.evaluation.schedules` for the formulas."""

    name: Literal["constant", "cosine", "step"] = "cosine"
    granularity: Literal["step", "epoch"] = "step"
    horizon: float = Field(1.0, ge=1)  # cosine: its half period in units of the whole training
    milestones: tuple[float, ...] = ()  # step: fractions of the whole training
    factor: float = Field(0.1, gt=0, lt=1)  # step: the factor at each milestone
    restart: bool = False  # step: a milestone begins with a new optimiser, which has no momentum
    warmup: float = Field(0.0, ge=0, lt=1)  # fraction of the training with a linear rise


class Augmentation(Checked):
    """What happens to each image before mixing.

    ``crop``: ``resized`` cuts a random box of area ``scale`` and aspect ``ratio`` and resizes it (torchvision's
    RandomResizedCrop, with boxes that are not rounded to pixels); ``shift`` moves the image by up to ``padding`` pixels
    (RandomCrop with zero padding); ``flip`` is the probability of a horizontal mirror.

    ``dsa``: after that, one of these operations for a batch, with numbers of each image's own: names joined by "_", or
    empty (:mod:`.dsa`)."""

    crop: Literal["none", "resized", "shift"] = "none"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    padding: int = Field(0, ge=0, le=10_000)
    flip: float = Field(0.0, ge=0, le=1)
    dsa: str = ""

    @model_validator(mode="after")
    def _ordered(self) -> Augmentation:
        try:
            strategy_operations(self.dsa)
        except ConfigError as problem:
            raise ValueError(str(problem)) from None
        for name, (low, high), most in (("scale", self.scale, 1.0), ("ratio", self.ratio, 1000.0)):
            if not 0 < low <= high <= most:
                raise ValueError(f"{name} is (smallest, largest) with 0 < smallest <= largest <= {most:g}")
        return self


class Mixing(Checked):
    """CutMix (Yun et al. 2019) or MixUp (Zhang et al. 2018): one lam ~ Beta(alpha, alpha) and one pairing a batch."""

    name: Literal["none", "cutmix", "mixup"] = "none"
    probability: float = Field(1.0, ge=0, le=1)
    alpha: float = Field(1.0, gt=0, le=1e6)


class Scoring(Checked):
    """Evaluation: resize to ``resize`` times the image size, centre crop back to it. With ``resize: sevenths`` the size
    is S // 7 * 8 pixels, as in RDED's code: no zoom at 32 pixels."""

    resize: Annotated[float, Field(ge=1)] | Literal["sevenths"] = 1.0
    batch_size: Count = 256

    def zoom(self, image_size: int) -> float:
        """Return how many times ``image_size`` the images are resized to."""
        return image_size // 7 * 8 / image_size if self.resize == "sevenths" else self.resize


class StudentNumbers(Checked):
    """What a protocol sets for one student or a pattern of names; what is None stays as it is."""

    lr: float | None = Field(None, gt=0, le=1e6)
    weight_decay: float | None = Field(None, ge=0, le=1e6)
    steps: Count | None = None
    epochs: ByIPC | None = None
    warmup: float | None = Field(None, ge=0, lt=1)


class Execution(Checked):
    """How the same mathematics is run; see :func:`~ddoq_plugin.evaluation.runtime.resolve` for ``auto``."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    compile: Literal["auto"] | bool = "auto"


class Protocol(Checked):
    """Every number of a training protocol.

    ``label_mode``: ``hard``, class labels; ``soft_online``, the teacher's logits of each augmented batch, computed
    while training; ``soft_stored``, the same read from a :class:`~ddoq_plugin.evaluation.soft_labels.SoftLabelBank`
    (FKD); ``soft_fixed``, the targets that the set carries, one vector an image: logits for the loss ``kl``,
    regression targets for ``mse``.

    Exactly one of ``epochs`` and ``steps`` is given. ``batch_size`` is capped at the number of images and doubled from
    ``double_batch_from_classes`` classes on. ``count_partial_batches`` gives an epoch the steps of a loader that keeps
    its last, smaller batch; ours are all full. ``image_size`` None means the data's own. ``normalisation`` is
    ``imagenet`` (mean and std of ImageNet), ``dataset`` (measured on the train split) or ``none``. ``stored_top_k``
    keeps that many logits of each stored soft label (:mod:`ddoq_plugin.evaluation.pruning`); None keeps all.

    ``learning_rate_from`` ``set`` takes the rate that the set's method learnt, in place of the optimiser's and the
    students'. ``staged`` trains on the first stage of the set, then on the first two, and so on (PDD, Chen et al.
    2023): each part takes an equal share of the steps, begins the schedule anew and keeps the optimiser's state."""

    name: str
    source: str = Field(min_length=10)
    ours: str = ""
    label_mode: Literal["hard", "soft_online", "soft_stored", "soft_fixed"]
    loss: Loss
    optimizer: OptimizerSettings
    schedule: ScheduleSettings = ScheduleSettings()
    epochs: ByIPC | None = None
    steps: Count | None = None
    batch_size: ByIPC
    double_batch_from_classes: int | None = Field(None, gt=0)
    count_partial_batches: bool = False
    accumulation: int = Field(1, gt=0, le=65_536)
    augmentation: Augmentation = Augmentation()
    mixing: Mixing = Mixing()
    normalisation: Literal["imagenet", "dataset", "none"] = "dataset"
    image_size: int | None = Field(None, gt=0, le=16_384)
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
        if self.augmentation.dsa and self.label_mode == "soft_stored":
            raise ValueError("'dsa' does not go with label_mode 'soft_stored', whose labels are of crops and mirrors")
        if self.schedule.restart and self.schedule.name != "step":
            raise ValueError(f"'restart' is for schedule 'step', not {self.schedule.name!r}")
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
        an_epoch = math.ceil(num_images / batch_size) if self.count_partial_batches else num_images / batch_size
        if self.steps is not None:
            steps = own.steps or self.steps
        else:
            epochs = by_ipc(own.epochs or self.epochs or 0, ipc)  # one of the two is given
            steps = math.ceil(epochs * an_epoch)
        return TrainingNumbers(
            steps=steps,
            batch_size=batch_size,
            steps_per_epoch=an_epoch,
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


def by_ipc(value: int | Mapping[Any, int], ipc: int) -> int:
    """Return the number for ``ipc``: that of the smallest bound which is not below it, or that of "more"."""
    if isinstance(value, int):
        return value
    bounds = sorted(bound for bound in value if isinstance(bound, int) and ipc <= bound)
    return value[bounds[0]] if bounds else value[MORE]


def packaged_protocols() -> dict[str, Path]:
    """Return the files of the protocols that come with the package, by name."""
    return {file.stem: file for file in sorted((Path(__file__).parent / "protocols").glob("*.yaml"))}


def protocol_names() -> list[str]:
    """Return the names of the protocols that come with the package."""
    return list(packaged_protocols())


def load_protocol(given: str | Path | Mapping[str, Any]) -> Protocol:
    """Return the protocol of this name, of the YAML file at this path, or of these keys.

    File and keys may extend another protocol (``extends``); a number that they give for all students ends the base's
    exceptions from it. Keys without a ``name`` are called after what they change, as "hard_short+steps=300".
    Raises UnknownNameError for an unknown name and ConfigError, naming file, line and key, for what is no protocol."""
    if isinstance(given, Mapping):
        return _changed(given)
    layers = protocol_layers(given)
    return valid(Protocol, layers.content, layers)


def protocol_layers(given: str | Path) -> Layers:
    """Return what a protocol's file and its bases hold, and where."""
    known, path = packaged_protocols(), Path(given)
    if path.suffix not in (".yaml", ".yml"):
        if str(given) not in known:
            raise UnknownNameError(
                f"unknown protocol {given!r}{nearest(str(given), known)} (known: {', '.join(known)})"
            )
        path = known[str(given)]
    elif not path.is_file():
        raise ConfigError(f"the protocol file {path} does not exist; give a path or one of {', '.join(known)}")
    return read_layers(path, known, _extended)


def parse_protocol(text: str, *, where: str) -> Protocol:
    """Return the protocol that a YAML text describes; ``where`` names it in errors (ConfigError)."""
    return valid(Protocol, yaml.safe_load(text), where)


def _changed(given: Mapping[str, Any]) -> Protocol:
    own = {key: value for key, value in given.items() if key != EXTENDS}
    if EXTENDS not in given:
        return valid(Protocol, own, "protocol")
    base = load_protocol(given[EXTENDS])
    made = valid(Protocol, _extended(base.model_dump(), own), "protocol")
    leaves = sorted(_leaves({key: own[key] for key in own.keys() - {"name", "source", "ours"}}, made.model_dump()))
    if "name" in own or not leaves:
        return made
    ours = f"{base.ours} Changed from {base.name}: {', '.join(leaves)}.".strip()
    return made.model_copy(update={"name": "+".join([base.name, *leaves]), "ours": ours})


def _leaves(own: Mapping[Any, Any], made: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """Yield ``key=value`` for each number that ``own`` gives, as the valid protocol ``made`` holds it."""
    made = {str(key): value for key, value in made.items()}
    for key, value in own.items():
        held = made[str(key)]
        if isinstance(value, Mapping) and isinstance(held, Mapping):
            yield from _leaves(value, held, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={held if isinstance(held, str) else json.dumps(held, separators=(',', ':'))}"


def _extended(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` changed by ``own``: what it gives for all students ends exceptions, steps end epochs."""
    parts = [own[name] for name in ("optimizer", "schedule") if isinstance(own.get(name), dict)]
    given = {key for part in (own, *parts) for key in part} & StudentNumbers.model_fields.keys()
    length = {"steps", "epochs"}
    given |= length if length & given else set()
    students = {
        name: {key: value for key, value in numbers.items() if key not in given}
        for name, numbers in (base.get("students") or {}).items()
    }
    kept = {key: value for key, value in base.items() if key not in (length & given) - own.keys()}
    content = merged(kept | {"students": students}, own)
    if isinstance(own.get("students"), dict):  # the first pattern that fits wins
        content["students"] = {name: content["students"][name] for name in (*own["students"], *students)}
    return content
