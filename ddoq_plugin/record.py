"""What a result row is: every column once, the one function that makes rows, and their files.

A row is one trained student (or one score of a host). Its columns are those of ``COLUMNS``; a name with ``<...>`` is a
family, whose members depend on the method. ``python -m ddoq_plugin.record`` prints them as ``docs/columns.md``."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import EvaluationError
from .store.artifacts import write_atomic
from .store.metering import Cost
from .store.provenance import provenance_columns

if TYPE_CHECKING:
    from .distilled_set import DistilledSet

DISTILLED, FULL_DATA, FULL_DATA_TWICE = "distilled", "full_data", "full_data_2x"
GROUPS = ("identity", "setting", "set", "result", "cost", "provenance")
KINDS = ("distill", "own", "latents", "codebooks", "images", "label", "train")
"""Kinds of cost that most rows know, in the order of columns; a method may use further kinds of artifacts."""


class Column(NamedTuple):
    """A column, or a family of columns where ``name`` has a part in angle brackets.

    dtype: "string", "Int64", "float64", "boolean" (pandas' names), or "value": that of the values. ``required``: a row
    without it is no row."""

    group: str
    name: str
    dtype: str
    unit: str
    meaning: str
    required: bool = False


def _group(group: str, *columns: Any) -> Iterator[Column]:
    return (Column(group, *column) for column in columns)


COLUMNS: tuple[Column, ...] = (
    *_group("identity",
        ("key", "string", "", "name of the row's file in a run"),
        ("run", "string", "", "name of the config"),
        ("kind", "string", "", "distilled, full_data, or full_data_2x: all data at twice the steps"),
        ("method", "string", "", "registered method; the kind where no set was distilled", True),
        ("label", "string", "", "the method's name in tables", True),
        ("place", "Int64", "", "position of the method's line in its config, which orders tables"),
        ("ipc", "Int64", "images", "images per class (IPC)", True),
        ("clusters", "Int64", "", "clusters per class (K); empty for a method without clusters", True),
        ("student", "string", "", "registered student", True),
        ("seed", "Int64", "", "seed of the set and of the student", True),
        ("evaluator", "string", "", "who computed the host's scores; empty for a student trained in the normal way"),
        ("metric", "string", "", "scores that the host was asked for"),
        ("weights", "string", "", "how weights entered a host's score: equal, ignored, loss or sampler"),
        ("evaluation", "Int64", "", "number of a host's repetition, from 0"),
        ("status", "string", "", "done or failed", True),
        ("error", "string", "", "why the row failed"),
    ),
    *_group("setting",
        ("dataset", "string", "", "registered dataset"),
        ("prior", "string", "", "the configured prior: its name, and its recipe or the last part of its path"),
        ("prior_fingerprint", "string", "", "first 12 hexadecimal digits of the hash of the prior's files"),
        ("teacher", "string", "", "the student that gives soft labels"),
        ("teacher_val_top1", "float64", "%", "the teacher's top-1 accuracy on validation"),
        ("teacher_test_top1", "float64", "%", "the teacher's top-1 accuracy on test"),
        ("protocol", "string", "", "protocol of the students' training"),
    ),
    *_group("set",
        ("set_<setting>", "value", "", "a setting of the method; nested ones are joined by _, lists are JSON"),
        ("weighted", "boolean", "", "whether the weights of a class's images differ"),
        ("w2_used", "float64", "", "W2 between a class and its points with the weights used, mean over classes"),
        ("w2_uniform", "float64", "", "the same with equal weights"),
        ("effective_sample_size", "float64", "images", "(sum w)^2 / (sum w^2) of a class, mean over classes"),
        ("space", "string", "", "space that W2 is measured in: latent, noise or pixel"),
        ("method_<name>", "value", "", "what the method tells of its set beside these (`stats`)"),
        ("mosaic", "Int64", "", "2: four images in each stored one, at a quarter of its size; IPC counts stored ones"),
        ("preprocessing", "string", "", "the space that students see the set in: none, standardised or zca"),
        ("target_kind", "string", "", "what the set's own targets are: logits or regression; empty without targets"),
        ("learnt_rate", "float64", "", "the student's learning rate that the method learnt"),
        ("stages", "Int64", "", "parts that the set was made in, one after the other"),
        ("set_hash", "string", "", "hash of everything that the set holds"),
        ("image_hash", "string", "", "hash of images and labels, as soft labels depend on them"),
    ),
    *_group("result",
        ("top1", "float64", "%", "top-1 accuracy on test"),
        ("top5", "float64", "%", "top-5 accuracy on test"),
        ("val_top1", "float64", "%", "top-1 accuracy on validation"),
        ("steps", "Int64", "steps", "gradient steps of the training"),
        ("precision", "string", "", "number format of the training"),
        ("memory_format", "string", "", "layout of images in memory: channels_last or contiguous"),
        ("compiled", "boolean", "", "whether torch compiled the student"),
        ("lrs", "float64", "", "label-robust score, 0 to 1"),
        ("ars", "float64", "", "augmentation-robust score, 0 to 1"),
        ("lrs_ddranking", "float64", "", "the number that ddranking prints as LRS, from percent"),
        ("ars_ddranking", "float64", "", "the number that ddranking prints as ARS, from percent"),
        ("hard_label_recovery", "float64", "points", "full_hard less set_hard"),
        ("improvement_over_random", "float64", "points", "set_soft less random_soft"),
        ("full_hard", "float64", "%", "test accuracy on all data with class labels"),
        ("set_hard", "float64", "%", "test accuracy on the set with class labels"),
        ("set_soft", "float64", "%", "test accuracy on the set with soft labels"),
        ("random_soft", "float64", "%", "test accuracy on as many random images with soft labels"),
        ("set_augmented", "float64", "%", "test accuracy on the set with augmentation"),
        ("random_augmented", "float64", "%", "test accuracy on as many random images with augmentation"),
        ("set_plain", "float64", "%", "test accuracy on the set without augmentation"),
        ("random_plain", "float64", "%", "test accuracy on as many random images without augmentation"),
        ("val_<role>", "float64", "%", "validation accuracy of a host's training, by role as set_soft"),
        ("lr_<role>", "float64", "", "learning rate of a host's training, chosen where several are tried"),
    ),
    *_group("cost",
        ("seconds", "float64", "s", "a host's score, all its trainings together"),
        ("seconds_<kind>", "float64", "s", "wall clock, also where the store had it (then as first measured)"),
        ("images_per_second_<kind>", "float64", "images/s", "images worked on, over the seconds"),
        ("peak_memory_mb_<kind>", "float64", "MiB", "peak memory of the process, on a GPU of the device"),
        ("device_<kind>", "string", "", "cpu, or the GPU's name; several are joined with +"),
    ),
    *_group("provenance",
        ("config_hash", "string", "", "hash of all that a run's numbers depend on"),
        ("versions", "string", "", "this package and the libraries, with their versions"),
        ("commit", "string", "", "commit of the checkout, with +changes where files differ from it"),
        ("finished", "string", "UTC", "when the row was made"),
        ("digest", "string", "", "sha256 of the row's JSON without this column"),
    ),
)  # fmt: skip
BY_NAME = {column.name: column for column in COLUMNS if "<" not in column.name}
FAMILIES = {re.compile(re.sub("<.*>", r"(.+)", one.name)): one for one in COLUMNS if "<" in one.name}
REQUIRED = tuple(column.name for column in COLUMNS if column.required)
RENAMED = {name: f"{name}_train" for name in ("images_per_second", "peak_memory_mb", "device")}
OLD = frozenset({*RENAMED, "settings", "weighting"})
"""Columns of rows of earlier versions; :func:`modern` reads them."""

PAGE = """# Columns of a result row

`ddoq evaluate`, `ddoq sweep` and `ddoq ddranking` make rows of these columns. They stand in the row files of a run
(`rows/*.json`), in `rows.csv`, in `rows.parquet`, and in the frames that Python returns. A name with `<...>` is a
family: its members depend on the method. Kinds of cost are `distill` (all of making a set), `own` (what the method did
beside the store), every kind of artifact (`latents`, `codebooks`, `images`, ...), `label` (soft labels) and `train`.

This page is generated: `python -m ddoq_plugin.record > docs/columns.md`."""


def column_of(name: str) -> Column | None:
    """Return the declaration of a column: its own, or that of its family; None where there is none."""
    found = BY_NAME.get(name)
    return found or next((one for pattern, one in FAMILIES.items() if pattern.fullmatch(name)), None)


def cost_kinds(names: Iterator[str] | Any) -> list[str]:
    """Return the kinds of cost among column names, those of ``KINDS`` first."""
    found = {name.removeprefix("seconds_") for name in names if name.startswith("seconds_")}
    return sorted(found, key=_kind_order)


def column_order(name: str) -> tuple[Any, ...]:
    """Return the sorting key of a column: the order of ``COLUMNS``, within a family that of kinds or of names."""
    column = column_of(name)
    return (COLUMNS.index(column) if column else len(COLUMNS), *_kind_order(name.rpartition("_")[2]), name)


def make_row(
    known: Mapping[str, Any], made: DistilledSet | None = None, result: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return a row with every column of ``COLUMNS`` (None where it has no value) and the families' members.

    ``known``: identity and setting; its ``settings`` are the method's, nested. The provenance of ``made`` gives what
    ``known`` leaves out, its statistics and costs. ``result``: status, accuracies, scores and costs of the training.
    Raises EvaluationError where a column is not declared or a setting would take another column's name."""
    given = {"kind": DISTILLED, "status": "done", **({} if made is None else _of_set(made)), **known, **(result or {})}
    settings = {f"set_{name}": value for name, value in _flat(given.pop("settings", None) or {}).items()}
    taken = next((name for name in settings if name in BY_NAME), None)
    if taken is not None:
        setting = f"the setting {taken.removeprefix('set_')!r} would be the column {taken!r}"
        raise EvaluationError(f"{setting}, which means something else; give the setting another name")
    if "commit" not in given:
        given |= provenance_columns()
    for name in given:
        if column_of(name) is None:
            raise EvaluationError(f"{name!r} is no column of a row; declare it in ddoq_plugin.record.COLUMNS")
    given["finished"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    row = dict.fromkeys(BY_NAME) | settings | {name: _plain(value) for name, value in given.items()}
    return sealed({name: row[name] for name in sorted(row, key=column_order)})


def failure(problem: BaseException) -> dict[str, Any]:
    """Return the result of a row that could not be made."""
    return {"status": "failed", "error": f"{type(problem).__name__}: {problem}"[:2000]}


def cost_columns(kind: str, cost: Cost | None) -> dict[str, Any]:
    """Return a row's columns of one kind of cost; all None where it does not apply (``cost`` None)."""
    names = [f"{name}_{kind}" for name in ("seconds", "images_per_second", "peak_memory_mb", "device")]
    if cost is None:
        return dict.fromkeys(names)
    rate = cost.images / cost.seconds if cost.images and cost.seconds else None
    return dict(zip(names, (cost.seconds, rate, cost.peak_memory_mb, cost.device), strict=True))


def is_weighted(made: DistilledSet) -> bool:
    """Return whether weights differ within a class (their mean is 1 in each class)."""
    return float((made.weights - 1).abs().max()) > 1e-6


def prior_name(name: str, train: str | None = None, path: str | None = None) -> str:
    """Return a configured prior in words: its name, and its recipe or the last part of its path."""
    return f"{name} {PurePath(train or path or '').name}" if train or path else name


def sealed(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with the digest of its content."""
    content = {name: value for name, value in row.items() if name != "digest"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return content | {"digest": hashlib.sha256(text.encode()).hexdigest()}


def write_row(folder: Path, key: str, row: Mapping[str, Any]) -> None:
    """Write a row under its key, whole or not at all."""
    write_atomic(folder / f"{key}.json", json.dumps(sealed({**row, "key": key}), indent=1))


def read_row(folder: Path, key: str) -> dict[str, Any] | None:
    """Return the row of a key, or None if it is not there; a damaged or edited one counts as absent, with a warning."""
    file = folder / f"{key}.json"
    try:
        row = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        row = None
    problem = "is no row" if not isinstance(row, dict) else flaw(row)
    if problem is None and row["key"] == key:
        return row
    warnings.warn(f"{file} {problem or 'is the row of another key'}: it is trained again", stacklevel=2)
    return None


def flaw(row: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a row that was read: a column that it lacks, or a digest that differs; or None."""
    for name in (*REQUIRED, "key", "digest"):
        if name not in row:
            return f"has no column {name!r}"
    return None if sealed(row)["digest"] == row["digest"] else "was edited (its digest differs)"


def modern(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a row of an earlier version under today's columns; a row of today stays as it is."""
    read = {name: value for name, value in row.items() if name not in OLD}
    old = {name: value for name, value in row.items() if name in OLD and not is_missing(value)}
    if not old:
        return read
    added = {RENAMED[name]: value for name, value in old.items() if name in RENAMED}
    if "settings" in old:
        added |= {f"set_{name}": value for name, value in _flat(json.loads(old["settings"])).items()}
    if "weighting" in old:
        added["weighted"] = old["weighting"] != "uniform"
    whole = row.get("seconds_distill")
    if not is_missing(whole):  # "distill" was the sum of the kinds; what else it held had no column
        kinds = [row.get(f"seconds_{kind}") for kind in ("latents", "codebooks", "images")]
        parts = math.fsum(float(value) for value in kinds if value is not None and not is_missing(value))
        rest = float(whole or 0) - parts
        added["seconds_own"] = rest if rest >= 0.01 * parts else None  # sums differ by rounding
    prior = row.get("prior")
    if isinstance(prior, str) and "/" in prior:
        name, _, path = prior.partition(" ")
        added["prior"] = prior_name(name, path=path)
    return read | {name: value for name, value in added.items() if name == "prior" or is_missing(read.get(name))}


def documentation() -> str:
    """Return ``docs/columns.md``: every column with its type, unit and meaning, group by group."""
    lines = [PAGE]
    for group in GROUPS:
        lines += ["", f"## {group.capitalize()}", "", "| column | type | unit | meaning |", "|---|---|---|---|"]
        for one in (column for column in COLUMNS if column.group == group):
            required = " (required)" if one.required else ""
            lines.append(f"| `{one.name}` | {one.dtype} | {one.unit} | {one.meaning}{required} |")
    return "\n".join(lines)


def _of_set(made: DistilledSet) -> dict[str, Any]:
    """Return the columns that a set tells of itself."""
    about = made.provenance
    known = {name: about.get(name) for name in ("method", "settings", "clusters", "prior", "prior_fingerprint")}
    if known["prior"] and known["prior_fingerprint"] is None:  # sets of earlier versions have both in one text
        known["prior"], _, known["prior_fingerprint"] = known["prior"].partition(" ")
    own = {name for name, column in BY_NAME.items() if column.group == "set"}
    stats = _flat(about.get("stats") or {})
    stats = {name if name in own else f"method_{name}": value for name, value in stats.items()}
    costs = {kind: Cost(**cost) for kind, cost in (about.get("cost") or {}).items()}
    if costs and "distill" not in costs:
        total = Cost.total(costs.values())
        costs["distill"] = Cost(total.seconds, len(made), total.device, total.peak_memory_mb)
    columns = {
        **known,
        "label": about.get("label", about.get("method")),
        "ipc": made.ipc,
        "weighted": is_weighted(made),
        "mosaic": made.mosaic,
        "preprocessing": made.preprocessing.kind,
        "target_kind": None if made.targets is None else made.target_kind,
        "learnt_rate": made.learning_rate,
        "stages": None if made.stage is None else int(made.stage.max()) + 1,
        "set_hash": made.hash,
        "image_hash": made.image_hash,
    }
    for kind in dict.fromkeys((*KINDS[:-2], *costs)):  # not those of labels and students
        columns |= cost_columns(kind, costs.get(kind))
    return columns | stats


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, names joined by _; lists as compact JSON."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= _flat(value, f"{prefix}{name}_") if isinstance(value, Mapping) else {f"{prefix}{name}": _plain(value)}
    return flat


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: no NaN, no numpy scalar, lists as text."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, (list, tuple)):
        return json.dumps(value, separators=(",", ":"))
    return None if is_missing(value) else value


def is_missing(value: Any) -> bool:
    """Return whether a value of a row counts as none: None, NaN, pandas' NA (not to be compared) or an empty text."""
    if value is None or type(value).__name__ == "NAType":
        return True
    return value == "" or (isinstance(value, float) and math.isnan(value))


def _kind_order(kind: str) -> tuple[int, str]:
    return (KINDS.index(kind) if kind in KINDS else len(KINDS), kind)


if __name__ == "__main__":
    print(documentation())
