"""Settings of a score, and what a protocol becomes in the words of DD-Ranking's evaluators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..config import ProtocolConfig
from ..errors import ConfigError, EvaluationError, nearest
from ..evaluation.protocol import Protocol, by_ipc, load_protocol
from ..record import is_weighted
from ..yaml_files import set_values, valid

if TYPE_CHECKING:
    from ..distilled_set import DistilledSet

HOST_RATES = (0.001, 0.005, 0.01, 0.05, 0.1)  # ddranking 0.2.0, metrics/soft_label.py:211


class HostSettings(BaseModel):
    """What a score needs beside its students' protocol. The defaults are those of DD-Ranking's leaderboard.

    protocol: name, file or keys as in a sweep's YAML; its ``soft_online`` training is the one with soft labels and
        augmentation, and the others are derived from it.
    teacher_protocol, teacher_seed: how teachers and the full-data student are trained.
    learning_rates: those that are searched; DD-Ranking takes the best on test, our own evaluation on validation.
    set_learning_rate: the distilled set's own, for its soft-label trainings, instead of the search.
    evaluations: repetitions, each with its own seeds and random images.
    test_every: epochs between DD-Ranking's tests, of which it reports the best.
    balance: w of LRS, g of ARS.
    weighting: how the weights of a weighted set enter, ``loss`` (each image's loss is multiplied), ``sampler`` (images
        are drawn in proportion, with replacement) or ``off``.
    teacher_folder: your own teachers, ``<folder>/<dataset>/<model>/ckpt_best.pt``.
    full_data_accuracy: of the student, in percent, where it is known.
    workers: processes of DD-Ranking's data loaders.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    protocol: ProtocolConfig = "ddranking_d4m_cifar"
    teacher_protocol: ProtocolConfig = "teacher_short"
    teacher_seed: int = 0
    learning_rates: tuple[float, ...] = Field(HOST_RATES, min_length=1)
    set_learning_rate: float | None = Field(None, gt=0)
    evaluations: int = Field(5, ge=1)
    test_every: int = Field(20, ge=1)  # metrics/soft_label.py:130
    balance: float = Field(0.5, ge=0, le=1)
    weighting: Literal["loss", "sampler", "off"] = "loss"
    teacher_folder: str | None = None
    full_data_accuracy: float | None = Field(None, ge=0, le=100)
    workers: int = Field(0, ge=0)


PRESETS: dict[str, dict[str, Any]] = {
    "leaderboard": {},
    # minutes on one core: 20 epochs of 16 px digits, fewer learning rates, one repetition
    "short": {"protocol": "ddranking_short", "learning_rates": (0.001, 0.005, 0.01), "evaluations": 1},
}


def host_settings(preset: str = "leaderboard", **changes: Any) -> HostSettings:
    """Return the settings of a preset (``leaderboard`` or ``short``) with ``changes``; ConfigError names a mistake."""
    if preset not in PRESETS:
        raise ConfigError(f"there is no preset {preset!r}{nearest(preset, PRESETS)}; use {' or '.join(PRESETS)}")
    content = HostSettings(**PRESETS[preset]).model_dump()
    return valid(HostSettings, set_values(content, changes), "settings")


def score_protocol(settings: HostSettings) -> Protocol:
    """Return the settings' protocol; EvaluationError unless a teacher labels its batches."""
    protocol = load_protocol(settings.protocol)
    if protocol.label_mode != "soft_online":
        raise EvaluationError(
            f"protocol {protocol.name!r} has label_mode {protocol.label_mode!r}; DD-Ranking's scores need "
            "'soft_online' (of its modes only 'M' runs)"
        )
    return protocol


def training_arguments(protocol: Protocol, ipc: int, *, metric: str) -> dict[str, Any]:
    """Return ``protocol`` as keyword arguments of DD-Ranking's evaluators, without data, paths and transforms.

    Raises EvaluationError where its evaluators have no words for a setting.
    """
    if protocol.epochs is None:
        raise _unsaid(protocol, "counts in steps", "epochs")
    if protocol.accumulation > 1 or protocol.double_batch_from_classes is not None:
        raise _unsaid(protocol, "accumulates or doubles batches", "one batch size")
    return {
        "num_epochs": by_ipc(protocol.epochs, ipc),
        "soft_label_mode": "M",
        "soft_label_criterion": "kl",
        "loss_fn_kwargs": {
            "temperature": protocol.loss.temperature,
            "scale_loss": protocol.loss.scale_by_temperature_squared,
        },
        **_optimiser(protocol),
        **_schedule(protocol, ipc, metric),
        **_mixing(protocol),
        "use_zca": False,
    }


def transforms_of(protocol: Protocol, normaliser: Any, size: int, *, scored: bool = False) -> Any:
    """Return the torchvision transform of a training image, or (``scored``) of a test image, of side ``size``."""
    from torchvision import transforms as T

    augmentation, steps = protocol.augmentation, []
    if scored:
        steps = [T.Resize(round(size * protocol.scoring.resize)), T.CenterCrop(size)]
    elif augmentation.crop == "resized":
        steps = [T.RandomResizedCrop(size, scale=augmentation.scale, ratio=augmentation.ratio)]
    else:
        steps = [T.Resize(size)]
        if augmentation.crop == "shift":
            steps.append(T.RandomCrop(size, padding=augmentation.padding))
    if augmentation.flip and not scored:
        steps.append(T.RandomHorizontalFlip(augmentation.flip))
    return T.Compose([*steps, T.ToTensor(), T.Normalize(normaliser.mean, normaliser.std)])


def teacher_training(settings: HostSettings, protocol: Protocol) -> Protocol:
    """Return the teachers' protocol, normalised as the students' (the host's checkpoints say nothing of it)."""
    teacher = load_protocol(settings.teacher_protocol)
    return teacher.model_copy(update={"normalisation": protocol.normalisation, "image_size": protocol.image_size})


def ways_of(made: DistilledSet, weighting: str) -> list[str]:
    """Return the ways a set is scored: a weighted one without its weights and, unless ``off``, with them."""
    if not is_weighted(made):
        return ["equal"]
    return ["ignored"] if weighting == "off" else ["ignored", weighting]


def labelled(sets: Mapping[str, DistilledSet] | Sequence[DistilledSet]) -> list[tuple[str, DistilledSet]]:
    """Return sets with their labels: those given, or those of their provenance."""
    if isinstance(sets, Mapping):
        return list(sets.items())
    return [(str(made.provenance.get("label") or f"set {number}"), made) for number, made in enumerate(sets)]


def _optimiser(protocol: Protocol) -> dict[str, Any]:
    settings = protocol.optimizer
    if not settings.decay_biases_and_norms and settings.weight_decay:
        raise _unsaid(protocol, "exempts biases and norms from weight decay", "weight decay on every parameter")
    momentum = settings.momentum if settings.name == "sgd" else settings.betas
    return {"optimizer": settings.name, "weight_decay": settings.weight_decay, "momentum": momentum}


def _schedule(protocol: Protocol, ipc: int, metric: str) -> dict[str, Any]:
    schedule = protocol.schedule
    if schedule.granularity != "epoch" or schedule.warmup:
        raise _unsaid(protocol, "changes the rate within an epoch", "granularity: epoch and no warmup")
    if schedule.name == "cosine" and schedule.horizon in (1, 2):
        return {"lr_scheduler": "cosine" if schedule.horizon == 2 else "cosineannealing", "step_size": None}
    # metrics/aug_robust.py:286 and :341 pass no step_size on
    if schedule.name == "step" and len(schedule.milestones) == 1 and schedule.factor == 0.1 and metric == "lrs":
        return {
            "lr_scheduler": "step",
            "step_size": max(1, round(schedule.milestones[0] * by_ipc(protocol.epochs, ipc))),
        }
    raise _unsaid(protocol, f"has the schedule {schedule.name!r}", "cosine of horizon 1 or 2, or (LRS) one step by 0.1")


def _mixing(protocol: Protocol) -> dict[str, Any]:
    mixing = protocol.mixing
    if mixing.name != "none" and mixing.probability < 1:
        raise _unsaid(protocol, "mixes some batches only", "probability 1")
    key = {"cutmix": "beta", "mixup": "lambda"}.get(mixing.name)
    return {"data_aug_func": mixing.name, "aug_params": {key: mixing.alpha} if key else {}}


def _unsaid(protocol: Protocol, what: str, mend: str) -> EvaluationError:
    return EvaluationError(f"protocol {protocol.name!r} {what}, which DD-Ranking's evaluators cannot do; use {mend}")
