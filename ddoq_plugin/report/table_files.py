"""Every table of a run, by name, and as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from .costs import cost_table, training_cost_table
from .diagnostics import convergence_table, distribution_table
from .formatting import flat_table, format_table
from .rows import Run
from .tables import cross_model_table

STYLES = {"markdown": "md", "latex": "tex", "csv": "csv"}
TOP5_FROM = 20  # classes; of fewer, five guesses are nearly always enough

TITLES = {
    "accuracy": "Accuracy",
    "accuracy_top5": "Top-5 accuracy",
    "distribution": "Distance to the data",
    "convergence": "Are the students trained to convergence?",
    "cost": "Cost of a set and a student, end to end",
    "training_cost": "Cost of a training",
}


def run_tables(run: Run) -> dict[str, pd.DataFrame]:
    """Return the tables of a run that have a line, by name (a key of ``TITLES``), in the order of the page."""
    classes = len((run.meta.get("dataset") or {}).get("classes") or ())
    tables = {
        "accuracy": cross_model_table(run.frame),
        "accuracy_top5": cross_model_table(run.frame, "top5") if _has_top5(run.frame, classes) else None,
        "distribution": distribution_table(run.frame),
        "convergence": convergence_table(run.frame),
        "cost": cost_table(run.frame, run.meta),
        "training_cost": training_cost_table(run.frame),
    }
    return {name: table for name, table in tables.items() if table is not None and len(table)}


def write_tables(tables: Mapping[str, pd.DataFrame], folder: str | Path) -> None:
    """Write tables into ``folder`` as Markdown, LaTeX, CSV and Parquet (``<name>.md``, ...).

    CSV and Parquet hold the numbers unrounded, one column a statistic ("mlp mean").
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        for style, suffix in STYLES.items():
            (folder / f"{name}.{suffix}").write_text(format_table(table, style=style), encoding="utf-8")
        flat_table(table).to_parquet(folder / f"{name}.parquet", index=False)


def _has_top5(frame: pd.DataFrame, classes: int) -> bool:
    return classes >= TOP5_FROM and bool(frame["top5"].notna().any())
