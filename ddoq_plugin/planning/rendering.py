"""A plan as text, Markdown or JSON."""

from __future__ import annotations

import json
from typing import Any

from ..errors import ConfigError, nearest
from .plan import Plan
from .stages import Stage
from .units import duration, human

COLUMNS = (
    "stage", "tasks", "done", "to do", "time", "devices held", "at once", "disk", "memory", "GPU memory", "rates",
)  # fmt: skip
TEXT_COLUMNS = 1  # columns before those that are set flush right


def render(plan: Plan, style: str) -> str:
    """Return the plan in a style: ``text``, ``md`` or ``json``; ConfigError for another."""
    styles = {"text": _text, "md": _markdown, "json": _json}
    if style not in styles:
        raise ConfigError(f"unknown format {style!r}{nearest(style, styles)} (known: {', '.join(styles)})")
    return styles[style](plan)


def _rows(plan: Plan) -> list[list[str]]:
    rows = [_row(stage) for stage in plan.stages]
    held = " + ".join(f"{duration(total)} {unit}" for unit in ("GPU", "core") if (total := plan.device_hours(unit)))
    total = ["total", "", "", "", duration(plan.hours), held, "", human(plan.disk), "", "", ""]
    return [*rows, total]


def _row(stage: Stage) -> list[str]:
    return [
        stage.name,
        f"{stage.tasks:,}",
        f"{stage.done:,}",
        f"{stage.todo:,}",
        duration(stage.hours),
        f"{duration(stage.device_hours)} {stage.unit}",
        f"{stage.at_once:,}",
        human(stage.disk) if stage.disk else "-",
        human(stage.memory),
        human(stage.device_memory) if stage.device_memory else "-",
        stage.basis,
    ]


def _head(plan: Plan) -> list[str]:
    facts = plan.facts
    return [
        f"{plan.config.name} on {plan.hardware.describe()}",
        f"{facts.name}: {facts.classes:,} classes, {facts.images:,} training, {facts.val:,} validation and "
        f"{facts.test:,} test images; {plan.rows:,} rows, {plan.rows_done:,} of them finished",
    ]


def _details(plan: Plan) -> list[str]:
    lines = []
    for stage in plan.stages:
        lines.append(f"{stage.name}: {stage.work}")
        lines += [f"  {duration(term.seconds / 3600)} of a worker, {term.basis}: {term.how}" for term in stage.terms]
    return lines


def _text(plan: Plan) -> str:
    table = [list(COLUMNS), *_rows(plan)]
    widths = [max(len(row[column]) for row in table) for column in range(len(COLUMNS))]
    lines = []
    for row in table:
        cells = [
            cell.ljust(width) if number < TEXT_COLUMNS or number == len(row) - 1 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    notes = [f"note: {note}" for note in plan.notes]
    return "\n".join([*_head(plan), "", *lines, "", *_details(plan), "", *notes])


def _markdown(plan: Plan) -> str:
    rule = ["---"] + ["---:"] * (len(COLUMNS) - 2) + ["---"]
    table = ["| " + " | ".join(row) + " |" for row in (list(COLUMNS), rule, *_rows(plan))]
    details = [line if line.startswith("  ") else f"- {line}" for line in _details(plan)]
    details = [f"  - {line.strip()}" if line.startswith("  ") else line for line in details]
    return "\n\n".join([*_head(plan), "\n".join(table), "\n".join(details), "\n".join(f"- {n}" for n in plan.notes)])


def _json(plan: Plan) -> str:
    content: dict[str, Any] = {
        "config": plan.config.name,
        "hardware": plan.hardware.model_dump(),
        "dataset": {
            "name": plan.facts.name, "classes": plan.facts.classes, "train": plan.facts.images, "val": plan.facts.val,
            "test": plan.facts.test, "assumed": plan.facts.data is None,
        },
        "rows": plan.rows,
        "rows_done": plan.rows_done,
        "stages": [_stage_json(stage) for stage in plan.stages],
        "hours": plan.hours,
        "gpu_hours": plan.device_hours("GPU"),
        "core_hours": plan.device_hours("core"),
        "disk_bytes": plan.disk,
        "notes": plan.notes,
        "refused": plan.refused,
    }  # fmt: skip
    return json.dumps(content, indent=1)


def _stage_json(stage: Stage) -> dict[str, Any]:
    return {
        "stage": stage.name, "tasks": stage.tasks, "done": stage.done, "todo": stage.todo, "work": stage.work,
        "hours": stage.hours, "device_hours": stage.device_hours, "unit": stage.unit, "at_once": stage.at_once,
        "disk_bytes": stage.disk, "memory_bytes": stage.memory, "gpu_memory_bytes": stage.device_memory,
        "basis": stage.basis,
        "terms": [{"seconds": term.seconds, "how": term.how, "basis": term.basis} for term in stage.terms],
    }  # fmt: skip
