"""Tables as text (markdown, LaTeX, CSV and plain) and as files."""

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import ConfigError, nearest
from ..text_tables import markdown_table, plain_table, without_folders
from .tables import MEAN, STATISTICS

STYLES = {"markdown": ".md", "latex": ".tex", "csv": ".csv", "plain": None}  # style -> suffix of its file
_ESCAPED = {
    "latex": str.maketrans(
        {one: f"\\{one}" for one in "&%_#{}$"}
        | {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
    ),
    "markdown": str.maketrans({"|": r"\|", "<": "&lt;", "`": "&#96;", "\n": " "}),
}
_REMARK = {"latex": "%", "csv": "#"}  # what begins a line that holds a heading or a footnote


def format_table(table: pd.DataFrame, style: str = "markdown") -> str:
    """Return a table of ``cross_model_table``, or one of the smaller tables of this package, as text.

    ``style`` is "markdown", "latex" (needs booktabs), "csv" (heading and footnotes as # lines, one column per
    statistic) or "plain" (for a terminal); ConfigError for another. The table's ``attrs`` give ``heading``,
    ``footnotes`` and, for a table of means, ``digits`` after the point (default 1)."""
    if style not in STYLES:
        raise ConfigError(f"there is no table style {style!r}{nearest(style, STYLES)} (styles: {', '.join(STYLES)})")
    if style == "csv":
        table = flat_table(table)
    cells = _cross_model if isinstance(table.columns, pd.MultiIndex) else _simple
    heading, rows, names = cells(table, style)
    notes = table.attrs.get("footnotes", [])
    if style in _REMARK:
        remarks = [f"{_REMARK[style]} {sentence}\n" for sentence in [heading, *notes] if sentence]
        return "".join(remarks) + (_latex if style == "latex" else _csv)(names, rows)
    lines = [heading, ""] if heading else []
    if style == "markdown":
        lines.append(markdown_table([_escape(name, style) for name in names], rows, "|" + "---|" * len(names)))
        notes = [f"- {note}" for note in notes]
    else:
        widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
        lines.append(plain_table([names, ["-" * width for width in widths], *rows]))
        notes = [note.replace("Bold:", "*:") for note in notes]  # bold is a star here
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def write_tables(tables: Mapping[str, pd.DataFrame], folder: str | Path) -> None:
    """Write tables into ``folder`` as Markdown, LaTeX, CSV and Parquet (``<name>.md``, ...).

    CSV and Parquet hold the numbers unrounded, one column a statistic ("mlp mean")."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        for style, suffix in STYLES.items():
            if suffix is not None:
                text = without_folders(format_table(table, style=style))
                (folder / f"{name}{suffix}").write_text(text, encoding="utf-8")
        published(flat_table(table)).to_parquet(folder / f"{name}.parquet", index=False)


def published(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame whose texts hold no absolute paths of this machine."""
    made = frame.copy()
    for name in made.columns:
        if not pd.api.types.is_numeric_dtype(made[name]):
            made[name] = made[name].map(lambda one: without_folders(one) if isinstance(one, str) else one)
    return made.astype({name: frame[name].dtype for name in frame.columns})


def flat_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with plain column names and its lines' names as columns."""
    flat = table.copy()
    flat.columns = [" ".join(filter(None, name)) if isinstance(name, tuple) else str(name) for name in table.columns]
    return flat.reset_index() if isinstance(table.index, pd.MultiIndex) else flat


def _cross_model(table: pd.DataFrame, style: str) -> tuple[str, list[list[str]], list[str]]:
    students = [student for student in table.columns.get_level_values(0).unique() if student != "note"]
    heading = table.attrs.get("heading", "")
    records = list(zip(table.index, table.to_dict("records"), strict=True))
    counts = Counter(int(n) for student in students for n in table[student, "n"] if n)
    usual, digits = counts.most_common(1)[0][0] if counts else 0, table.attrs.get("digits", 1)
    noted = any(record["note", ""] for _, record in records)
    rows = [
        [*("" if pd.isna(part) else _escape(str(part), style) for part in key),
         *(_cell(record, student, usual, digits, style) for student in students),
         *([_escape(record["note", ""], style)] if noted else [])]
        for key, record in records
    ]  # fmt: skip
    heading += f" n = {usual} unless given in brackets." if usual else ""
    return heading, rows, ["method", "IPC", "K", *students, *(["note"] if noted else [])]


def _cell(record: dict, student: str, usual: int, digits: int, style: str) -> str:
    mean, std, n, failed, best, mark = (record[student, name] for name in STATISTICS)
    lost = [f"{failed} failed"] if failed else []
    if not n:
        return f"– ({', '.join(lost)})" if lost else "–"
    separator = r"\pm" if style == "latex" else "±"
    text = f"{mean:.{digits}f}" + ("" if math.isnan(std) else f" {separator} {std:.{digits}f}")
    if style == "latex":
        text = f"$\\mathbf{{{text}}}$" if best else f"${text}$"
        mark = mark.replace("†", r"\dagger").replace("‡", r"\ddagger")
        mark = f"$^{{{mark}}}$" if mark else ""
    elif best:
        text = f"**{text}**" if style == "markdown" else f"*{text}"
    # the mean over students counts seeds; trainings that failed are said in the students' own cells
    brackets = [*([f"n = {n}"] if n != usual else []), *(lost if student != MEAN else [])]
    return text + (f" {mark}" if mark else "") + (f" ({'; '.join(brackets)})" if brackets else "")


def _simple(table: pd.DataFrame, style: str) -> tuple[str, list[list[str]], list[str]]:
    flat = table.reset_index() if any(name is not None for name in table.index.names) else table
    rows = [[_escape(_value(value, style), style) for value in row] for row in flat.itertuples(index=False, name=None)]
    return table.attrs.get("heading", ""), rows, [str(name) for name in flat.columns]


def _value(value: Any, style: str) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "" if style == "csv" else "–"
    if not isinstance(value, float):
        return str(value)
    if style == "csv":
        return repr(float(value))
    size = abs(value)
    return f"{value:.3g}" if size < 1 else f"{value:.{2 if size < 10 else 1 if size < 1000 else 0}f}"


def _escape(text: str, style: str) -> str:
    return text.translate(_ESCAPED.get(style, {}))


def _latex(names: list[str], rows: list[list[str]]) -> str:
    signs = str.maketrans({"†": r"$\dagger$", "‡": r"$\ddagger$", "±": r"$\pm$", "–": "--", "<": "$<$", "²": "$^2$"})
    written = [" & ".join(row) + r" \\" for row in [[_escape(name, "latex") for name in names], *rows]]
    lines = [line.translate(signs) for line in written]
    head = [rf"\begin{{tabular}}{{l{'r' * (len(names) - 1)}}}", r"\toprule", lines[0], r"\midrule"]
    return "\n".join([*head, *lines[1:], r"\bottomrule", r"\end{tabular}"]) + "\n"


def _csv(names: list[str], rows: list[list[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([names, *rows])
    return out.getvalue()
