"""Result rows as a data frame: one row a trained student, read from the files of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from ..errors import EvaluationError

FULL_DATA, FULL_DATA_TWICE = "full_data", "full_data_2x"
REQUIRED = ("method", "label", "ipc", "clusters", "student", "seed", "status")
STAGES = ("latents", "codebooks", "images", "distill", "label", "train")
"""Stages whose cost a row knows; ``distill`` is all that making the set took, the first three included."""

OF_TRAINING = ("images_per_second", "peak_memory_mb", "device")  # without a stage in their name, they are training's


def cost_column(what: str, stage: str) -> str:
    """Return the column of a stage's ``seconds``, ``images_per_second``, ``peak_memory_mb`` or ``device``."""
    return what if stage == "train" and what in OF_TRAINING else f"{what}_{stage}"


TEXTS = (
    "settings", "weighting", "dataset", "prior", "teacher", "protocol", "error", "set_hash", "image_hash",
    "versions", "config_hash", "commit", "run", "space", *(cost_column("device", stage) for stage in STAGES),
)  # fmt: skip
NUMBERS = (
    "top1", "top5", "val_top1", "w2_used", "w2_uniform", "effective_sample_size", "teacher_val_top1",
    "teacher_test_top1",
    *(cost_column(what, stage) for what in ("seconds", "images_per_second", "peak_memory_mb") for stage in STAGES),
)  # fmt: skip
COLUMNS = (*REQUIRED, *NUMBERS, *TEXTS)
SETTING = ("dataset", "prior", "teacher", "protocol")  # what must be one and the same within a table


class RowKey(NamedTuple):
    """A line of a table. ``clusters`` is None for a method without clusters; both numbers are None for full data."""

    label: str
    ipc: int | None
    clusters: int | None

    def __str__(self) -> str:
        if self.ipc is None:
            return "full data"
        return f"{self.label}, IPC {self.ipc}" + ("" if self.clusters is None else f", K = {self.clusters}")


@dataclass(frozen=True)
class Run:
    """One run as a report needs it.

    Attributes:
        frame: its rows (see ``load_rows``).
        config_text: the resolved config, YAML.
        meta: machine, versions, commit, notes and whatever else ``meta.json`` holds.
        contact_sheets: title -> PNG of a distilled set.
    """

    frame: pd.DataFrame
    config_text: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    contact_sheets: Mapping[str, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.meta.get("name") or single(self.frame, "run") or "run")


def load_rows(folder: str | Path) -> pd.DataFrame:
    """Read the rows of a run.

    Args:
        folder: a run's folder (with ``rows/*.json``), or the folder of the row files itself.

    Returns:
        A frame with the columns ``COLUMNS`` and whatever else the rows hold, in a fixed order of rows.

    Raises:
        EvaluationError: there is no such folder, it has no row, or a file is no row.
    """
    root = Path(folder)
    place = root / "rows" if (root / "rows").is_dir() else root
    files = sorted(place.glob("*.json")) if place.is_dir() else []
    if place == root:
        files = [file for file in files if file.name != "meta.json"]
    if not files:
        raise EvaluationError(f"there are no result rows in {place}; run the sweep first, or give its output folder")
    teacher = _teacher_columns(root / "meta.json")
    return make_frame([teacher | _read(file) for file in files])


def load_run(folder: str | Path) -> Run:
    """Read a run's folder: ``rows/*.json``, ``config.yaml`` (with its notes) and ``meta.json`` where they are there.

    Raises:
        EvaluationError: see ``load_rows``.
    """
    root = Path(folder)
    config = root / "config.yaml"
    text = config.read_text(encoding="utf-8") if config.is_file() else ""
    notes = (yaml.safe_load(text) or {}).get("notes", "")
    return Run(load_rows(root), text, {"notes": notes, **_meta(root / "meta.json")})


def make_frame(rows: list[Mapping[str, Any]] | pd.DataFrame) -> pd.DataFrame:
    """Return a frame with every column of ``COLUMNS``: IPC, clusters and seed as nullable integers, numbers as float64.

    Raises:
        EvaluationError: a column that every row must have is missing, or a cell has two rows of the same seed.
    """
    frame = pd.DataFrame(rows).reset_index(drop=True)
    missing = [column for column in REQUIRED if column not in frame.columns]
    if missing:
        raise EvaluationError(f"the result rows have no column {missing[0]!r}; a row needs {', '.join(REQUIRED)}")
    for column in COLUMNS:
        if column not in frame.columns:
            frame[column] = None
    for column in ("ipc", "clusters", "seed"):
        frame[column] = pd.to_numeric(frame[column]).astype("Int64")
    for column in NUMBERS:
        frame[column] = pd.to_numeric(frame[column]).astype("float64")
    cell = ["method", "label", "ipc", "clusters", "student", "seed"]
    doubled = frame[frame.duplicated([*cell, *SETTING], keep=False)]
    if len(doubled):
        first = doubled.iloc[0]
        key = row_key(first)
        raise EvaluationError(
            f"two rows have {key}, student {first['student']}, seed {first['seed']}; keep one of them"
        )
    order = frame.assign(_rank=[_rank(row_key(row)) for row in frame.to_dict("records")])
    return order.sort_values(["_rank", "student", "seed"], kind="stable").drop(columns="_rank").reset_index(drop=True)


def row_key(row: Mapping[str, Any] | pd.Series) -> RowKey:
    """Return the table line that a result row belongs to."""
    return RowKey(str(row["label"]), _integer(row["ipc"]), _integer(row["clusters"]))


def sort_keys(keys: set[RowKey] | list[RowKey]) -> list[RowKey]:
    """Return lines in the order of a table: by IPC, random selection first, DDOQ last, full data at the end."""
    return sorted(set(keys), key=_rank)


def distilled_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of students that were trained on distilled sets."""
    return frame[~frame["method"].isin((FULL_DATA, FULL_DATA_TWICE))]


def single(frame: pd.DataFrame, column: str) -> Any:
    """Return the one value of ``column``, or None where there is none.

    Raises:
        EvaluationError: the rows have several values; a table would mix them.
    """
    if column not in frame.columns:
        return None
    values = list(dict.fromkeys(value for value in frame[column] if not pd.isna(value)))
    if len(values) > 1:
        listed = ", ".join(map(str, values))
        raise EvaluationError(f"the rows mix several values of {column} ({listed}); make a table of each one alone")
    return values[0] if values else None


def students_of(frame: pd.DataFrame) -> list[str]:
    """Return the students' names, sorted."""
    return sorted(frame["student"].dropna().unique())


def values_by_seed(frame: pd.DataFrame, metric: str) -> dict[tuple[RowKey, str], dict[int, float]]:
    """Return {(line, student): {seed: value}} of the finished rows that have a value."""
    found: dict[tuple[RowKey, str], dict[int, float]] = {}
    for row in frame.to_dict("records"):
        if row["status"] == "done" and not pd.isna(row[metric]):
            found.setdefault((row_key(row), row["student"]), {})[int(row["seed"])] = float(row[metric])
    return found


def _rank(key: RowKey) -> tuple:
    family = 0 if key.label.startswith("random") else 2 if key.label.startswith("ddoq") else 1
    # equal weights, the paired reference of the others, stand first
    return (
        key.ipc is None,
        key.ipc or 0,
        family,
        "uniform" not in key.label,
        key.label,
        key.clusters is not None,
        key.clusters or 0,
    )


def _integer(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)


def _meta(file: Path) -> dict[str, Any]:
    return _read(file) if file.is_file() else {}


def _teacher_columns(file: Path) -> dict[str, float | None]:
    """Return the teacher's accuracy, which a run keeps beside its rows."""
    teacher = _meta(file).get("teacher") or {}
    return {f"teacher_{part}_top1": teacher.get(f"{part}_accuracy") for part in ("val", "test")}


def _read(file: Path) -> dict[str, Any]:
    try:
        row = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise EvaluationError(
            f"the file {file} cannot be read ({problem}); remove it and run the sweep again"
        ) from None
    if not isinstance(row, dict):
        raise EvaluationError(f"the file {file} is no mapping; remove it from the run's folder")
    return row
