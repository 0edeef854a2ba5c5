"""What sets and students cost, end to end: from the cost columns of result rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..record import cost_kinds
from .diagnostics import KEYS, by_line, keys_of, mean_of, table_of
from .rows import FULL_DATA_TWICE, trained_rows

NOT_MAKING = ("distill", "own", "label", "train")  # every other kind of cost is of an artifact that a set is made of
RATES = {"latents": "encoded", "images": "generated", "label": "labelled", "train": "trained"}
ENDS = ("peak memory, MB", "device")


def cost_table(frame: pd.DataFrame, meta: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Return the end-to-end cost of a set and of one student trained on it, one line per (method, IPC, clusters).

    Means over seeds (training: over students, too). Columns: seconds of each kind of artifact that a set is made of
    (``latents``, ``codebooks``, ``images``, ...), ``rest`` (what else making the set took), ``labels`` (the teacher's),
    ``training``, and ``total``; images per second of the stages; the largest peak memory of any stage in MB, and the
    device. Columns that no row has are left out. ``meta`` (of a run) may know what prior and teacher cost: a footnote
    says it."""
    frame = _finished(frame)
    kinds = [kind for kind in cost_kinds(frame.columns) if kind not in NOT_MAKING]
    rows = []
    for line, part in by_line(frame).items():
        sets = part.drop_duplicates("seed")  # every student's row repeats what its set cost
        seconds = [mean_of(sets, f"seconds_{kind}") for kind in (*kinds, "own", "label")]
        seconds.append(mean_of(part, "seconds_train"))
        rates = [mean_of(part, f"images_per_second_{kind}") for kind in RATES]
        total = sum(value or 0 for value in seconds)
        rows.append((*keys_of(line), *seconds, total, *rates, *_peak_and_devices(part, [*kinds, *NOT_MAKING])))
    measured = [f"{kind}, s" for kind in (*kinds, "rest", "labels", "training", "total")]
    measured += [*(f"{done} images/s" for done in RATES.values()), *ENDS]
    table = _drop_unknown(table_of(rows, [*KEYS, *measured]), measured)
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

    Columns: seconds, training images per second, the largest peak memory in MB, the device, the number of trainings."""
    frame = _finished(frame)
    rows = []
    for (student, ipc), part in frame.groupby(["student", "ipc"], dropna=False):
        means = [mean_of(part, name) for name in ("seconds_train", "images_per_second_train")]
        rows.append((student, ipc, *means, *_peak_and_devices(part, ["train"]), len(part)))
    measured = ["training, s", "images/s", *ENDS]
    table = _drop_unknown(table_of(rows, ["student", "IPC", *measured, "trainings"]), measured)
    table.attrs["heading"] = "One training of each student, mean over sets and seeds; a line without IPC is full data."
    return table


def _finished(frame: pd.DataFrame) -> pd.DataFrame:
    frame = trained_rows(frame)
    return frame[(frame["status"] == "done") & (frame["method"] != FULL_DATA_TWICE)]


def _drop_unknown(table: pd.DataFrame, measured: Sequence[str]) -> pd.DataFrame:
    return table.drop(columns=[name for name in measured if table[name].isna().all()])


def _peak_and_devices(part: pd.DataFrame, stages: Sequence[str]) -> tuple[float, str | None]:
    peak = part.filter([f"peak_memory_mb_{stage}" for stage in stages]).max().max()
    found = part.filter([f"device_{stage}" for stage in stages]).stack().dropna()
    return peak, "+".join(sorted({one for name in found for one in str(name).split("+")})) or None


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
