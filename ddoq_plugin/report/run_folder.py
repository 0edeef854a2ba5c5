"""The report of a run's own folder: its page, its tables in every format, its pictures."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..distilled_set import DistilledSet
from ..outputs import writing
from ..set_folder import PROVENANCE
from .figures import contact_sheet
from .formatting import format_table, published, write_tables
from .page import run_tables, write_results
from .rows import Run, load_run

SHOWN_IPC = 10  # a contact sheet shows at most this many images a class


def open_run(folder: str | Path) -> Run:
    """Read a run's folder, and draw the contact sheets of its sets (first seed, largest IPC) that are not there."""
    folder = Path(folder)
    return replace(load_run(folder), contact_sheets=draw_contact_sheets(folder))


def write_run_report(folder: str | Path, say: Callable[[str], None] = lambda text: None) -> str:
    """Write page, tables and pictures into a run's folder; return where the files are. ``say`` gets the table first.

    ``tables/`` gets every table as Markdown, LaTeX, CSV and Parquet, and the rows as CSV and Parquet.
    Raises EvaluationError where the folder has no rows, StoreError where it cannot be written."""
    folder = Path(folder)
    run = load_run(folder)
    tables = run_tables(run)
    say(format_table(tables["accuracy"], style="plain"))  # whatever the disk does next
    with writing(folder, "the run's folder"):
        run = replace(run, contact_sheets=draw_contact_sheets(folder))
        write_tables(tables, folder / "tables")
        rows = published(run.frame)
        rows.to_csv(folder / "tables" / "rows.csv", index=False)
        rows.to_parquet(folder / "tables" / "rows.parquet", index=False)
        page = write_results([run], folder / "RESULTS.md", pictures=folder / "figures", tables=False)
    return f"The page: {page}\nTables: {folder / 'tables'}\nDistilled sets: {folder / 'sets'}"


def draw_contact_sheets(folder: Path) -> dict[str, Path]:
    """Draw each method's set of the largest IPC and the first seed; return title -> PNG in ``figures/sets``."""
    # a run that was copied without its store has links to nowhere
    files = [file for file in sorted((folder / "sets").glob(f"*/{PROVENANCE}")) if file.is_file()]
    found = [(file, json.loads(file.read_text(encoding="utf-8"))["provenance"]) for file in files]
    ipc = max((about["ipc"] for _, about in found), default=None)
    seed = min((about["seed"] for _, about in found), default=None)
    sheets = {}
    for file, about in found:
        if (about["ipc"], about["seed"]) == (ipc, seed):
            picture = folder / "figures" / "sets" / f"{file.parent.name}.png"
            if not picture.exists() or picture.stat().st_mtime < file.stat().st_mtime:
                contact_sheet(DistilledSet.load(file.parent), picture, per_class=SHOWN_IPC)
            sheets[title_of(file.parent.name)] = picture
    return sheets


def title_of(name: str) -> str:
    """Return the title of a set from its folder's name: "ddoq_sqrt_ipc10_k20_seed0" is "ddoq sqrt, IPC 10, K = 20"."""
    label, ipc, clusters = re.fullmatch(r"(.+)_ipc(\d+)(?:_k(\d+))?_seed\d+", name).groups()
    return f"{label.replace('_', ' ')}, IPC {ipc}" + ("" if clusters is None else f", K = {clusters}")
