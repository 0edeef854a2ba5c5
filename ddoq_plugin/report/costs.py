"""What sets and students cost, end to end: from the cost columns of result rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from .diagnostics import by_line, keys_of, mean_of, table_of
from .rows import FULL_DATA_TWICE, cost_column, make_frame, sort_keys, students_of

MAKING = ("latents", "codebooks", "images")  # the stages that a set's making consists of
RATES = {"latents": "encoded images/s", "images": "generated images/s", "label": "labelled images/s",
         "train": "trained images/s"}  # fmt: skip
SECONDS = ("latents, s", "codebooks, s", "images, s", "rest, s", "labels, s", "training, s", "total, s")
ENDS = ("peak memory, MB", "device")


def cost_table(frame: pd.DataFrame, meta: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Return the end-to-end cost of a set and of one student trained on it, one line per (method, IPC, clusters).

    Means over seeds (training: over students, too). Columns: seconds of ``latents``, ``codebooks``, ``images``
    (generation), ``rest`` (what else making the set took), ``labels`` (the teacher's), ``training``, and ``total``;
    images per second of the stages; the largest peak memory of any stage in MB, and the device. Columns that no row
    has are left out: rows of older runs have fewer. ``meta`` (of a run) may know what prior and teacher cost: a
    footnote says it.
    """
    frame = _finished(frame)
    grouped = by_line(frame)
    rows = [{**keys_of(line), **_costs(grouped[line])} for line in sort_keys(list(grouped))]
    table = table_of(rows, ["method", "IPC", "K", *SECONDS, *RATES.values(), *ENDS])
    empty = [name for name in (*SECONDS, *RATES.values(), *ENDS) if table[name].isna().all()]
    table = table.drop(columns=empty)
    table.attrs["heading"] = (
        "Wall-clock seconds of one set and of one student trained on it, mean over seeds (training: and over "
        "students), on the machine of the run, shared with its other tasks. Peak memory: the largest of any stage's "
        "process."
    )
    table.attrs["footnotes"] = [
        "What was in the store keeps the time of its making, and what methods, weightings, IPC or K share (latents, "
        "codebooks, images, labels) counts in full in each line: a whole sweep costs less than the sum of its lines. "
        "Latents count also where a method uses them for nothing but its W2 (random selection).",
        _apart(meta or {}),
    ]
    return table


def training_cost_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what training a student costs, one line per (student, IPC; full data last), mean over methods and seeds.

    Columns: seconds, training images per second, the largest peak memory in MB, the device, the number of trainings.
    """
    frame = _finished(frame)
    rows = []
    for student in students_of(frame):
        own = frame[frame["student"] == student]
        for ipc in [*sorted(own["ipc"].dropna().unique()), None]:
            part = own[own["ipc"].isna()] if ipc is None else own[own["ipc"] == ipc]
            if len(part):
                rows.append(
                    {
                        "student": student,
                        "IPC": ipc,
                        "training, s": mean_of(part, cost_column("seconds", "train")),
                        "images/s": mean_of(part, cost_column("images_per_second", "train")),
                        "peak memory, MB": part[cost_column("peak_memory_mb", "train")].max(),
                        "device": _devices(part, ("train",)),
                        "trainings": len(part),
                    }
                )
    columns = ["student", "IPC", "training, s", "images/s", "peak memory, MB", "device", "trainings"]
    table = table_of(rows, columns)
    table = table.drop(columns=[name for name in columns[2:6] if table[name].isna().all()])
    table.attrs["heading"] = "One training of each student, mean over sets and seeds; a line without IPC is full data."
    return table


def _finished(frame: pd.DataFrame) -> pd.DataFrame:
    frame = make_frame(frame)
    return frame[(frame["status"] == "done") & (frame["method"] != FULL_DATA_TWICE)]


def _costs(part: pd.DataFrame) -> dict[str, Any]:
    sets = part.drop_duplicates("seed")  # every student's row repeats what its set cost
    seconds = {stage: mean_of(sets, cost_column("seconds", stage)) for stage in (*MAKING, "distill", "label")}
    making = sum(seconds[stage] or 0 for stage in MAKING)
    rest = max(0.0, (seconds["distill"] or 0) - making)
    training = mean_of(part, cost_column("seconds", "train"))
    stages = (*MAKING, "distill", "label", "train")
    return {
        "latents, s": seconds["latents"],
        "codebooks, s": seconds["codebooks"],
        "images, s": seconds["images"],
        "rest, s": rest if rest > 0.01 * making else None,  # sums differ by rounding
        "labels, s": seconds["label"],
        "training, s": training,
        "total, s": making + rest + (seconds["label"] or 0) + (training or 0),
        **{title: mean_of(part, cost_column("images_per_second", stage)) for stage, title in RATES.items()},
        "peak memory, MB": part[[cost_column("peak_memory_mb", stage) for stage in stages]].max().max(),
        "device": _devices(part, stages),
    }


def _devices(part: pd.DataFrame, stages: tuple[str, ...]) -> str | None:
    found = {str(name) for stage in stages for name in part[cost_column("device", stage)].dropna()}
    return "+".join(sorted({one for name in found for one in name.split("+")})) or None


def _apart(meta: Mapping[str, Any]) -> str:
    """Say what is in no line: prior and teacher, with their seconds where a run knows them."""
    report = (meta.get("prior") or {}).get("report") or {}
    prior = sum(value for name, value in report.items() if name.endswith("_seconds"))
    teacher = (meta.get("teacher") or {}).get("seconds")
    known = [f"{name} {value:.0f} s" for name, value in (("prior", prior), ("teacher", teacher)) if value]
    said = f": {', '.join(known)} in this run's store" if known else ""
    return (
        f"Not in the totals: training the prior and the teacher{said}. They are made once a dataset, for every method; "
        "the fewer sets are made with them, the larger their share of what a set costs."
    )
