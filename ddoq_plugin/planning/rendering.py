"""A plan as text, Markdown or JSON."""

import json
from dataclasses import asdict
from typing import Any

from ..errors import ConfigError, nearest
from ..text_tables import markdown_table, plain_table
from .plan import Plan
from .sizes import duration, human

COLUMNS = (
    "stage", "tasks", "done", "to do", "time", "devices held", "at once", "disk", "memory", "GPU memory", "rates",
)  # fmt: skip
NUMBERS = range(1, len(COLUMNS) - 1)  # the columns that are set flush right


def render(plan: Plan, style: str) -> str:
    """Return the plan in a style: ``text``, ``md`` or ``json``; ConfigError for another."""
    styles = {"text": _text, "md": _markdown, "json": _json}
    if style not in styles:
        raise ConfigError(f"unknown format {style!r}{nearest(style, styles)} (known: {', '.join(styles)})")
    return styles[style](plan)


def _rows(plan: Plan) -> list[list[str]]:
    rows = [
        [
            stage.name, f"{stage.tasks:,}", f"{stage.done:,}", f"{stage.todo:,}", duration(stage.hours),
            f"{duration(stage.device_hours)} {stage.unit}", f"{stage.at_once:,}",
            human(stage.disk) if stage.disk else "-", human(stage.memory),
            human(stage.device_memory) if stage.device_memory else "-", stage.basis,
        ]
        for stage in plan.stages
    ]  # fmt: skip
    held = " + ".join(f"{duration(total)} {unit}" for unit in ("GPU", "core") if (total := plan.device_hours(unit)))
    return [*rows, ["total", "", "", "", duration(plan.hours), held, "", human(plan.disk), "", "", ""]]


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
    table = plain_table([COLUMNS, *_rows(plan)], right=NUMBERS)
    return "\n".join([*_head(plan), "", table, "", *_details(plan), "", *(f"note: {note}" for note in plan.notes)])


def _markdown(plan: Plan) -> str:
    table = markdown_table(COLUMNS, _rows(plan), "| --- | " + "---: | " * len(NUMBERS) + "--- |")
    details = [f"  - {line.strip()}" if line.startswith("  ") else f"- {line}" for line in _details(plan)]
    return "\n\n".join([*_head(plan), table, "\n".join(details), "\n".join(f"- {note}" for note in plan.notes)])


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
        "stages": [
            {
                "stage": stage.name, "tasks": stage.tasks, "done": stage.done, "todo": stage.todo, "work": stage.work,
                "hours": stage.hours, "device_hours": stage.device_hours, "unit": stage.unit, "at_once": stage.at_once,
                "disk_bytes": stage.disk, "memory_bytes": stage.memory, "gpu_memory_bytes": stage.device_memory,
                "basis": stage.basis, "terms": [asdict(term) for term in stage.terms],
            }
            for stage in plan.stages
        ],
        "hours": plan.hours,
        "gpu_hours": plan.device_hours("GPU"),
        "core_hours": plan.device_hours("core"),
        "disk_bytes": plan.disk,
        "notes": plan.notes,
        "refused": plan.refused,
    }  # fmt: skip
    return json.dumps(content, indent=1)
