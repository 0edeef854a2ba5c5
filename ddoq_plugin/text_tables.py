"""Tables of texts as Markdown and as columns for a terminal."""

from collections.abc import Container, Sequence

Row = Sequence[str]


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
