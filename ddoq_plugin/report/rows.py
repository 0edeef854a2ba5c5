"""Result rows as a data frame: one row a trained student, read from the files of a run or from a table of rows."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from .. import record
from ..errors import EvaluationError
from ..record import FULL_DATA, FULL_DATA_TWICE, REQUIRED

SETTING = ("dataset", "prior", "teacher", "protocol")  # what must be one and the same within a table
MOSAIC = " (mosaic)"  # behind the label of sets whose stored images hold four
ROW_FILES = ("rows.parquet", "rows.csv")


class RowKey(NamedTuple):
    """A line of a table. ``clusters`` is None for a method without clusters; both numbers are None for full data."""

    label: str
    ipc: int | None
    clusters: int | None

    def __str__(self) -> str:
        if self.ipc is None:
            return "full data"
        return f"{self.label}, IPC {self.ipc}" + ("" if self.clusters is None else f", K = {self.clusters}")


Values = dict[tuple[RowKey, str], dict[int, float]]  # {(line, student): {seed: value}}


@dataclass(frozen=True)
class Run:
    """One run as a report needs it: its rows (see ``load_rows``) and its resolved config (YAML).

    ``meta`` holds machine, versions, commit, notes and whatever else ``meta.json`` has; ``contact_sheets`` is title ->
    PNG of a distilled set."""

    frame: pd.DataFrame
    config_text: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    contact_sheets: Mapping[str, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.meta.get("name") or single(self.frame, "run") or "run")


def load_rows(path: str | Path) -> pd.DataFrame:
    """Read result rows as ``make_frame`` returns them; rows of earlier versions get today's columns.

    ``path`` is a run's folder (with ``rows/*.json``), the folder of the row files, a file ``*.csv`` or ``*.parquet`` of
    rows, or a folder with ``rows.parquet`` or ``rows.csv``. Raises EvaluationError where there are no rows to read."""
    root = Path(path)
    place = root / "rows" if (root / "rows").is_dir() else root
    files = sorted(file for file in place.glob("*.json") if place != root or file.name != "meta.json")
    table = next((file for file in (root, *(root / name for name in ROW_FILES)) if file.is_file()), None)
    if not files and table is None:
        raise EvaluationError(f"there are no result rows in {place}; run the sweep first, or give its output folder")
    rows = [_checked(file) for file in files] if files else _read_table(table)
    about = _meta(root).get("teacher") or {}  # a run keeps its teacher's accuracy beside the rows
    teacher = {f"teacher_{part}_top1": about.get(f"{part}_accuracy") for part in ("val", "test")}
    teacher = {name: value for name, value in teacher.items() if value is not None}
    return make_frame([row | {name: row.get(name) or value for name, value in teacher.items()} for row in rows])


def load_run(folder: str | Path) -> Run:
    """Read a run's folder: ``rows/*.json`` (see ``load_rows``), ``config.yaml`` with its notes, and ``meta.json``."""
    root = Path(folder)
    config = root / "config.yaml"
    text = config.read_text(encoding="utf-8") if config.is_file() else ""
    notes = (yaml.safe_load(text) or {}).get("notes", "")
    return Run(load_rows(root), text, {"notes": notes, **_meta(root)})


def make_frame(rows: Sequence[Mapping[str, Any]] | pd.DataFrame) -> pd.DataFrame:
    """Return rows as a frame with every column of :mod:`ddoq_plugin.record`, in its order and types.

    Columns of settings and of a method's own statistics are boolean, Int64, float64 or string, as all their values
    allow; members of families without a value are left out. Rows are in the order of a table: by IPC (full data last),
    the method's place in its config (those without one by label), clusters, student and seed. Raises EvaluationError
    where a required column is missing, a value does not fit its column, or a cell has two rows of the same seed."""
    given = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    if record.OLD & set(given.columns):
        given = pd.DataFrame([record.modern(row) for row in given.to_dict("records")])
    missing = [column for column in REQUIRED if column not in given.columns]
    if missing:
        raise EvaluationError(f"the result rows have no column {missing[0]!r}; a row needs {', '.join(REQUIRED)}")
    none = pd.Series([None] * len(given), index=given.index, dtype=object)
    members = [name for name in given.columns if name not in record.BY_NAME and given[name].notna().any()]
    names = sorted([*record.BY_NAME, *members], key=record.column_order)
    frame = pd.DataFrame({name: _typed(name, given.get(name, none)) for name in names}).reset_index(drop=True)
    labels = frame["label"]
    mosaics = labels.isin(labels[frame["mosaic"].fillna(1) > 1]) & ~labels.str.endswith(MOSAIC)
    frame["label"] = labels.where(~mosaics, labels + MOSAIC)  # so that every table and figure says it
    cells = frame[frame["evaluator"].isna()]  # a host may score several sets of one label
    doubled = cells[cells.duplicated(["method", "label", "ipc", "clusters", "student", "seed", *SETTING])]
    if len(doubled):
        first = doubled.iloc[0]
        raise EvaluationError(
            f"two rows have {row_key(first)}, student {first['student']}, seed {first['seed']}; keep one of them"
        )
    return frame.sort_values(["ipc", "place", "label", "clusters", "student", "seed"], kind="stable", ignore_index=True)


def trained_rows(rows: list[Mapping[str, Any]] | pd.DataFrame) -> pd.DataFrame:
    """Return the frame of trained students' rows: those of hosts' scores are left out."""
    frame = make_frame(rows)
    return frame[frame["evaluator"].isna()]


def row_key(row: Mapping[Any, Any] | pd.Series) -> RowKey:
    """Return the table line that a result row belongs to."""
    return RowKey(str(row["label"]), *(None if pd.isna(row[name]) else int(row[name]) for name in ("ipc", "clusters")))


def lines_of(frame: pd.DataFrame) -> list[RowKey]:
    """Return the lines of a frame's table, in the order of its rows."""
    return list(dict.fromkeys(row_key(row) for row in frame[["label", "ipc", "clusters"]].to_dict("records")))


def distilled_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of students that were trained on distilled sets."""
    return frame[~frame["method"].isin((FULL_DATA, FULL_DATA_TWICE))]


def single(frame: pd.DataFrame, column: str) -> Any:
    """Return the one value of ``column``, or None where there is none; EvaluationError where the rows mix several."""
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


def values_by_seed(frame: pd.DataFrame, metric: str) -> Values:
    """Return the values of the finished rows that have one."""
    found: Values = {}
    for row in frame[(frame["status"] == "done") & frame[metric].notna()].to_dict("records"):
        found.setdefault((row_key(row), row["student"]), {})[int(row["seed"])] = float(row[metric])
    return found


def _meta(folder: Path) -> dict[str, Any]:
    return _read(folder / "meta.json") if (folder / "meta.json").is_file() else {}


def _checked(file: Path) -> dict[str, Any]:
    """Return the row of a file, with a warning where it was edited; rows of earlier versions have no digest."""
    row = _read(file)
    if "digest" in row and (problem := record.flaw(row)) is not None:
        warnings.warn(f"{file} {problem}: the same sweep trains it again", stacklevel=3)
    return row


def _read_table(file: Path) -> list[dict[Any, Any]]:
    try:
        if file.suffix == ".parquet":
            return pd.read_parquet(file).to_dict("records")
        # texts first: pandas would guess types from the values that happen to be there
        return pd.read_csv(file, dtype=object, keep_default_na=False, na_values=[""]).to_dict("records")
    except (OSError, ValueError) as problem:
        message = f"the file {file} holds no result rows ({problem}); give rows.csv or rows.parquet"
        raise EvaluationError(message) from None


def _read(file: Path) -> dict[str, Any]:
    try:
        row = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        message = f"the file {file} cannot be read ({problem}); remove it and run the sweep again"
        raise EvaluationError(message) from None
    if not isinstance(row, dict):
        raise EvaluationError(f"the file {file} is no mapping; remove it from the run's folder")
    return row


def _typed(name: str, values: pd.Series) -> pd.Series:
    """Return a column in its declared type, whether its values are texts (of a CSV) or not."""
    column = record.column_of(name)
    texts: Any = values.astype(object)[[not record.is_missing(value) for value in values]].map(str)
    dtype = column.dtype if column is not None and column.dtype != "value" else _type_of(list(texts))
    if dtype == "boolean":
        made = texts.map({"True": True, "False": False, "true": True, "false": False})
    elif dtype == "string":
        made = texts
    else:
        try:
            made = texts.map(float if dtype == "float64" else _whole)
        except ValueError:
            message = f"the column {name!r} of the result rows has a value that is no {dtype}; correct its row"
            raise EvaluationError(message) from None
    return made.astype(dtype).reindex(values.index)


def _type_of(texts: list[str]) -> str:
    """Return the narrowest type that holds all values of a column that is not declared."""
    if all(text in ("True", "False") for text in texts):
        return "boolean"
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        return "string"
    return "Int64" if all(abs(one) < 2**53 and one == int(one) for one in numbers) else "float64"


def _whole(text: str) -> int:
    number = float(text)
    if not number.is_integer():
        raise ValueError(f"{text} is no whole number")
    return int(number)
