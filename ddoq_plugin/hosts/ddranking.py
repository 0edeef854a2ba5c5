"""DD-Ranking's evaluators, the unmodified PyPI package, on distilled sets of any method.

>>> rows = score_with_ddranking({"ddoq": made}, load_data("digits"), metric="lrs", student="ConvNet-3",
...                             settings=host_settings("short"), work_folder="runs/ddranking")

Only two of its evaluators can run, ``LabelRobustScoreSoft`` and ``AugmentationRobustScore``, both with a teacher's
labels of every augmented batch (its mode 'M') and with images from folders; these are the ones used."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import torch

from ..errors import EvaluationError
from ..evaluation.protocol import by_ipc
from ..progress import bar
from ..record import make_row
from ..report import make_frame
from ..report.robust_scores import score_columns
from ..store.artifacts import Store, hash_key
from .exports import HostData, check_set, export_data, stored_set
from .networks import PREFIX, check_host_student, split_name, stored_teacher
from .patches import KNOWN_VERSION, check_host, patched_host
from .settings import HostSettings, jobs_of, score_protocol, training_arguments, transforms_of

if TYPE_CHECKING:
    from ..data import ImageData
    from ..distilled_set import DistilledSet

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

    ``sets``: by label or with the label of their provenance. ``data``: the dataset they were made from, or one of
    DD-Ranking's own on disk (:func:`~ddoq_plugin.hosts.exports.own_data`, which needs ``settings.teacher_folder``).
    ``metric``: ``lrs`` (``LabelRobustScoreSoft``) or ``ars`` (``AugmentationRobustScore``). ``student``, ``teacher``:
    DD-Ranking's names of models (teacher None: the student's architecture). ``settings``: default those of its
    leaderboard. ``seed``: of students and random images (the teacher's is a setting); the same seed gives the same rows
    on the same machine with the same number of threads. ``device``: ``cpu`` or ``cuda``. ``work_folder``: exported
    data, sets, teachers and logs; used again by the next call.

    The rows hold the set's columns, accuracies by role in percent with their learning rates (``lr_...``), the score
    from fractions (``lrs`` or ``ars``), and as DD-Ranking prints it, from percent (``lrs_ddranking``,
    ``ars_ddranking``). ``weights`` says how weights entered: ``equal`` (the set has none), ``ignored``, ``loss`` or
    ``sampler``. The random reference is the same for all sets of one IPC, and never weighted.
    EvaluationError: DD-Ranking is missing or of another version, or a set, model or protocol does not fit."""
    check_host()
    settings = settings or HostSettings()
    if metric not in RAW:
        raise EvaluationError(f"there is no metric {metric!r}; use 'lrs' or 'ars'")
    jobs, protocol = jobs_of(sets, settings.weighting), score_protocol(settings)
    for _, _, made, _ in jobs:
        check_set(made, data, None if isinstance(data, HostData) else data.class_counts("train"))
        training_arguments(protocol, made.ipc, metric=metric)
    bench = _Bench(data, metric, student, teacher or student, settings, seed, device, Path(work_folder))
    rows: list[dict[str, Any]] = []
    epochs = bench.epochs([made.ipc for _, _, made, _ in jobs])
    with bar(epochs, f"DD-Ranking {metric}, epochs", show=progress) as shown:
        for job in jobs:
            rows += bench.score(*job, epoch_done=lambda: shown.update(1))
    return make_frame(rows)


class _Bench:
    """What the sets of one call share: exported data, teacher, full-data accuracy, trainings on random images."""

    def __init__(
        self,
        data: ImageData | HostData,
        metric: str,
        student: str,
        teacher: str,
        settings: HostSettings,
        seed: int,
        device: str,
        folder: Path,
    ) -> None:
        self.metric, self.settings, self.seed, self.device, self.folder = metric, settings, seed, device, folder
        self.student, self.teacher = student.removeprefix(PREFIX), teacher.removeprefix(PREFIX)
        self.protocol, self.store = score_protocol(settings), Store(folder)
        self.full_accuracy = settings.full_data_accuracy
        self.teacher_folder = Path(settings.teacher_folder) if settings.teacher_folder else None
        self.references: dict[int, dict] = {}  # by IPC
        if isinstance(data, HostData):
            self.data = data
            self._check_own()
        else:
            self.data = export_data(data, self.protocol, self.store)
            self._train_on(data)

    def _train_on(self, data: ImageData) -> None:
        """Train or find the teacher, and the student on full data for its accuracy, where they are not given."""
        for name in (self.student, self.teacher):
            check_host_student(PREFIX + name, data, self.protocol)
        if self.metric == "lrs" and self.full_accuracy is None:
            made = stored_teacher(data, PREFIX + self.student, self.settings, self.device, self.store)
            self.full_accuracy = made.test_accuracy
        if self.teacher_folder is None:
            made = stored_teacher(data, PREFIX + self.teacher, self.settings, self.device, self.store)
            self.teacher_folder = self.folder / "teacher_models" / made.fingerprint
            path = self.teacher_folder / self.data.name / split_name(self.teacher)[0] / "ckpt_best.pt"
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save({key: value.cpu() for key, value in made.model.state_dict().items()}, path)

    def _check_own(self) -> None:
        """Raise EvaluationError where one of DD-Ranking's own datasets lacks what only we could have trained."""
        from ddranking.utils import REAL_DATA_TRAINING_CONFIG

        name, model = self.data.name, split_name(self.student)[0]
        if self.teacher_folder is None:
            raise EvaluationError(
                f"DD-Ranking's own dataset {name} comes without a teacher; name the folder of yours "
                f"(teacher_folder: <folder>/{name}/{split_name(self.teacher)[0]}/ckpt_best.pt)"
            )
        known = self._full_data_accuracy() is not None or f"{name}-{model}" in REAL_DATA_TRAINING_CONFIG
        if self.metric == "lrs" and not known:  # soft_label.py:286 and :539
            message = f"DD-Ranking knows no full-data accuracy of {self.student} on {name}"
            raise EvaluationError(f"{message}; give full_data_accuracy in percent")

    def epochs(self, ipcs: Sequence[int]) -> int:
        """Return the epochs of all trainings on sets of these IPC; a reference is trained once for each IPC."""
        rates = len(self.settings.learning_rates)
        soft = 1 if self.settings.set_learning_rate else rates
        own, reference = (rates + soft, rates) if self.metric == "lrs" else (2 * soft, 2 * rates)
        trainings = {ipc: own * ipcs.count(ipc) + reference for ipc in set(ipcs)}
        total = sum(count * by_ipc(self.protocol.epochs, ipc) for ipc, count in trainings.items())
        return self.settings.evaluations * total

    def score(
        self, position: int, label: str, made: DistilledSet, way: str, epoch_done: Callable[[], None]
    ) -> list[dict[str, Any]]:
        """Run the evaluator on one set and return its rows."""
        from .evaluators import AugmentationScore, HostRun, LabelScore

        started, settings, lrs = time.perf_counter(), self.settings, self.metric == "lrs"
        images = stored_set(made, self.data, self.store) / "images"
        numbers = [settings.model_dump(mode="json"), self.protocol.model_dump(mode="json"), self.seed, self.data.name]
        key = [label, made.hash, way, self.metric, self.student, self.teacher, *numbers]
        place = self.folder / "scores" / hash_key(key)[:16]
        place.mkdir(parents=True, exist_ok=True)
        run = HostRun(settings, self.seed, images, self.references.setdefault(made.ipc, {}))
        weights = made.weights if way in ("loss", "sampler") else None
        with patched_host(
            self.data,
            settings,
            full_data={} if self.full_accuracy is None else {split_name(self.student)[0]: self.full_accuracy},
            new_evaluation=run.new_evaluation,
            weights_of=lambda folder: weights if run.is_set(folder) else None,
            epoch_done=epoch_done,
            log=place / "ddranking.log",
        ):
            evaluator = (LabelScore if lrs else AugmentationScore)(run, **self._arguments(made.ipc, place))
            balance = {"lrs_lambda" if lrs else "ars_lambda": settings.balance}
            evaluator.compute_metrics(image_path=str(images), syn_lr=settings.set_learning_rate, **balance)
        column, shown = RAW[self.metric]
        raw = pd.read_csv(place / "scores.csv")[column]
        known = {"label": label, "place": position, "weights": way, "protocol": self.protocol.name, "seed": self.seed}
        known |= {"metric": self.metric, "evaluator": f"ddranking {KNOWN_VERSION}"}
        known |= {"student": PREFIX + self.student, "teacher": PREFIX + self.teacher}
        known |= {"dataset": self.data.name.removeprefix("ddoq-")}
        costs = {"seconds": (time.perf_counter() - started) / settings.evaluations, "device_train": self.device}
        rows = []
        for number, found in run.found.items():
            roles = {role: accuracy for role, (accuracy, _) in found.items()}
            if lrs and "full_hard" not in roles:
                roles["full_hard"] = self._full_data_accuracy()
            result = costs | {shown: float(raw[number])} | roles | score_columns(roles, settings.balance)
            result |= {f"lr_{role}": rate for role, (_, rate) in found.items()}
            rows.append(make_row(known | {"evaluation": number}, made, result))
        return rows

    def _full_data_accuracy(self) -> float | None:
        from ddranking.utils import REAL_DATA_ACC_CACHE

        if self.full_accuracy is not None:
            return self.full_accuracy
        return REAL_DATA_ACC_CACHE.get(f"{self.data.name}-{split_name(self.student)[0]}")

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
