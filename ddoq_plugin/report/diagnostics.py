"""The tables beside the cross-model table: W2 and effective sample size, convergence; and their building blocks."""

import statistics
from collections.abc import Sequence

import pandas as pd

from .rows import FULL_DATA, FULL_DATA_TWICE, RowKey, distilled_rows, row_key, trained_rows, values_by_seed

KEYS = ("method", "IPC", "K")
_SCALES = {
    "latent": "the prior's latents, at the scale that its denoiser takes",
    "noise": "the prior's latents, inverted to noise",
    "pixel": "pixel values of 0 to 1",
}
CONVERGED_WITHIN = 1.0  # percentage points between full-data validation accuracy and that at twice the steps


def distribution_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return how near each set's points are to the data they stand for.

    One line per (method, IPC, clusters) that has these numbers; means over seeds (and classes, within a row):
    ``W2`` with the weights used, ``W2, equal weights``, ``reduction %`` of W2 by the weights, ``effective images``
    per class, (sum w)^2 / sum w^2. W2 is not squared, and compares only within one ``space``: where the lines have
    several, it is left out."""
    frame = trained_rows(frame)
    sets = distilled_rows(frame).drop_duplicates(["label", "ipc", "clusters", "seed"])
    grouped = by_line(sets[sets["effective_sample_size"].notna() | sets["w2_used"].notna()])
    rows = []
    for line, part in grouped.items():
        used, uniform, effective = (mean_of(part, name) for name in ("w2_used", "w2_uniform", "effective_sample_size"))
        reduction = 100 * (1 - used / uniform) if used and uniform else None
        space = ", ".join(sorted({str(value) for value in part["space"].dropna()}))
        rows.append((*keys_of(line), space, used, uniform, reduction, effective))
    table = table_of(rows, [*KEYS, "space", "W2", "W2, equal weights", "reduction %", "effective images"])
    spaces = sorted(set(table["space"]) - {""})
    if len(spaces) > 1:
        table = table.drop(columns=["W2", "W2, equal weights"])
        said = f"W2 is left out: these lines measure it in several spaces ({', '.join(spaces)}), which do not compare."
    else:
        scale = _SCALES.get(spaces[0], spaces[0]) if spaces else "the latents"
        table = table.drop(columns="space")
        said = f"W2 (not squared), in {scale}, between a class and the distinct points of its set."
    table.attrs["heading"] = f"{said} Means over classes and seeds; effective images per class: (Σw)² / Σw²."
    return table


def convergence_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return, per student, full-data validation accuracy at the protocol's steps and at twice as many, same seeds.

    ``converged`` is "yes" when the two are within 1 point."""
    frame = trained_rows(frame)
    frame = frame[frame["ipc"].isna()]
    found = [values_by_seed(frame[frame["method"] == method], "val_top1") for method in (FULL_DATA, FULL_DATA_TWICE)]
    once, twice = ({student: by_seed for (_, student), by_seed in values.items()} for values in found)
    rows = []
    for student in sorted(once.keys() & twice.keys()):
        seeds = sorted(once[student].keys() & twice[student].keys())
        if seeds:
            short, long = (statistics.fmean(part[student][seed] for seed in seeds) for part in (once, twice))
            converged = "yes" if abs(long - short) <= CONVERGED_WITHIN else "no"
            rows.append((student, short, long, long - short, len(seeds), converged))
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


def keys_of(line: RowKey) -> tuple[str, int | None, int | None]:
    """Return the values of the columns ``KEYS``, which name a line."""
    return "full data" if line.label == FULL_DATA else line.label, line.ipc, line.clusters


def mean_of(frame: pd.DataFrame, column: str) -> float | None:
    """Return the mean of the values that are there, or None."""
    found = frame[column].mean() if column in frame else None
    return None if pd.isna(found) else float(found)


def table_of(rows: Sequence[tuple | dict], columns: list[str]) -> pd.DataFrame:
    """Return lines as a frame with these columns; counts are nullable integers."""
    table = pd.DataFrame(rows, columns=columns)
    for name in ("IPC", "K", "seeds", "trainings"):
        if name in table.columns:
            table[name] = table[name].astype("Int64")
    return table
