"""LRS and ARS over several runs: the same sets trained with class labels, with soft labels, and without augmentation.

A run has one protocol, and the scores compare several; so they are found over the runs of a report. What a run is for
follows from its protocol: class labels, soft labels, or soft labels without augmentation and mixing. Runs of one kind
whose protocols differ in the learning rate alone are a search: each cell takes its best on validation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..errors import EvaluationError
from .robust_scores import BALANCE, best_on_validation, random_labels, scores_from_rows
from .rows import FULL_DATA, RowKey, Run, lines_of, single, students_of, values_by_seed
from .tables import MEAN, cells_of, frame_of_cells, seeds_of

KINDS = {"soft": "soft labels", "hard": "class labels", "plain": "soft labels without augmentation"}
NEEDED = {"lrs": ("soft", "hard"), "ars": ("soft", "plain")}


@dataclass(frozen=True)
class DatasetScores:
    """The scores that the runs of one dataset suffice for: rows of ``scores_from_rows``, and :func:`score_table`.

    ``missing`` is one sentence on what the runs lack, or ""."""

    dataset: str
    missing: str
    rows: pd.DataFrame | None = None
    table: pd.DataFrame | None = None


def scores_of_runs(runs: Sequence[Run]) -> list[DatasetScores]:
    """Return LRS and ARS of the sets in some runs, dataset by dataset."""
    by_dataset: dict[str, list[Run]] = {}
    for run in runs:
        datasets = run.frame["dataset"].dropna().unique()
        by_dataset.setdefault(str(datasets[0]) if len(datasets) == 1 else "not stated", []).append(run)
    return [_of_dataset(dataset, part) for dataset, part in by_dataset.items()]


def training_kind(protocol: Mapping[str, Any] | None) -> str | None:
    """Return what a run with this protocol is for: a key of ``KINDS``, or None where the run does not say it."""
    if not isinstance(protocol, Mapping) or "label_mode" not in protocol:
        return None
    if protocol["label_mode"] == "hard":
        return "hard"
    augmentation, mixing = protocol.get("augmentation") or {}, protocol.get("mixing") or {}
    as_they_are = augmentation.get("crop", "none") == "none" and not augmentation.get("flip")
    return "plain" if as_they_are and mixing.get("name", "none") == "none" else "soft"


def score_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return scores (of ``scores_from_rows``) as a table of the form of ``cross_model_table``, as fractions.

    There is one line per (method, IPC, clusters). Columns are ("LRS mlp", statistic) for each score and student, and
    for the mean over students where there are several; means and deviations are over seeds."""
    lines, students = lines_of(rows), students_of(rows)
    cells: dict[tuple[RowKey, str], dict] = {}
    for score in NEEDED:
        if score in rows and rows[score].notna().any():
            names = [*students, MEAN] if len(students) > 1 else students
            columns = {f"{score.upper()} {name}": name for name in names}
            cells |= cells_of(values_by_seed(rows.assign(status="done"), score), lines, columns)
    table = frame_of_cells(cells, lines, list(dict.fromkeys(column for _, column in cells)), [""] * len(lines))
    table.attrs["digits"] = 3
    table.attrs["footnotes"] = [
        "Bold: the highest mean of its IPC and column; it need not differ from the next.",
        "0 to 1, higher is better; as good as random images is an ARS of 0.269. The package ddranking prints other "
        "numbers: it puts percent into the formula.",
    ]
    return table


def _of_dataset(dataset: str, runs: Sequence[Run]) -> DatasetScores:
    by_kind: dict[str, list[Run]] = {}
    for run in runs:
        by_kind.setdefault(training_kind(run.meta.get("protocol")) or "", []).append(run)
    lacking = {score: _lacking(score, by_kind) for score in NEEDED}
    needs = "; ".join(f"{score.upper()} needs {' and '.join(parts)}" for score, parts in lacking.items() if parts)
    missing = f"{dataset}: {needs}." if needs else ""
    if all(lacking.values()):
        return DatasetScores(dataset, missing)
    kinds = {kind for score, parts in lacking.items() if not parts for kind in NEEDED[score]}
    try:
        chosen = {kind: _rows_of_kind(kind, by_kind[kind]) for kind in KINDS if kind in kinds}
        teacher = _one_teacher([run for kind in ("soft", "plain") if kind in kinds for run in by_kind[kind]])
        rows = scores_from_rows(chosen["soft"], hard=chosen.get("hard"), plain=chosen.get("plain"))
    except EvaluationError as problem:
        return DatasetScores(dataset, f"{dataset}: no LRS or ARS, since {problem}.")
    if not any(score in rows and rows[score].notna().any() for score in NEEDED):
        return DatasetScores(dataset, f"{dataset}: no LRS or ARS, since no set is finished in every run.")
    parts = [f"DD-Ranking's scores (arXiv 2505.13300) from test accuracies as fractions, w = g = {BALANCE:g}"]
    parts.append(f"dataset {dataset}")
    for kind in chosen:
        names = " or ".join(f"{single(run.frame, 'protocol')} (run {run.name})" for run in by_kind[kind])
        choice = ", the better learning rate on validation" if len(by_kind[kind]) > 1 else ""
        parts.append(f"{KINDS[kind]}: {names}{choice}")
    table = score_table(rows)
    table.attrs["heading"] = "; ".join([*parts, f"teacher {teacher or 'not stated'}"]) + seeds_of(rows)
    return DatasetScores(dataset, missing, rows, table)


def _lacking(score: str, by_kind: Mapping[str, Sequence[Run]]) -> list[str]:
    """Return what must be added for a score, as parts of a sentence."""
    parts = [f"a run of the same sets with {KINDS[kind]}" for kind in NEEDED[score] if kind not in by_kind]
    for kind in NEEDED[score]:
        frames = [run.frame for run in by_kind.get(kind, [])]
        full = any((frame["method"] == FULL_DATA).any() for frame in frames)
        if frames and not (full if kind == "hard" else any(map(random_labels, frames))):
            parts.append(f"{'full data' if kind == 'hard' else 'random sets'} in the run with {KINDS[kind]}")
    return parts


def _rows_of_kind(kind: str, runs: Sequence[Run]) -> pd.DataFrame:
    """Return the rows of one kind of training; of several learning rates, each cell's best on validation."""
    training = _without_rates(runs[0].meta["protocol"])
    other = next((run for run in runs if _without_rates(run.meta["protocol"]) != training), None)
    if other is not None:
        raise EvaluationError(
            f"the runs {runs[0].name} and {other.name}, both with {KINDS[kind]}, have protocols that differ in "
            "more than the learning rate; report one of them at a time"
        )
    return runs[0].frame if len(runs) == 1 else best_on_validation(*(run.frame for run in runs))


def _without_rates(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Return what two protocols of one search must share."""
    kept = {name: value for name, value in protocol.items() if name not in ("name", "source", "ours")}
    optimizer, students = kept.get("optimizer") or {}, kept.get("students") or {}
    kept["optimizer"] = {**optimizer, "lr": None}
    kept["students"] = {student: {**numbers, "lr": None} for student, numbers in students.items()}
    return kept


def _one_teacher(runs: Sequence[Run]) -> str | None:
    """Return the teacher of runs with soft labels; EvaluationError where they have several."""
    frames = pd.concat([run.frame[["teacher", "teacher_test_top1"]] for run in runs], ignore_index=True)
    single(frames, "teacher_test_top1")  # one architecture trained otherwise is another teacher
    return single(frames, "teacher")
