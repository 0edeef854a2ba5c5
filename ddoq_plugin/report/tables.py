"""The cross-model generalization table: methods, IPC and cluster counts against students."""

import math
import statistics
from collections.abc import Mapping, Sequence

import pandas as pd

from ..errors import EvaluationError, nearest
from ..record import FULL_DATA, FULL_DATA_TWICE
from .comparisons import ALPHA, Comparison, compare_with_references, identical_lines, mean_over_students
from .rows import MOSAIC, RowKey, Values, lines_of, row_key, single, students_of, trained_rows, values_by_seed
from .statistics import PairedTest, detectable_difference

METRICS = {
    "top1": "top-1 accuracy in % on the test split",
    "top5": "top-5 accuracy in % on the test split",
    "val_top1": "top-1 accuracy in % on the validation split",
}
MEAN = "mean over students"
STATISTICS = ("mean", "std", "n", "failed", "best", "mark")


def cross_model_table(frame: pd.DataFrame, metric: str = "top1") -> pd.DataFrame:
    """Return the cross-model table of result rows (``load_rows``); ``metric`` is "top1", "top5" (test) or "val_top1".

    There is one line per (method, IPC, clusters), full data last (NA there). Columns are (student, statistic) for every
    student and for "mean over students", which takes the seeds that every student has and is not tested. Statistics are
    ``mean`` and ``std`` (percent; sample standard deviation over seeds), ``n`` seeds, ``failed`` trainings, ``best``
    (highest mean of its IPC and student) and ``mark``: the signs of the reference methods that it differs from by a
    paired t test over seeds at 5 % after Holm's correction over the table (no test where the paired differences do not
    vary). ("note", "") names a line with the very same sets. ``attrs["heading"]`` and ``attrs["footnotes"]`` are the
    sentences over and under the table. Raises EvaluationError where the rows mix datasets, priors, teachers or
    protocols, or where there is no such metric."""
    if metric not in METRICS:
        known = ", ".join(METRICS)
        raise EvaluationError(f"there is no metric {metric!r}{nearest(metric, METRICS)} (metrics: {known})")
    frame = trained_rows(frame)
    frame = frame[frame["method"] != FULL_DATA_TWICE]
    heading = _heading(frame, metric)
    comparisons, same = compare_with_references(frame, metric), identical_lines(frame)
    lines, columns = lines_of(frame), [*students_of(frame), MEAN]
    cells = cells_of(values_by_seed(frame, metric), lines, {column: column for column in columns})
    unfinished = frame[(frame["status"] != "done") | frame[metric].isna()]
    for row in unfinished.to_dict("records"):
        for column in (row["student"], MEAN):
            cells[row_key(row), column]["failed"] += 1
    for comparison in comparisons:
        cells[comparison.line, comparison.student]["mark"] += comparison.mark
    notes = [f"identical by construction to {same[line]}" if line in same else "" for line in lines]
    table = frame_of_cells(cells, lines, columns, notes)
    table.attrs |= {"heading": heading, "footnotes": _footnotes(frame, comparisons, same)}
    return table


def _heading(frame: pd.DataFrame, metric: str) -> str:
    """Return the line over a table; EvaluationError where the rows mix several settings."""
    dataset, prior, protocol, teacher = (single(frame, name) for name in ("dataset", "prior", "protocol", "teacher"))
    accuracies = [(part, single(frame, f"teacher_{part}_top1")) for part in ("val", "test") if teacher is not None]
    known = ", ".join(f"{part} {value:.1f} %" for part, value in accuracies if value is not None)
    parts = [METRICS[metric], f"dataset {dataset or 'not stated'}", f"prior {prior or 'none'}"]
    parts += [f"protocol {protocol or 'not stated'}", "no teacher" if teacher is None else f"teacher {teacher}"]
    return "; ".join(parts) + (f" ({known})" if known else "") + seeds_of(frame)


def _footnotes(frame: pd.DataFrame, comparisons: Sequence[Comparison], same: Mapping[RowKey, RowKey]) -> list[str]:
    """Return the sentences under a table: signs, what could be detected, mosaics, identical sets, failures."""
    said = ["Bold: the highest mean of its IPC and student among the distilled sets; it need not differ from the next."]
    tested = [one for one in comparisons if not math.isnan(one.test.p)]
    count = len({one.test_id for one in tested})
    if comparisons:
        with_clusters = {one.method for one in comparisons if one.reference.clusters is not None}
        legend = ", ".join(
            f"{sign} differs from {method}"
            + (" (the same K where it was run, otherwise K = IPC)" if method in with_clusters else "")
            for method, sign in sorted({(one.method, one.sign) for one in comparisons})
        )
        said.append(
            f"{legend}: two-sided paired t test over seeds (same student, same IPC), p < {ALPHA} after Holm's "
            f"correction over the {count} tests of this table (none where the paired differences do not vary)."
        )
    if tested:
        n, spread = usual_spread([one.test for one in tested])
        plain, corrected = (points(detectable_difference(n, spread, alpha)) for alpha in (ALPHA, ALPHA / count))
        said.append(
            f"Smallest difference that {n} seeds detect with 80 % power: {plain} points for one test at "
            f"{100 * ALPHA:g} %, {corrected} points for the first of the {count} corrected tests (standard "
            f"deviation of the paired differences: {spread:.2f} points, the median of this table)."
        )
    if any(line.label.endswith(MOSAIC) for line in lines_of(frame)):
        said.append("Mosaic: every stored image holds four of a quarter of its size; IPC counts stored images.")
    if same:  # the column "note" names them
        said.append("Lines that are identical by construction are the very same sets, trained and tested once.")
    failed = int((frame["status"] == "failed").sum())
    if failed:
        said.append(f"{failed} of {len(frame)} rows failed: they count in no mean.")
    return said


def usual_spread(tests: Sequence[PairedTest]) -> tuple[int, float]:
    """Return the usual number of seeds of some tests, and the median standard deviation of the tests that have it."""
    n = statistics.mode(test.n for test in tests)
    return n, statistics.median(test.std for test in tests if test.n == n)


def points(value: float) -> str:
    """Return percentage points with one digit, or what cannot be."""
    return f"{value:.1f}" if value <= 100 else "more than 100"


def seeds_of(frame: pd.DataFrame) -> str:
    """Return the end of a line over a table: its seeds, three and more in a row as "0 to 2"."""
    seeds = sorted(int(seed) for seed in frame["seed"].dropna().unique())
    in_a_row = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1))
    named = f"{seeds[0]} to {seeds[-1]}" if in_a_row else ", ".join(map(str, seeds)) or "none"
    return f"; {'seed' if len(seeds) == 1 else 'seeds'} {named}; mean ± sample standard deviation over seeds."


def cells_of(values: Values, lines: Sequence[RowKey], columns: Mapping[str, str]) -> dict[tuple[RowKey, str], dict]:
    """Return {(line, column): its ``STATISTICS``}; ``columns`` is {column: student, or ``MEAN`` over the others}.

    The highest mean of each IPC and column among the distilled sets' lines is marked as best."""
    students = [student for student in columns.values() if student != MEAN]
    cells: dict[tuple[RowKey, str], dict] = {}
    for column, student in columns.items():
        rivals: dict[int, list[dict]] = {}
        for line in lines:
            mean = student == MEAN
            found = mean_over_students(values, line, students) if mean else values.get((line, student), {})
            cells[line, column] = cell = _cell(list(found.values()))
            if line.ipc is not None and cell["n"]:
                rivals.setdefault(line.ipc, []).append(cell)
        for of_ipc in rivals.values():
            highest = max(cell["mean"] for cell in of_ipc)
            for cell in of_ipc:
                cell["best"] = cell["mean"] == highest
    return cells


def _cell(found: Sequence[float]) -> dict:
    mean, std = statistics.fmean(found) if found else math.nan, statistics.stdev(found) if len(found) > 1 else math.nan
    return dict(zip(STATISTICS, (mean, std, len(found), 0, False, ""), strict=True))


def frame_of_cells(
    cells: Mapping[tuple[RowKey, str], dict], lines: Sequence[RowKey], columns: Sequence[str], notes: Sequence[str]
) -> pd.DataFrame:
    """Return cells as a table: (method, IPC, clusters) x (column, statistic), and a note a line."""
    content = {
        (column, name): [cells[line, column][name] for line in lines] for column in columns for name in STATISTICS
    }
    content["note", ""] = list(notes)
    labels = ["full data" if line.label == FULL_DATA else line.label for line in lines]
    numbers = [pd.array([getattr(line, name) for line in lines], dtype="Int64") for name in ("ipc", "clusters")]
    index = pd.MultiIndex.from_arrays([labels, *numbers], names=["method", "ipc", "clusters"])
    table = pd.DataFrame(content, index=index)
    table.columns = pd.MultiIndex.from_tuples(content, names=["student", "statistic"])
    return table
