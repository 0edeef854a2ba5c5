"""DD-Ranking's evaluators, the unmodified PyPI package, on distilled sets of any method.

>>> rows = score_with_ddranking({"ddoq": made}, load_data("digits"), metric="lrs", student="ConvNet-3",
...                             settings=host_settings("short"), work_folder="runs/ddranking")

Only two of its evaluators can run, ``LabelRobustScoreSoft`` and ``AugmentationRobustScore``, both with labels of a
teacher for every augmented batch (its mode 'M') and with images from folders; these are the ones used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from ..errors import EvaluationError
from ..evaluation.protocol import by_ipc
from ..progress import bar
from ..record import make_row
from ..report import make_frame
from ..report.robust_scores import score_columns
from ..store.artifacts import Store, hash_key
from .exports import HostData, check_set, export_data, stored_set
from .networks import PREFIX, host_student, split_name, stored_teacher, write_checkpoint
from .patches import KNOWN_VERSION, check_host, patched_host
from .settings import (
    HostSettings,
    labelled,
    score_protocol,
    teacher_training,
    training_arguments,
    transforms_of,
    ways_of,
)

if TYPE_CHECKING:
    from ..data import ImageData
    from ..distilled_set import DistilledSet
    from ..evaluation import Protocol, Teacher

RAW = {"lrs": ("lrs", "lrs_ddranking"), "ars": ("ars_list", "ars_ddranking")}  # column of its CSV, and of our rows


def score_with_ddranking(
    sets: Mapping[str, DistilledSet] | Sequence[DistilledSet],
    data: ImageData | HostData,
    *,
    metric: Literal["lrs", "ars"],
    student: str = "ConvNet-3",
    teacher: str | None = None,
    settings: HostSettings | None = None,
    seed: int = 0,
    device: str = "cpu",
    work_folder: str | Path = "runs/ddranking",
    progress: bool = True,
) -> pd.DataFrame:
    """Score sets with DD-Ranking 0.2.0 and return one row a set, way of weighting and repetition.

    Args:
        sets: distilled sets, by label or with the label of their provenance.
        data: the dataset they were made from, or one of DD-Ranking's own on disk
            (:func:`~ddoq_plugin.hosts.exports.own_data`, which needs ``settings.teacher_folder``).
        metric: ``lrs`` (``LabelRobustScoreSoft``) or ``ars`` (``AugmentationRobustScore``).
        student, teacher: DD-Ranking's names of models (teacher None: the student's architecture).
        settings: see :class:`HostSettings`; default: those of its leaderboard.
        seed: of students and random images (the teacher's is a setting). The same seed gives the same rows on the
            same machine with the same number of threads.
        device: ``cpu`` or ``cuda``.
        work_folder: exported data, sets, teachers and logs; used again by the next call.

    Returns:
        The set's columns, accuracies by role in percent with their learning rates (``lr_...``), the score from
        fractions (``lrs`` or ``ars``), and as DD-Ranking prints it, from percent (``lrs_ddranking``,
        ``ars_ddranking``). ``weights`` says how weights entered: ``equal`` (the set has none), ``ignored``, ``loss`` or
        ``sampler``. The random reference is the same for all sets of one IPC, and never weighted.

    Raises:
        EvaluationError: DD-Ranking is missing or of another version; a set, model or protocol does not fit.
    """
    check_host()
    settings = settings or HostSettings()
    if metric not in RAW:
        raise EvaluationError(f"there is no metric {metric!r}; use 'lrs' or 'ars'")
    named, protocol = labelled(sets), score_protocol(settings)
    for _, made in named:
        check_set(made, data, None if isinstance(data, HostData) else data.class_counts("train"))
        training_arguments(protocol, made.ipc, metric=metric)
    bench = _Bench.prepare(data, metric, student, teacher or student, settings, seed, device, Path(work_folder))
    jobs = [
        (place, label, made, way)
        for place, (label, made) in enumerate(named)
        for way in ways_of(made, settings.weighting)
    ]
    rows: list[dict[str, Any]] = []
    epochs = bench.epochs([made.ipc for _, _, made, _ in jobs])
    with bar(epochs, f"DD-Ranking {metric}, epochs", show=progress) as shown:
        for job in jobs:
            rows += bench.score(*job, epoch_done=lambda: shown.update(1))
    return make_frame(rows)


@dataclass
class _Bench:
    """Everything that the sets of one call share."""

    data: HostData
    metric: str
    student: str
    teacher: str
    settings: HostSettings
    protocol: Protocol
    seed: int
    device: str
    folder: Path
    store: Store
    teacher_folder: Path
    full_data: dict[str, float]
    references: dict[int, dict]

    @classmethod
    def prepare(
        cls,
        data: ImageData | HostData,
        metric: str,
        student: str,
        teacher: str,
        settings: HostSettings,
        seed: int,
        device: str,
        folder: Path,
    ) -> _Bench:
        """Export the data, and train or find the teacher and the student on full data."""
        protocol, store = score_protocol(settings), Store(folder)
        own = isinstance(data, HostData)
        host = data if isinstance(data, HostData) else export_data(data, protocol, store)
        student, teacher = student.removeprefix(PREFIX), teacher.removeprefix(PREFIX)
        full = {} if settings.full_data_accuracy is None else {split_name(student)[0]: settings.full_data_accuracy}
        teachers = Path(settings.teacher_folder) if settings.teacher_folder else None
        if own:
            _check_own(host, student, teacher, metric, full, teachers)
        else:
            for name in (student, teacher):
                host_student(name, host.num_classes, host.image_size)
            train, first = teacher_training(settings, protocol), settings.teacher_seed

            def trained(name: str) -> Teacher:
                assert isinstance(data, ImageData)
                return stored_teacher(data, PREFIX + name, train, seed=first, device=device, store=store)

            if metric == "lrs" and not full:
                full[split_name(student)[0]] = trained(student).test_accuracy
            if teachers is None:
                made = trained(teacher)
                teachers = folder / "teacher_models" / made.fingerprint
                write_checkpoint(made, teacher, host.name, teachers)
        return cls(host, metric, student, teacher, settings, protocol, seed, device, folder, store, teachers, full, {})

    def epochs(self, ipcs: Sequence[int]) -> int:
        """Return the epochs of all trainings on sets of these IPC; a reference is trained once for each IPC."""
        rates = len(self.settings.learning_rates)
        soft = 1 if self.settings.set_learning_rate else rates
        own, reference = (rates + soft, rates) if self.metric == "lrs" else (2 * soft, 2 * rates)
        trainings = {ipc: own * ipcs.count(ipc) + reference for ipc in set(ipcs)}
        return self.settings.evaluations * sum(
            count * by_ipc(self.protocol.epochs, ipc) for ipc, count in trainings.items()
        )

    def score(
        self, position: int, label: str, made: DistilledSet, way: str, epoch_done: Callable[[], None]
    ) -> list[dict[str, Any]]:
        """Run the evaluator on one set and return its rows."""
        from .evaluators import AugmentationScore, HostRun, LabelScore, accuracies

        started = time.perf_counter()
        images = stored_set(made, self.data, self.store, self.data.image_size) / "images"
        place = self.folder / "scores" / hash_key([label, made.hash, way, self.metric, *self._setting()])[:16]
        place.mkdir(parents=True, exist_ok=True)
        reference = self.references.setdefault(made.ipc, {})
        run = HostRun(self.settings, self.seed, images, reference)
        weights = made.weights if way in ("loss", "sampler") else None
        kind = LabelScore if self.metric == "lrs" else AugmentationScore
        with patched_host(
            self.data,
            self.settings,
            full_data=self.full_data,
            new_evaluation=run.new_evaluation,
            weights_of=lambda folder: weights if run.is_set(folder) else None,
            epoch_done=epoch_done,
            log=place / "ddranking.log",
        ):
            evaluator = kind(run, **self._arguments(made.ipc, place))
            balance = {"lrs_lambda" if self.metric == "lrs" else "ars_lambda": self.settings.balance}
            evaluator.compute_metrics(image_path=str(images), syn_lr=self.settings.set_learning_rate, **balance)
        raw = pd.read_csv(place / "scores.csv")[RAW[self.metric][0]]
        seconds = (time.perf_counter() - started) / self.settings.evaluations
        return [
            make_row(
                self._known(label, way) | {"place": position, "evaluation": number},
                made,
                {"seconds": seconds, "device_train": self.device, RAW[self.metric][1]: float(raw[number])}
                | self._found(accuracies(found))
                | {f"lr_{role}": rate for role, (_, rate) in found.items()},
            )
            for number, found in run.found.items()
        ]

    def _found(self, roles: dict[str, float]) -> dict[str, float]:
        if self.metric == "lrs" and "full_hard" not in roles:
            roles["full_hard"] = self._full_data_accuracy()
        return roles | score_columns(roles, self.settings.balance)

    def _full_data_accuracy(self) -> float | None:
        from ddranking.utils import REAL_DATA_ACC_CACHE

        model = split_name(self.student)[0]
        return self.full_data.get(model, REAL_DATA_ACC_CACHE.get(f"{self.data.name}-{model}"))

    def _known(self, label: str, way: str) -> dict[str, Any]:
        return {
            "label": label,
            "metric": self.metric,
            "evaluator": f"ddranking {KNOWN_VERSION}",
            "weights": way,
            "dataset": self.data.name.removeprefix("ddoq-"),
            "student": PREFIX + self.student,
            "teacher": PREFIX + self.teacher,
            "protocol": self.protocol.name,
            "seed": self.seed,
        }

    def _setting(self) -> list[Any]:
        protocol = self.protocol.model_dump(mode="json")
        return [self.student, self.teacher, self.settings.model_dump(mode="json"), protocol, self.seed, self.data.name]

    def _arguments(self, ipc: int, place: Path) -> dict[str, Any]:
        """Return every argument of the evaluator: what is left out it may default to CUDA or to values it rejects."""
        data, protocol = self.data, self.protocol
        batch_size, size = by_ipc(protocol.batch_size, ipc), data.image_size
        model, torchvision = split_name(self.student)
        teacher, teacher_torchvision = split_name(self.teacher)
        arguments = {
            "dataset": data.name,
            "real_data_path": str(data.folder),
            "ipc": ipc,
            "model_name": model,
            "num_eval": self.settings.evaluations,
            "im_size": (size, size),
            "num_workers": self.settings.workers,
            "stu_use_torchvision": torchvision,
            "tea_use_torchvision": teacher_torchvision,
            "teacher_dir": str(self.teacher_folder),
            "teacher_model_names": [teacher],
            # utils/data.py:262-272 never clears the folder of its random images, so every score has its own
            "random_data_path": str(place / "random"),
            "random_data_format": "image",  # soft_label.py:461, aug_robust.py:386: 'tensor' cannot run
            # without a transform, soft_label.py:273 and :338 hand PIL images to the collation
            "custom_train_trans": transforms_of(protocol, data.normaliser, size),
            "custom_val_trans": transforms_of(protocol, data.normaliser, size, scored=True),
            "device": self.device,
            "dist": False,  # utils/misc.py:60-65: NCCL and torchrun only
            "save_path": str(place / "scores.csv"),
            **training_arguments(protocol, ipc, metric=self.metric),
        }
        if self.metric == "ars":
            return arguments | {"label_type": "soft", "batch_size": batch_size}  # aug_robust.py:298: 'hard' cannot run
        return arguments | {
            "use_aug_for_hard": False,
            "syn_batch_size": batch_size,
            "real_batch_size": 256,
            "eval_full_data": self._full_data_accuracy() is None,
        }


def _check_own(
    data: HostData, student: str, teacher: str, metric: str, full: dict[str, float], teachers: Path | None
) -> None:
    """Raise EvaluationError where one of DD-Ranking's own datasets lacks what only we could have trained."""
    from ddranking.utils import REAL_DATA_ACC_CACHE, REAL_DATA_TRAINING_CONFIG

    if teachers is None:
        raise EvaluationError(
            f"DD-Ranking's own dataset {data.name} comes without a teacher; name the folder of yours "
            f"(teacher_folder: <folder>/{data.name}/{split_name(teacher)[0]}/ckpt_best.pt)"
        )
    key = f"{data.name}-{split_name(student)[0]}"
    if metric == "lrs" and not full and key not in REAL_DATA_ACC_CACHE and key not in REAL_DATA_TRAINING_CONFIG:
        raise EvaluationError(  # soft_label.py:286 and :539
            f"DD-Ranking knows no full-data accuracy of {student} on {data.name}; give full_data_accuracy in percent"
        )
