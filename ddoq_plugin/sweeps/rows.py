"""Result rows: flat JSON files, one a trained student, written whole or not at all."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ..store.artifacts import write_atomic
from .grid import RowSpec

STATUSES = ("done", "failed")


def describe_row(spec: RowSpec) -> dict[str, Any]:
    """Return the columns that say what the row is."""
    about: dict[str, Any] = {"kind": spec.kind, "student": spec.student, "seed": spec.seed}
    if spec.set is None:
        return about | {"method": spec.kind, "label": spec.kind, "ipc": None, "clusters": None, "settings": "{}"}
    method = spec.set.distiller()
    settings = method.config.model_dump(mode="json")
    return about | {
        "method": spec.set.method,
        "label": spec.set.label,
        "settings": json.dumps(settings, sort_keys=True),
        "weighting": settings.get("weighting", "uniform"),
        "ipc": spec.set.ipc,
        "clusters": spec.set.clusters,
    }


def write_row(folder: Path, key: str, row: dict[str, Any]) -> None:
    """Write a row under its key; ``status`` must be one of ``STATUSES``."""
    assert row["status"] in STATUSES, row["status"]
    stamped = {"key": key, **row, "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    write_atomic(folder / f"{key}.json", json.dumps(stamped, indent=1, sort_keys=True))


def failure(problem: BaseException) -> dict[str, Any]:
    """Return the columns of a row that could not be made."""
    return {"status": "failed", "error": f"{type(problem).__name__}: {problem}"[:2000]}


def read_row(folder: Path, key: str) -> dict[str, Any] | None:
    """Return the row of a key, or None if it is not there or not whole."""
    try:
        row = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return row if isinstance(row, dict) else None
