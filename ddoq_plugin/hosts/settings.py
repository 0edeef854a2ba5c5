"""Settings of a score, and what a protocol becomes in the words of DD-Ranking's evaluators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ..config import ProtocolConfig
from ..errors import ConfigError, EvaluationError, nearest
from ..evaluation.protocol import Protocol, by_ipc, load_protocol
from ..record import is_weighted
from ..yaml_files import Checked, set_values, valid

if TYPE_CHECKING:
    from ..distilled_set import DistilledSet

HOST_RATES = (0.001, 0.005, 0.01, 0.05, 0.1)  # ddranking 0.2.0, metrics/soft_label.py:211


class HostSettings(Checked):
    """What a score needs. The defaults are those of DD-Ranking's leaderboard.

    ``protocol`` is a name, file or keys as in a sweep's YAML. Its ``soft_online`` training is the one with soft labels
    and augmentation; the others are derived from it. ``teacher_protocol`` and ``teacher_seed`` train teachers and the
    full-data student. ``learning_rates`` are searched: DD-Ranking takes the best on test, our own evaluation on
    validation. ``set_learning_rate`` replaces the search in the distilled set's soft-label trainings. ``evaluations``
    are repetitions, each with its own seeds and random images. ``test_every``: epochs between DD-Ranking's tests, of
    which it reports the best. ``balance``: w of LRS, g of ARS. ``weighting`` says how weights of a set enter: ``loss``
    (each image's loss is multiplied), ``sampler`` (images are drawn in proportion, with replacement) or ``off``.
    ``teacher_folder``: your own teachers, ``<folder>/<dataset>/<model>/ckpt_best.pt``. ``full_data_accuracy``: of the
    student, in percent, where it is known. ``workers``: processes of DD-Ranking's data loaders."""

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

    Raises EvaluationError where its evaluators have no words for a setting."""

    def unsaid(what: str, mend: str) -> EvaluationError:
        message = f"protocol {protocol.name!r} {what}, which DD-Ranking's evaluators cannot do; use {mend}"
        return EvaluationError(message)

    optimizer, schedule, mixing, loss = protocol.optimizer, protocol.schedule, protocol.mixing, protocol.loss
    if protocol.epochs is None:
        raise unsaid("counts in steps", "epochs")
    if protocol.accumulation > 1 or protocol.double_batch_from_classes is not None:
        raise unsaid("accumulates or doubles batches", "one batch size")
    if not optimizer.decay_biases_and_norms and optimizer.weight_decay:
        raise unsaid("exempts biases and norms from weight decay", "weight decay on every parameter")
    if schedule.granularity != "epoch" or schedule.warmup:
        raise unsaid("changes the rate within an epoch", "granularity: epoch and no warmup")
    epochs, step_size = by_ipc(protocol.epochs, ipc), None
    if schedule.name == "cosine" and schedule.horizon in (1, 2):
        scheduler = "cosine" if schedule.horizon == 2 else "cosineannealing"
    # metrics/aug_robust.py:286 and :341 pass no step_size on
    elif schedule.name == "step" and len(schedule.milestones) == 1 and schedule.factor == 0.1 and metric == "lrs":
        scheduler, step_size = "step", max(1, round(schedule.milestones[0] * epochs))
    else:
        raise unsaid(f"has the schedule {schedule.name!r}", "cosine of horizon 1 or 2, or (LRS) one step by 0.1")
    if mixing.name != "none" and mixing.probability < 1:
        raise unsaid("mixes some batches only", "probability 1")
    key = {"cutmix": "beta", "mixup": "lambda"}.get(mixing.name)
    return {
        "num_epochs": epochs,
        "soft_label_mode": "M",
        "soft_label_criterion": "kl",
        "loss_fn_kwargs": {"temperature": loss.temperature, "scale_loss": loss.scale_by_temperature_squared},
        "optimizer": optimizer.name,
        "weight_decay": optimizer.weight_decay,
        "momentum": optimizer.momentum if optimizer.name == "sgd" else optimizer.betas,
        "lr_scheduler": scheduler,
        "step_size": step_size,
        "data_aug_func": mixing.name,
        "aug_params": {key: mixing.alpha} if key else {},
        "use_zca": False,
    }


def transforms_of(protocol: Protocol, normaliser: Any, size: int, *, scored: bool = False) -> Any:
    """Return the torchvision transform of a training image, or (``scored``) of a test image, of side ``size``."""
    from torchvision import transforms as T

    augmentation, steps = protocol.augmentation, []
    if scored:
        steps = [T.Resize(round(size * protocol.scoring.zoom(size))), T.CenterCrop(size)]
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


def jobs_of(
    sets: Mapping[str, DistilledSet] | Sequence[DistilledSet], weighting: str
) -> list[tuple[int, str, DistilledSet, str]]:
    """Return (place, label, set, way) of everything that is scored; labels are given or those of the provenance.

    A weighted set is scored without its weights (``ignored``) and, unless ``weighting`` is ``off``, with them."""
    if isinstance(sets, Mapping):
        named = list(sets.items())
    else:
        named = [(str(made.provenance.get("label") or f"set {number}"), made) for number, made in enumerate(sets)]
    weighted = ["ignored"] if weighting == "off" else ["ignored", weighting]
    return [
        (place, label, made, way)
        for place, (label, made) in enumerate(named)
        for way in (weighted if is_weighted(made) else ["equal"])
    ]
