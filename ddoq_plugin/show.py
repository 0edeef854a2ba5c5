"""What ``ddoq list`` and ``ddoq show`` print: the registries, a set, a run, a protocol, a config or a method."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from .config import SweepConfig, config_layers, load_config, packaged_configs
from .errors import ConfigError, DDOQError, nearest
from .registry import DISTILLERS, PLUGIN_FAILURES, REGISTRIES, load_plugin
from .yaml_files import EXTENDS, Layers, read_layers, set_values

WIDTH = 110


def listing() -> str:
    """Return every registered thing, protocol, recipe and packaged config, a line each."""
    from .evaluation import load_protocol, protocol_names
    from .priors import recipe_names

    blocks = {kind: [_entry_line(entry) for entry in registry.entries()] for kind, registry in REGISTRIES.items()}
    protocols = {name: load_protocol(name) for name in protocol_names()}
    blocks["protocols"] = [
        [name, f"{one.label_mode}, {_length(one)}, {one.optimizer.name}: {_sentence(one.source)}"]
        for name, one in protocols.items()
    ]
    blocks["recipes of priors"] = [[", ".join(recipe_names())]]
    blocks["configs"] = [[", ".join(path.stem for path in packaged_configs())]]
    lines = [line for title, rows in blocks.items() for line in (f"{title}:", *_aligned(rows, "  "))]
    lines += [f"plugin file {path} could not be imported: {error}" for path, error in PLUGIN_FAILURES.items()]
    return "\n".join(lines)


def show(what: str, kind: str | None = None, overrides: Mapping[str, Any] | None = None) -> str:
    """Return what is known of a set's or run's folder, a protocol, a config (both by name or file) or a method.

    ``overrides`` are dotted keys that change a config or a protocol first. Raises ConfigError where ``what`` is nothing
    of these, or of several kinds and ``kind`` does not say which.
    """
    if kind is not None and kind not in VIEWS:
        raise ConfigError(f"there is no kind {kind!r}{nearest(kind, VIEWS)}; use one of: {', '.join(VIEWS)}")
    kinds = [kind] if kind is not None else _kinds_of(what)
    if len(kinds) > 1:
        ways = " or ".join(f"--kind {one}" for one in kinds)
        raise ConfigError(f"{what!r} may be a {' or a '.join(kinds)}; say which: {ways}")
    if overrides and kinds[0] not in ("config", "protocol"):
        raise ConfigError(f"--set changes a config or a protocol, and {what!r} is a {kinds[0]}; leave it out")
    return VIEWS[kinds[0]](what, dict(overrides or {}))


def method_view(name: str, _: Any = None) -> str:
    """Return a method's first paragraph, its flags, and each setting with type, default and bounds."""
    entry, method = DISTILLERS.entry(name), DISTILLERS.load(name)
    about = (inspect.getdoc(method) or entry.summary).partition("\n\n")[0]
    flags = ", ".join(f"{flag}: {_yes_no(value)}" for flag, value in entry.flags.items())
    schema = method.Config.model_json_schema()["properties"]
    rows = [["setting", "type", "default", "bounds"]]
    for key, field in method.Config.model_fields.items():
        default = "(required)" if field.is_required() else _yes_no(field.get_default(call_default_factory=True))
        rows.append([key, _type(schema[key]), default, _bounds(schema[key])])
    meaning = inspect.getdoc(method.Config) or ""
    return "\n".join([f"{name} ({entry.source})", about, flags, "", *_aligned(rows), "", meaning]).rstrip()


def protocol_view(name: str, overrides: dict[str, Any]) -> str:
    """Return a protocol as YAML, with its bases and its source."""
    from .evaluation.protocol import load_protocol, protocol_layers

    protocol = load_protocol({EXTENDS: name, **set_values({}, overrides)})
    content = protocol.model_dump(mode="json", exclude_none=True)
    content["students"] = {student: numbers for student, numbers in content["students"].items() if numbers}
    return _yaml(content, protocol_layers(name))


def config_view(name: str, overrides: dict[str, Any]) -> str:
    """Return a config as YAML, with what it extends, what ``overrides`` change and every default."""
    return _yaml(json.loads(load_config(name, overrides).model_dump_json()), config_layers(name))


def set_view(folder: str, _: Any = None) -> str:
    """Return what a set says of itself; no image is read where its provenance is there."""
    from .distilled_set import DistilledSet
    from .record import is_weighted

    made = DistilledSet.load(folder, verified=True)
    about, shape = made.provenance, tuple(made.images.shape)
    fingerprint = about.get("dataset_fingerprint")
    content = {
        "set": str(folder),
        **{name: about.get(name) for name in ("method", "label", "settings")},
        "ipc": made.ipc,
        **{name: about.get(name) for name in ("clusters", "seed")},
        "images": f"{shape[0]} of {made.num_classes} classes, {shape[-1]}x{shape[-2]} px",
        "weights": "differ within classes" if is_weighted(made) else "equal",
        "targets": None if made.targets is None else made.target_kind,
        "exact_images": None if made.floats is None else "float32; the PNGs are previews",
        "preprocessing": made.preprocessing.kind if made.preprocessing.kind != "none" else None,
        "mosaic": made.mosaic if made.mosaic > 1 else None,
        "learning_rate": made.learning_rate,
        "data": about.get("dataset") and f"{about['dataset']}, fingerprint {str(fingerprint)[:12]}",
        "prior": about.get("prior"),
        "set_hash": made.hash,
        "image_hash": made.image_hash,
        "stats": about.get("stats"),
        "cost": {kind: _cost(cost) for kind, cost in (about.get("cost") or {}).items()},
    }
    return _yaml({name: value for name, value in content.items() if value not in (None, {})})


def run_view(folder: str, _: Any = None) -> str:
    """Return a run's config, how many rows are done, failed and missing, the errors, and what it was made with."""
    from .report import load_run

    root, run = Path(folder), None
    try:
        run = load_run(root)
        counts = run.frame["status"].value_counts().to_dict()
    except DDOQError as problem:
        if not (root / "config.yaml").is_file():
            raise problem
        counts = {}
    done, failed = int(counts.get("done", 0)), int(counts.get("failed", 0))
    content: dict[str, Any] = {"run": run.name if run else root.name, "folder": str(root)}
    missing: Any = "not known, there is no config.yaml"
    if (root / "config.yaml").is_file():
        config = load_config(root / "config.yaml")
        content |= {"run": config.name, **config.model_dump(include={"protocol", "ipc", "students", "seeds"})}
        missing = _rows_of(config)
        missing = max(0, missing - done - failed) if isinstance(missing, int) else missing
    content["rows"] = {"done": done, "failed": failed, "missing": missing}
    if failed:
        content["errors"] = run.frame.loc[run.frame["status"] == "failed", "error"].drop_duplicates().tolist()
    sets = sorted((root / "sets").glob("*"))
    content["sets"] = {"here": sum(path.exists() for path in sets), "elsewhere": sum(not p.exists() for p in sets)}
    meta = dict(run.meta) if run else {}
    content |= {name: meta[name] for name in ("processor", "gpu", "commit") if meta.get(name)}
    return _yaml(content)


VIEWS: dict[str, Callable[[str, dict[str, Any]], str]] = {
    "set": set_view,
    "run": run_view,
    "protocol": protocol_view,
    "config": config_view,
    "method": method_view,
}


def _kinds_of(what: str) -> list[str]:
    from .evaluation.protocol import packaged_protocols

    path = Path(what)
    names = {"protocol": packaged_protocols(), "config": {file.stem: file for file in packaged_configs()}}
    if path.is_file():
        return _kinds_of_file(path, names["config"] | names["protocol"])
    kinds = []
    if path.is_dir():
        is_run = any((path / name).exists() for name in ("rows", "config.yaml", "rows.csv", "rows.parquet"))
        kinds = ["run" if is_run else "set"]
    kinds += [kind for kind in names if what in names[kind]] + (["method"] if what in DISTILLERS else [])
    if not kinds:
        known = [*names["protocol"], *names["config"], *DISTILLERS.names()]
        raise ConfigError(
            f"there is no folder, file, protocol, config or method {what!r}{nearest(what, known)}; ddoq list shows the "
            "names"
        )
    return kinds


def _kinds_of_file(path: Path, packaged: dict[str, Path]) -> list[str]:
    """Tell a protocol's file from a config's by the keys that only one of them has."""
    from .evaluation import Protocol

    models = {"protocol": Protocol.model_fields.keys(), "config": SweepConfig.model_fields.keys()}
    keys = read_layers(path, packaged).content.keys()
    own = {kind: len(keys & (models[kind] - models[other])) for kind, other in (tuple(models), tuple(models)[::-1])}
    return [kind for kind in models if own[kind] == max(own.values())]


def _rows_of(config: SweepConfig) -> int | str:
    from .sweeps.grid import make_grid

    try:
        for plugin in config.plugins:
            load_plugin(plugin)
        return len(make_grid(config).rows)
    except DDOQError as problem:
        return f"not known ({problem})"


def _entry_line(entry: Any) -> list[str]:
    shown = [name if value is True else f"{name} {value}" for name, value in entry.flags.items() if value]
    text = f"NOT IMPORTED: {entry.error}" if entry.error else entry.summary
    text += f"  [{', '.join(shown)}]" if shown and not entry.error else ""
    return [entry.name, text + ("" if entry.source.startswith("ddoq-plugin ") else f"  ({entry.source})")]


def _length(protocol: Any) -> str:
    if protocol.steps is not None:
        return f"{protocol.steps} steps"
    epochs = protocol.epochs
    return f"{epochs if isinstance(epochs, int) else f'{min(epochs.values())} to {max(epochs.values())}'} epochs"


def _sentence(text: str) -> str:
    """Return the start of a text, for one line of a list."""
    return text if len(text) <= 80 else f"{text[:80].rsplit(' ', 1)[0]} ..."


def _aligned(rows: list[list[str]], indent: str = "") -> Iterator[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for row in rows:
        yield (indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()


def _yes_no(value: Any) -> str:
    return {True: "yes", False: "no", None: "none"}[value] if value is None or isinstance(value, bool) else str(value)


def _type(schema: dict[str, Any]) -> str:
    """Return the type of a setting, in words, from its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " | ".join(map(_yes_no, schema.get("enum", [schema.get("const")])))
    names = {"integer": "int", "number": "float", "boolean": "yes or no", "string": "text", "null": "none"}
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}" if "items" in schema else "list"
    return names.get(schema.get("type", ""), "mapping")


def _bounds(schema: dict[str, Any]) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    parts = [schema, *schema.get("anyOf", [])]
    return ", ".join(f"{sign} {part[key]:g}" for part in parts for key, sign in signs.items() if key in part)


def _cost(cost: Mapping[str, Any]) -> str:
    memory = cost.get("peak_memory_mb")
    parts = [f"{cost['seconds']:.3g} s", cost.get("device"), memory and f"{memory:.0f} MiB"]
    return ", ".join(part for part in parts if part)


def _yaml(content: dict[str, Any], layers: Layers | None = None) -> str:
    files = [] if layers is None else [str(path) for path, _ in layers.files]
    head = "".join(f"# {'extends ' if place else ''}{file}\n" for place, file in enumerate(files))
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=WIDTH).rstrip()
