"""Tables as text: markdown, LaTeX, CSV and plain."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from ..errors import ConfigError, nearest
from .tables import MEAN, STATISTICS

STYLES = ("markdown", "latex", "csv", "plain")


def format_table(table: pd.DataFrame, style: str = "markdown") -> str:
    """Return a table as text.

    Args:
        table: of ``cross_model_table``, or one of the smaller tables of this package. ``attrs`` give ``heading``,
            ``footnotes`` and, for a table of means, ``digits`` after the point (default 1).
        style: "markdown", "latex" (needs booktabs), "csv" (heading and footnotes as # lines, one column per statistic)
            or "plain" (for a terminal).

    Raises:
        ConfigError: there is no such style.
    """
    if style not in STYLES:
        raise ConfigError(f"there is no table style {style!r}{nearest(style, STYLES)} (styles: {', '.join(STYLES)})")
    if style == "csv":
        table = flat_table(table)
    if isinstance(table.columns, pd.MultiIndex):
        heading, rows, names = _cross_model(table, style)
    else:
        heading, rows, names = _simple(table, style)
    notes = list(table.attrs.get("footnotes", []))
    return _WRITERS[style](heading, names, rows, notes)


def flat_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with plain column names and its lines' names as columns."""
    flat = table.copy()
    flat.columns = [" ".join(filter(None, name)) if isinstance(name, tuple) else str(name) for name in table.columns]
    return flat.reset_index() if isinstance(table.index, pd.MultiIndex) else flat


def _cross_model(table: pd.DataFrame, style: str) -> tuple[str, list[list[str]], list[str]]:
    students = [student for student in table.columns.get_level_values(0).unique() if student != "note"]
    heading = table.attrs.get("heading", "")
    records = list(zip(table.index, table.to_dict("records"), strict=True))
    usual, digits = _usual_seeds(table, students), table.attrs.get("digits", 1)
    noted = any(record["note", ""] for _, record in records)
    rows = [
        [*(_escape(part, style) for part in _line(key)),
         *(_cell(record, student, usual, digits, style) for student in students),
         *([_escape(record["note", ""], style)] if noted else [])]
        for key, record in records
    ]  # fmt: skip
    heading += f" n = {usual} unless given in brackets." if usual else ""
    return heading, rows, ["method", "IPC", "K", *students, *(["note"] if noted else [])]


def _line(key: tuple) -> list[str]:
    return ["" if pd.isna(part) else str(part) for part in key]


def _usual_seeds(table: pd.DataFrame, students: Sequence[str]) -> int:
    counts = Counter(int(n) for student in students for n in table[student, "n"] if n)
    return counts.most_common(1)[0][0] if counts else 0


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
    named = [name for name in table.index.names if name is not None]
    flat = table.reset_index() if named else table
    convert = _plain_value if style == "csv" else _short_value
    rows = [[_escape(convert(value), style) for value in row] for row in flat.itertuples(index=False, name=None)]
    return table.attrs.get("heading", ""), rows, [str(name) for name in flat.columns]


def _plain_value(value: object) -> str:
    if isinstance(value, str):
        return value
    return "" if pd.isna(value) else repr(float(value)) if isinstance(value, float) else str(value)


def _short_value(value: object) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "–"
    if isinstance(value, float):
        size = abs(value)
        return f"{value:.3g}" if size < 1 else f"{value:.{2 if size < 10 else 1 if size < 1000 else 0}f}"
    return str(value)


def _escape(text: str, style: str) -> str:
    if style == "latex":
        for character in "&%_#":
            text = text.replace(character, f"\\{character}")
    return text.replace("|", r"\|") if style == "markdown" else text


def _markdown(heading: str, names: list[str], rows: list[list[str]], notes: list[str]) -> str:
    lines = [heading, ""] if heading else []
    lines += ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", *(f"- {note}" for note in notes)] if notes else []
    return "\n".join(lines) + "\n"


def _latex(heading: str, names: list[str], rows: list[list[str]], notes: list[str]) -> str:
    def line(cells: list[str]) -> str:
        return " & ".join(cells) + r" \\"

    signs = {"†": r"$\dagger$", "‡": r"$\ddagger$", "±": r"$\pm$", "–": "--", "<": "$<$", "²": "$^2$"}

    def text(sentence: str) -> str:
        for sign, written in signs.items():
            sentence = sentence.replace(sign, written)
        return sentence

    body = [line([text(cell) for cell in row]) for row in rows]
    remarks = [f"% {sentence}" for sentence in [heading, *notes] if sentence]
    columns = "l" + "r" * (len(names) - 1)
    head = line([_escape(text(name), "latex") for name in names])
    return "\n".join(
        [*remarks, rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule",
         r"\end{tabular}"]
    ) + "\n"  # fmt: skip


def _csv(heading: str, names: list[str], rows: list[list[str]], notes: list[str]) -> str:
    out = io.StringIO()
    for sentence in [heading, *notes]:
        if sentence:
            out.write(f"# {sentence}\n")
    csv.writer(out, lineterminator="\n").writerows([names, *rows])
    return out.getvalue()


def _plain(heading: str, names: list[str], rows: list[list[str]], notes: list[str]) -> str:
    widths = [max(len(row[place]) for row in [names, *rows]) for place in range(len(names))]

    def line(cells: list[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    lines = [heading, ""] if heading else []
    lines += [line(names), line(["-" * width for width in widths]), *map(line, rows)]
    lines += ["", *notes] if notes else []
    # bold is a star here
    return "\n".join(lines).replace("Bold:", "*:") + "\n"


_WRITERS = {"markdown": _markdown, "latex": _latex, "csv": _csv, "plain": _plain}
