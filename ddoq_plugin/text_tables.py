"""Tables of texts as Markdown and as columns for a terminal, and texts of others made safe to publish."""

import html
import re
from collections.abc import Container, Sequence

Row = Sequence[str]
# folders of the machine that wrote a page say nothing to its reader
_ABSOLUTE_PATH = re.compile(r"(?<![\w.…/:)])/(?:[\w.@+-]+/)+(?P<name>[\w.@+-]+)")
_BLOCK = re.compile(r"^(\s*)([#>=+-]|\d+[.)])", re.MULTILINE)


def markdown_table(names: Row, rows: Sequence[Row], rule: str) -> str:
    """Return lines of cells between bars; ``rule`` is the line under the names."""
    first, *rest = ["| " + " | ".join(row) + " |" for row in (names, *rows)]
    return "\n".join([first, rule, *rest])


def plain_table(rows: Sequence[Row], right: Container[int] = ()) -> str:
    """Return columns two spaces apart, those with an index in ``right`` flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Row) -> str:
        pairs = enumerate(zip(row, widths, strict=True))
        return "  ".join(cell.rjust(width) if k in right else cell.ljust(width) for k, (cell, width) in pairs)

    return "\n".join(line(row).rstrip() for row in rows)


def safe(text: str) -> str:
    """Return a text that Markdown and HTML show as it is: no tags, no code; links stay."""
    return html.escape(text, quote=False).replace("`", "&#96;")


def safe_block(text: str) -> str:
    """Return a text of several lines as paragraphs: no headings, lists, rules or quotes either."""
    return _BLOCK.sub(r"\1\\\2", safe(text).replace("[", "\\["))


def fenced(text: str, language: str) -> str:
    """Return a text as a block of code that nothing in it can end."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.strip()}\n{fence}"


def without_folders(text: str) -> str:
    """Return a text whose absolute paths are cut to their last name."""
    return _ABSOLUTE_PATH.sub(r"…/\g<name>", text)
