"""The cross-model generalization table: methods, IPC and cluster counts against students."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import pandas as pd

from ..errors import EvaluationError, nearest
from .comparisons import (
    ALPHA,
    Comparison,
    compare_with_references,
    identical_lines,
    mean_over_students,
    number_of_tests,
)
from .rows import (
    FULL_DATA,
    FULL_DATA_TWICE,
    MOSAIC,
    RowKey,
    lines_of,
    row_key,
    single,
    students_of,
    trained_rows,
    values_by_seed,
)
from .statistics import detectable_difference

METRICS = {"top1": "top-1 accuracy in % on the test split", "top5": "top-5 accuracy in % on the test split",
           "val_top1": "top-1 accuracy in % on the validation split"}  # fmt: skip
MEAN = "mean over students"
STATISTICS = ("mean", "std", "n", "failed", "best", "mark")


def cross_model_table(frame: pd.DataFrame, metric: str = "top1") -> pd.DataFrame:
    """Return the cross-model table of result rows.

    Args:
        frame: result rows (``load_rows``), all of one dataset, prior, teacher and protocol.
        metric: "top1", "top5" (test split) or "val_top1".

    Returns:
        One line per (method, IPC, clusters), full data last (NA there). Columns are (student, statistic) for every
        student and for "mean over students": ``mean`` and ``std`` (percent; the sample standard deviation over seeds),
        ``n`` seeds, ``failed`` trainings, ``best`` (highest mean of its IPC and student), ``mark``: the signs of the
        reference methods that it differs from by a paired t test over seeds at 5 % after Holm's correction over the
        table (there is no test where the paired differences do not vary). ("note", "") names a line with the very same
        sets.
        The mean over students takes the seeds that every student has; it is not tested.
        ``attrs["heading"]`` and ``attrs["footnotes"]`` are the sentences that belong over and under the table.

    Raises:
        EvaluationError: the rows mix datasets, priors, teachers or protocols, or there is no such metric.
    """
    if metric not in METRICS:
        raise EvaluationError(
            f"there is no metric {metric!r}{nearest(metric, METRICS)} (metrics: {', '.join(METRICS)})"
        )
    frame = trained_rows(frame)
    frame = frame[frame["method"] != FULL_DATA_TWICE]
    heading = describe_setting(frame, metric)
    students = students_of(frame)
    values = values_by_seed(frame, metric)
    comparisons = compare_with_references(frame, metric)
    lines = lines_of(frame)
    cells = {(line, student): cell_of(values.get((line, student), {})) for line in lines for student in students}
    for line in lines:
        cells[line, MEAN] = cell_of(mean_over_students(values, line, students))
    _count_unfinished(cells, frame, metric)
    for comparison in comparisons:
        cells[comparison.line, comparison.student]["mark"] += comparison.mark
    mark_best(cells, lines, [*students, MEAN])
    same = identical_lines(frame)
    notes = [f"identical by construction to {same[line]}" if line in same else "" for line in lines]
    table = frame_of_cells(cells, lines, [*students, MEAN], notes)
    table.attrs["heading"] = heading
    table.attrs["footnotes"] = footnotes(frame, metric, comparisons, same)
    return table


def describe_setting(frame: pd.DataFrame, metric: str = "top1") -> str:
    """Return the line over a table: metric, dataset, prior, protocol, teacher with its accuracy, seeds.

    Raises:
        EvaluationError: the rows mix datasets, priors, teachers or protocols.
    """
    dataset, prior, protocol = (single(frame, column) for column in ("dataset", "prior", "protocol"))
    seeds = sorted(int(seed) for seed in frame["seed"].dropna().unique())
    parts = [
        METRICS[metric],
        f"dataset {dataset or 'not stated'}",
        f"prior {prior or 'none'}",
        f"protocol {protocol or 'not stated'}",
        _describe_teacher(frame),
        f"{'seed' if len(seeds) == 1 else 'seeds'} {ranges(seeds)}",
        "mean ± sample standard deviation over seeds",
    ]
    return "; ".join(parts) + "."


def footnotes(
    frame: pd.DataFrame, metric: str, comparisons: Sequence[Comparison], same: Mapping[RowKey, RowKey]
) -> list[str]:
    """Return the sentences under a table: signs, what could be detected, identical sets, failures, test accuracy."""
    said = ["Bold: the highest mean of its IPC and student among the distilled sets; it need not differ from the next."]
    tested = [comparison for comparison in comparisons if not math.isnan(comparison.test.p)]
    if comparisons:
        legend = ", ".join(
            f"{sign} differs from {method}" + (" (the same K where it was run, otherwise K = IPC)" if with_k else "")
            for method, sign, with_k in sorted(_signs(comparisons))
        )
        count = number_of_tests(tested)
        said.append(
            f"{legend}: two-sided paired t test over seeds (same student, same IPC), p < {ALPHA} after Holm's "
            f"correction over the {count} tests of this table (none where the paired differences do not vary)."
        )
    said += _detectable(tested)
    if any(line.label.endswith(MOSAIC) for line in lines_of(frame)):
        said.append("Mosaic: every stored image holds four of a quarter of its size; IPC counts stored images.")
    if same:  # the column "note" names them
        said.append("Lines that are identical by construction are the very same sets, trained and tested once.")
    failed = int((frame["status"] == "failed").sum())
    if failed:
        said.append(f"{failed} of {len(frame)} rows failed: they count in no mean.")
    return said


def _signs(comparisons: Sequence[Comparison]) -> set[tuple[str, str, bool]]:
    """Return the references that were compared with: method, sign, and whether it has clusters."""
    with_clusters = {one.method for one in comparisons if one.reference.clusters is not None}
    return {(one.method, one.sign, one.method in with_clusters) for one in comparisons}


def _detectable(tested: Sequence[Comparison]) -> list[str]:
    """Say how large a true difference would have had to be, at the usual number of seeds and the usual spread."""
    if not tested:
        return []
    n = statistics.mode(comparison.test.n for comparison in tested)
    spread = statistics.median(comparison.test.std for comparison in tested if comparison.test.n == n)
    count = number_of_tests(tested)
    plain, corrected = (detectable_difference(n, spread, alpha) for alpha in (ALPHA, ALPHA / count))
    return [
        f"Smallest difference that {n} seeds detect with 80 % power: {points(plain)} points for one test at "
        f"{100 * ALPHA:g} %, {points(corrected)} points for the first of the {count} corrected tests (standard "
        f"deviation of the paired differences: {spread:.2f} points, the median of this table)."
    ]


def points(value: float) -> str:
    """Return percentage points with one digit, or what cannot be."""
    return f"{value:.1f}" if value <= 100 else "more than 100"


def _describe_teacher(frame: pd.DataFrame) -> str:
    teacher = single(frame, "teacher")
    if teacher is None:
        return "no teacher"
    known = [("val", single(frame, "teacher_val_top1")), ("test", single(frame, "teacher_test_top1"))]
    accuracy = ", ".join(f"{part} {value:.1f} %" for part, value in known if value is not None)
    return f"teacher {teacher}" + (f" ({accuracy})" if accuracy else "")


def ranges(seeds: Sequence[int]) -> str:
    """Return seeds as text, in a row as "0 to 2"."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds)) or "none"


def cell_of(by_seed: Mapping[int, float]) -> dict:
    """Return the statistics of one cell from its values by seed."""
    found = list(by_seed.values())
    return {
        "mean": statistics.fmean(found) if found else math.nan,
        "std": statistics.stdev(found) if len(found) > 1 else math.nan,
        "n": len(found),
        "failed": 0,
        "best": False,
        "mark": "",
    }


def _count_unfinished(cells: dict, frame: pd.DataFrame, metric: str) -> None:
    """Count trainings without a value as failed."""
    for row in frame.to_dict("records"):
        if row["status"] != "done" or pd.isna(row[metric]):
            cells[row_key(row), row["student"]]["failed"] += 1
            cells[row_key(row), MEAN]["failed"] += 1


def mark_best(cells: dict, lines: Sequence[RowKey], columns: Sequence[str]) -> None:
    """Mark the highest mean of each IPC and column among the distilled sets' lines."""
    distilled = [line for line in lines if line.ipc is not None]
    for ipc in {line.ipc for line in distilled}:
        for column in columns:
            rivals = [cells[line, column] for line in distilled if line.ipc == ipc]
            highest = max((cell["mean"] for cell in rivals if cell["n"]), default=None)
            for cell in rivals:
                cell["best"] = highest is not None and cell["mean"] == highest


def frame_of_cells(
    cells: Mapping[tuple[RowKey, str], dict], lines: Sequence[RowKey], columns: Sequence[str], notes: Sequence[str]
) -> pd.DataFrame:
    """Return cells as a table: (method, IPC, clusters) x (column, statistic), and a note a line."""
    content = {
        (column, name): [cells[line, column][name] for line in lines] for column in columns for name in STATISTICS
    }
    content["note", ""] = list(notes)
    table = pd.DataFrame(content, index=_index(lines))
    table.columns = pd.MultiIndex.from_tuples(content, names=["student", "statistic"])
    return table


def _index(lines: Sequence[RowKey]) -> pd.MultiIndex:
    labels = ["full data" if line.label == FULL_DATA else line.label for line in lines]
    numbers = [pd.array([getattr(line, name) for line in lines], dtype="Int64") for name in ("ipc", "clusters")]
    return pd.MultiIndex.from_arrays([labels, *numbers], names=["method", "ipc", "clusters"])
