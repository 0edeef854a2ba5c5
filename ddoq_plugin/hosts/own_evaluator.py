"""LRS and ARS of distilled sets by our own training loop: any dataset, any student, weights in the loss.

The same protocol, learning rates and seeds as :func:`~ddoq_plugin.hosts.ddranking.score_with_ddranking`, with two
differences that matter: the learning rate is chosen on the validation split, never on test, and the accuracy is that of
the last epoch, not the best of several."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..data.splitting import drawn
from ..errors import EvaluationError
from ..evaluation import Protocol, SoftLabelBank, TrainingSet, make_bank, score, train_student
from ..evaluation.inputs import Normaliser
from ..evaluation.runtime import resolve
from ..progress import bar
from ..record import make_row
from ..report import make_frame
from ..report.robust_scores import score_columns
from ..seeding import derive_seed
from ..store.artifacts import Store
from .exports import check_set
from .networks import check_host_student, stored_teacher
from .settings import HostSettings, jobs_of, score_protocol

if TYPE_CHECKING:
    import pandas as pd

    from ..data import ImageData
    from ..distilled_set import DistilledSet

STORED_LOGITS = 1 << 28  # float16: half a gibibyte
ROLES = {
    "lrs": ("set_hard", "set_soft", "random_soft"),
    "ars": ("set_soft", "random_soft", "set_plain", "random_plain"),
}


def own_scores(
    sets: Mapping[str, DistilledSet] | Sequence[DistilledSet],
    data: ImageData,
    *,
    metrics: Sequence[str] = ("lrs", "ars"),
    student: str = "convnet3",
    teacher: str | None = None,
    settings: HostSettings | None = None,
    seed: int = 0,
    device: str = "cpu",
    work_folder: str | Path = "runs/ddranking",
    progress: bool = True,
) -> pd.DataFrame:
    """Score sets with our own evaluation and return one row a set, way of weighting and repetition.

    ``sets``: by label or with the label of their provenance. ``data``: the dataset they were made from. ``metrics``:
    ``lrs``, ``ars`` or both; they share trainings. ``student``, ``teacher``: registered students, also DD-Ranking's
    (``ddranking:ConvNet-3``); teacher None: the student's architecture. Both are trained on the full data by
    ``settings.teacher_protocol``, the student for LRS. ``settings``: its ``weighting`` ``sampler`` is DD-Ranking's
    alone. ``seed``, ``device``, ``work_folder``: as in ``score_with_ddranking``; the two share teachers.

    The columns are those of ``score_with_ddranking``, with ``val_...`` beside the learning rates ``lr_...``.
    EvaluationError: a set, student or protocol does not fit."""
    unknown = [metric for metric in metrics if metric not in ROLES]
    if unknown or not metrics:
        raise EvaluationError(f"there is no metric {(unknown or [''])[0]!r}; use 'lrs' or 'ars'")
    settings = settings or HostSettings()
    if settings.weighting == "sampler":
        raise EvaluationError("our own scores put weights into the loss; use weighting 'loss' or 'off'")
    jobs, rows = jobs_of(sets, settings.weighting), []
    for _, _, made, _ in jobs:
        check_set(made, data, data.class_counts("train"))
    bench = _Bench(data, metrics, student, teacher or student, settings, seed, device, Store(work_folder))
    with bar(len(jobs) * settings.evaluations, "own scores", show=progress) as shown:
        for job in jobs:
            for number in range(settings.evaluations):
                rows.append(bench.score(*job, number))
                shown.update(1)
    return make_frame(rows)


def role_protocols(protocol: Protocol) -> dict[str, Protocol]:
    """Return the trainings that the scores compare, from the one with soft labels and augmentation (``soft``).

    ``hard``: class labels, the same crops and mirrors, no mixing, as LRS in DD-Ranking trains it (use_aug_for_hard
    False). ``plain``: soft labels of the images as they are (ARS without augmentation)."""
    hard: dict[str, Any] = {"label_mode": "hard", "loss": {"name": "cross_entropy"}, "mixing": {}}
    changes: dict[str, dict[str, Any]] = {"hard": hard, "plain": {"augmentation": {}, "mixing": {}}}
    return {"soft": protocol} | {
        role: Protocol.model_validate(protocol.model_dump() | change | {"name": f"{protocol.name} {role}"})
        for role, change in changes.items()
    }


def random_reference(data: ImageData, ipc: int, seed: int) -> TrainingSet:
    """Return ``ipc`` training images of each class, drawn without replacement, of equal weights."""
    members = map(data.train.class_indices, range(data.num_classes))
    chosen = torch.cat([drawn(rows, ipc, "random reference", seed, c) for c, rows in enumerate(members)])
    return TrainingSet(data.train.images(chosen), data.train.labels[chosen])


class _Bench:
    """What the sets of one call share; ``references``: (IPC, repetition, role) -> outcome."""

    def __init__(
        self,
        data: ImageData,
        metrics: Sequence[str],
        student: str,
        teacher: str,
        settings: HostSettings,
        seed: int,
        device: str,
        store: Store,
    ) -> None:
        protocol, full = score_protocol(settings), settings.full_data_accuracy
        check_host_student(student, data, protocol)
        if "lrs" in metrics and full is None:
            full = stored_teacher(data, student, settings, device, store).test_accuracy
        self.teacher = stored_teacher(data, teacher, settings, device, store)
        self.teacher.check_classes(data.class_names)
        self.data, self.metrics, self.student, self.settings = data, metrics, student, settings
        self.protocols, self.full_hard, self.seed, self.device = role_protocols(protocol), full, seed, device
        self.references: dict[tuple[int, int, str], dict[str, float]] = {}

    def score(self, place: int, label: str, made: DistilledSet, way: str, number: int) -> dict[str, Any]:
        """Return the row of one set and repetition."""
        started = time.perf_counter()
        training = TrainingSet.from_set(made, self.protocols["soft"], self.data.image_size)
        if way != "loss":
            training = replace(training, weights=None)
        wanted = dict.fromkeys(role for metric in self.metrics for role in ROLES[metric])
        outcomes = {role: self._outcome(role, training, made.ipc, number) for role in wanted}
        roles = {role: outcome["test"] for role, outcome in outcomes.items()}
        if "lrs" in self.metrics:
            roles["full_hard"] = self.full_hard
        if "ars" in self.metrics:
            roles |= {"set_augmented": roles["set_soft"], "random_augmented": roles["random_soft"]}
        known = {"label": label, "place": place, "weights": way, "evaluation": number, "seed": self.seed}
        known |= {"metric": " ".join(self.metrics), "evaluator": "ddoq_plugin", "dataset": self.data.name}
        known |= {"student": self.student, "teacher": self.teacher.name, "protocol": self.protocols["soft"].name}
        result = {"device_train": self.device, "seconds": time.perf_counter() - started}
        result |= roles | score_columns(roles, self.settings.balance)
        for kind in ("lr", "val"):
            result |= {f"{kind}_{role}": outcome[kind] for role, outcome in outcomes.items()}
        return make_row(known, made, result)

    def _outcome(self, role: str, training: TrainingSet, ipc: int, number: int) -> dict[str, float]:
        source, kind = role.split("_")
        if source == "set":
            return self._train(training, kind, number, self.settings.set_learning_rate if kind != "hard" else None)
        if (ipc, number, role) not in self.references:
            images = random_reference(self.data, ipc, derive_seed("own scores", self.seed, number))
            self.references[ipc, number, role] = self._train(images, kind, number, None)
        return self.references[ipc, number, role]

    def _train(self, training: TrainingSet, kind: str, number: int, rate: float | None) -> dict[str, float]:
        """Train at every learning rate; return the test accuracy of the one that is best on validation."""
        best: dict[str, Any] = {}
        rates = self.settings.learning_rates if rate is None else (rate,)
        # the same stream for every training of a repetition: set and reference differ in their images alone
        seed = derive_seed("own scores", self.seed, number)
        base, bank = self._labelled(training, self.protocols[kind], len(rates), seed)
        for tried in rates:
            changes = {"optimizer": base.optimizer.model_copy(update={"lr": tried}), "students": {}}
            protocol = base.model_copy(update=changes)
            result = train_student(
                training, self.student, protocol, self.data, bank=bank, seed=seed, device=self.device, split="val",
                teacher=self.teacher if protocol.label_mode == "soft_online" else None,
            )  # fmt: skip
            if not best or result.top1 > best["val"]:
                best = {"val": result.top1, "lr": tried, "model": result.model, "protocol": protocol}
        protocol = best["protocol"]
        tested = score(
            best["model"],
            self.data.test,
            normaliser=Normaliser.named(protocol.normalisation, self.data),
            image_size=protocol.image_size or self.data.image_size,
            scoring=protocol.scoring,
            running=resolve(protocol.execution, self.student, self.device),
            device=self.device,
        )
        return {"test": tested.top1, "val": best["val"], "lr": best["lr"]}

    def _labelled(
        self, training: TrainingSet, protocol: Protocol, trainings: int, seed: int
    ) -> tuple[Protocol, SoftLabelBank | None]:
        """Return the protocol of trainings that see the same batches, and these batches' labels, made once in memory.

        A single training, or one of very many labels, has none: it asks the teacher step by step."""
        stored = protocol.model_copy(update={"label_mode": "soft_stored", "students": {}})
        numbers = stored.numbers(self.student, len(training), self.data.num_classes)
        logits = numbers.steps * numbers.batch_size * self.data.num_classes
        if not protocol.needs_teacher or trainings == 1 or logits > STORED_LOGITS:
            return protocol, None
        return stored, make_bank(training.images, self.teacher, stored, steps=numbers.steps, seed=seed)
