"""The tables beside the cross-model table: W2 and effective sample size, convergence; and their building blocks."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import pandas as pd

from .rows import FULL_DATA, FULL_DATA_TWICE, RowKey, distilled_rows, row_key, trained_rows
from .rows import values_by_seed as _values

CONVERGED_WITHIN = 1.0  # percentage points between full-data validation accuracy and that at twice the steps


def distribution_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return how near each set's points are to the data they stand for.

    One line per (method, IPC, clusters) that has these numbers; means over seeds (and classes, within a row):
    ``W2`` with the weights used, ``W2, equal weights``, ``reduction %`` of W2 by the weights, ``effective images``
    per class, (sum w)^2 / sum w^2. W2 is not squared, and compares only within one ``space``.
    """
    frame = trained_rows(frame)
    sets = distilled_rows(frame).drop_duplicates(["label", "ipc", "clusters", "seed"])
    grouped = by_line(sets[sets["effective_sample_size"].notna() | sets["w2_used"].notna()])
    rows = []
    for line in grouped:
        used, uniform = (mean_of(grouped[line], name) for name in ("w2_used", "w2_uniform"))
        rows.append(
            {
                **keys_of(line),
                "space": _text(grouped[line], "space"),
                "W2": used,
                "W2, equal weights": uniform,
                "reduction %": None if not used or not uniform else 100 * (1 - used / uniform),
                "effective images": mean_of(grouped[line], "effective_sample_size"),
            }
        )
    measured = ["space", "W2", "W2, equal weights", "reduction %", "effective images"]
    table = table_of(rows, ["method", "IPC", "K", *measured])
    if table["space"].eq("").all():
        table = table.drop(columns="space")
    table.attrs["heading"] = (
        "W2 (not squared) between the latents of a class and the distinct points of its set, mean over classes and "
        "seeds; effective images per class: (Σw)² / Σw²."
    )
    return table


def convergence_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return, per student, full-data validation accuracy at the protocol's steps and at twice as many, same seeds.

    ``converged`` is "yes" when the two are within 1 point.
    """
    frame = trained_rows(frame)
    values = {key: by_seed for key, by_seed in _values(frame, "val_top1").items() if key[0].ipc is None}
    methods = {row_key(row): row["method"] for row in frame.to_dict("records")}
    once, twice = (
        {student: by_seed for (line, student), by_seed in values.items() if methods[line] == method}
        for method in (FULL_DATA, FULL_DATA_TWICE)
    )
    rows = []
    for student in sorted(once.keys() & twice.keys()):
        seeds = sorted(once[student].keys() & twice[student].keys())
        if not seeds:
            continue
        short, long = (statistics.fmean(part[student][seed] for seed in seeds) for part in (once, twice))
        rows.append(
            {
                "student": student,
                "val %": short,
                "val % at twice the steps": long,
                "difference": long - short,
                "seeds": len(seeds),
                "converged": "yes" if abs(long - short) <= CONVERGED_WITHIN else "no",
            }
        )
    table = table_of(rows, ["student", "val %", "val % at twice the steps", "difference", "seeds", "converged"])
    table.attrs["heading"] = (
        "Full training data, validation accuracy; a protocol counts as converged for a student when twice the steps "
        f"change it by at most {CONVERGED_WITHIN:g} point."
    )
    return table


def by_line(frame: pd.DataFrame) -> dict[RowKey, pd.DataFrame]:
    """Return the rows of each line of a table."""
    keys = [row_key(row) for row in frame.to_dict("records")]
    return {key: frame[[other == key for other in keys]] for key in dict.fromkeys(keys)}


def keys_of(line: RowKey) -> dict[str, object]:
    """Return the columns that name a line."""
    return {"method": "full data" if line.label == FULL_DATA else line.label, "IPC": line.ipc, "K": line.clusters}


def mean_of(frame: pd.DataFrame, column: str) -> float | None:
    """Return the mean of the values that are there, or None."""
    found = frame[column].mean() if column in frame else None
    return None if pd.isna(found) else float(found)


def _text(frame: pd.DataFrame, column: str) -> str:
    return ", ".join(sorted({str(value) for value in frame[column].dropna()}))


def table_of(rows: Sequence[dict[str, object]], columns: list[str]) -> pd.DataFrame:
    """Return lines as a frame with these columns; counts are nullable integers."""
    table = pd.DataFrame(rows, columns=columns)
    for name in ("IPC", "K", "seeds", "trainings"):
        if name in table.columns:
            table[name] = table[name].astype("Int64")
    return table
