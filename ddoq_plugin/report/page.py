"""RESULTS.md: every run with its config, machine, tables, pictures, and what its numbers support."""

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import yaml

from ..errors import EvaluationError
from ..text_tables import fenced, safe, safe_block, without_folders
from .conclusions import findings
from .costs import cost_table, training_cost_table
from .diagnostics import convergence_table, distribution_table
from .figures import accuracy_figure, w2_figure
from .formatting import format_table, published, write_tables
from .rows import Run
from .score_tables import DatasetScores, scores_of_runs
from .tables import cross_model_table

INTRODUCTION = (
    "Written by `ddoq report` from the result rows of the runs below; nothing here is edited by hand. Figures of "
    "different protocols, priors or datasets must not be compared with each other."
)
TOP5_FROM = 20  # classes; of fewer, five guesses are nearly always enough
TITLES = {
    "accuracy": "Accuracy",
    "accuracy_top5": "Top-5 accuracy",
    "distribution": "Distance to the data",
    "convergence": "Are the students trained to convergence?",
    "cost": "Cost of a set and a student, end to end",
    "training_cost": "Cost of a training",
}
MACHINE = {
    "processor": "{}", "cores": "{} cores", "memory_gib": "{} GiB memory", "gpu": "{}", "system": "{}",
    "python": "Python {}",
}  # fmt: skip
DATA = {"train": "{} train", "val": "{} validation", "test": "{} test images", "image_size": "{0}x{0} pixels"}
SCORES = "LRS and ARS"


def run_tables(run: Run) -> dict[str, pd.DataFrame]:
    """Return the tables of a run that have a line, by name (a key of ``TITLES``), in the order of the page."""
    classes = len((run.meta.get("dataset") or {}).get("classes") or ())
    top5 = classes >= TOP5_FROM and run.frame["top5"].notna().any()
    tables = {
        "accuracy": cross_model_table(run.frame),
        "accuracy_top5": cross_model_table(run.frame, "top5") if top5 else None,
        "distribution": distribution_table(run.frame),
        "convergence": convergence_table(run.frame),
        "cost": cost_table(run.frame, run.meta),
        "training_cost": training_cost_table(run.frame),
    }
    return {name: table for name, table in tables.items() if table is not None and len(table)}


def write_results(
    runs: Sequence[Run], path: str | Path, *, pictures: str | Path | None = None, tables: bool = True
) -> Path:
    """Write the markdown page of some runs, and DD-Ranking's scores where they suffice; return the page's path.

    ``pictures`` is the folder for figures and copies of the contact sheets (``<pictures>/<run>/*.png``), by default
    ``results`` beside the page; links are relative to the page. ``tables`` writes the tables there, too
    (``<pictures>/<run>/tables``). Raises EvaluationError where there is no run, two have one name, or a table cannot
    mix the rows."""
    if not runs:
        raise EvaluationError("there is no run to report; give at least one run's folder")
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise EvaluationError(f"two runs are called {double!r}; give one of them another name")
    page = Path(path)
    folder = page.parent / "results" if pictures is None else Path(pictures)
    parts = ["# Results\n", INTRODUCTION + "\n"]
    if len(runs) > 1:
        parts.append("\n".join(f"- [{name}](#{_anchor(name)})" for name in [*names, SCORES]) + "\n")
    parts += [_section(run, page, folder / _anchor(run.name), tables) for run in runs]
    parts.append(_scores(scores_of_runs(runs), page, folder / _anchor(SCORES)))
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(without_folders("\n".join(parts)), encoding="utf-8")
    return page


def _section(run: Run, page: Path, folder: Path, with_files: bool) -> str:
    tables = run_tables(run)
    if with_files:
        write_tables(tables, folder / "tables")
    shown = {name: f"### {TITLES[name]}\n\n{format_table(table)}" for name, table in tables.items()}
    notes = str(run.meta.get("notes") or "")
    parts = [f"## {run.name}\n", notes and safe_block(notes.strip()) + "\n"]
    parts += [text for name, text in shown.items() if name.startswith("accuracy")]
    parts += ["### What these numbers support, and what not\n", _list(findings(run.frame))]
    parts.append(_figures(run, page, folder))
    parts += [text for name, text in shown.items() if not name.startswith("accuracy")]
    parts += [_contact_sheets(run, page, folder), "### How it was made\n", _provenance(run, page, folder)]
    return "\n".join(part for part in parts if part)


def _scores(found: Sequence[DatasetScores], page: Path, folder: Path) -> str:
    """Return the section on LRS and ARS: a table for each dataset that has one, and what the runs lack."""
    parts = [f"## {SCORES}\n"]
    for scores in found:
        if scores.table is not None:
            place = folder / _anchor(scores.dataset)
            write_tables({"lrs_ars": scores.table}, place)
            scores.rows.to_csv(place / "scores.csv", index=False)
            link = os.path.relpath(place / "scores.csv", page.parent)
            parts.append(f"{format_table(scores.table)}- The accuracies behind them: [scores.csv]({link})\n")
        if scores.missing:
            parts.append(_list([scores.missing]))
    return "\n".join(parts)


def _figures(run: Run, page: Path, folder: Path) -> str:
    drawn = [("Accuracy over images per class", accuracy_figure(run.frame, folder / "accuracy.png"))]
    # W2 has a meaning within one space only
    if run.frame["w2_used"].notna().any() and run.frame["space"].dropna().nunique() <= 1:
        drawn.append(("Accuracy against W2", w2_figure(run.frame, folder / "w2.png")))
    return "### Figures\n\n" + "\n".join(_picture(title, file, page) for title, file in drawn)


def _contact_sheets(run: Run, page: Path, folder: Path) -> str:
    if not run.contact_sheets:
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    links = []
    for title, file in run.contact_sheets.items():
        target = folder / f"{_anchor(title)}.png"
        if Path(file).resolve() != target.resolve():
            shutil.copyfile(file, target)
        links.append(f"{safe(title)}:\n\n" + _picture(title, target, page))
    return "### Distilled sets\n\n" + "\n".join(links)


def _provenance(run: Run, page: Path, folder: Path) -> str:
    """Return machine, versions, commit, data, config and rows: what the numbers can be traced to.

    The rows are written beside the pictures, so that the page keeps its evidence when the run's folder is gone."""
    meta, frame, dataset = run.meta, run.frame, run.meta.get("dataset") or {}
    rows = folder / "rows.csv"
    rows.parent.mkdir(parents=True, exist_ok=True)
    published(frame.dropna(axis="columns", how="all")).to_csv(rows, index=False)
    counts = ", ".join(f"{count} {status}" for status, count in frame["status"].value_counts().items())
    versions = ", ".join(f"{name} {version}" for name, version in (meta.get("versions") or {}).items())
    same = dataset.get("classes") and (meta.get("teacher") or {}).get("classes") == dataset["classes"]
    sizes = ", ".join(text.format(dataset[name]) for name, text in DATA.items() if dataset.get(name) is not None)
    notes = "; ".join(dataset.get("notes") or [])
    facts = {
        "Machine": ", ".join(text.format(meta[name]) for name, text in MACHINE.items() if meta.get(name)),
        "Versions": _values(frame, "versions") or versions,
        "Commit": _values(frame, "commit") or meta.get("commit"),
        "Config hash": _values(frame, "config_hash"),
        "Device": _values(frame, "device_train"),
        "Data": f"{dataset.get('name')}: {sizes}" + (f" ({notes})" if notes else "") if dataset else None,
        "Classes": ", ".join(dataset.get("classes", [])[:20]),
        "Teacher's classes": "the same, in this order" if same else None,
        "Protocol": _values(frame, "protocol"),
        "Rows": f"{counts}, one a trained student: [{rows.name}]({os.path.relpath(rows, page.parent)})",
    }
    parts = [_list([f"{name}: {fact}" for name, fact in facts.items() if fact])]
    protocol = meta.get("protocol") or ""
    if not isinstance(protocol, str):
        protocol = yaml.safe_dump(protocol, sort_keys=False, allow_unicode=True)
    for title, text in (("Config", run.config_text), ("Protocol", protocol)):
        if text:
            parts.append(f"<details><summary>{title}</summary>\n\n{fenced(text, 'yaml')}\n\n</details>\n")
    return "\n".join(parts)


def _values(frame: pd.DataFrame, column: str) -> str:
    """Return the values of a column; several are all named, since a resumed run may have them."""
    return "; ".join(map(str, sorted(frame[column].dropna().unique()))) if column in frame else ""


def _picture(title: str, file: Path, page: Path) -> str:
    link = Path(os.path.relpath(file.resolve(), page.parent.resolve())).as_posix()
    return f"![{safe(title)}]({link})\n"


def _list(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {' '.join(safe(sentence).split())}" for sentence in sentences) + "\n"


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", title.lower()).strip("-") or "run"
