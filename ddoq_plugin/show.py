"""What ``ddoq list`` and ``ddoq show`` print: the registries, a set, a run, a protocol, a config or a method."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from .config import SweepConfig, config_layers, load_config, packaged_configs
from .distilled_set import DistilledSet
from .errors import ConfigError, DDOQError, nearest
from .evaluation import protocol_names
from .evaluation.protocol import Protocol, load_protocol, packaged_protocols, protocol_layers
from .priors import recipe_names
from .record import is_weighted
from .registry import DISTILLERS, REGISTRIES, load_plugin
from .text_tables import plain_table
from .yaml_files import EXTENDS, Layers, read_layers, set_values

WIDTH = 110


def listing() -> str:
    """Return every registered thing, protocol, recipe and packaged config, a line each."""
    blocks = {kind: [_entry_line(entry) for entry in registry.entries()] for kind, registry in REGISTRIES.items()}
    blocks["protocols"] = [[name, _protocol_line(load_protocol(name))] for name in protocol_names()]
    blocks["recipes of priors"] = [[", ".join(recipe_names())]]
    blocks["configs"] = [[", ".join(path.stem for path in packaged_configs())]]
    lines = [f"{title}:\n{plain_table([['', *row] for row in rows])}" for title, rows in blocks.items()]
    return "\n".join(lines)


def show(what: str, kind: str | None = None, overrides: Mapping[str, Any] | None = None) -> str:
    """Return what is known of a set's or run's folder, a protocol, a config (both by name or file) or a method.

    ``overrides`` are dotted keys that change a config or protocol first. Raises ConfigError where ``what`` is nothing
    of these, or of several kinds without ``kind``."""
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
    return "\n".join([f"{name} ({entry.source})", about, flags, "", plain_table(rows), "", meaning]).rstrip()


def _protocol_view(name: str, overrides: dict[str, Any]) -> str:
    protocol = load_protocol({EXTENDS: name, **set_values({}, overrides)})
    content = protocol.model_dump(mode="json", exclude_none=True)
    content["students"] = {student: numbers for student, numbers in content["students"].items() if numbers}
    return _yaml(content, protocol_layers(name))


def _config_view(name: str, overrides: dict[str, Any]) -> str:
    return _yaml(load_config(name, overrides).model_dump(mode="json"), config_layers(name))


def _set_view(folder: str, _: Any) -> str:
    """Return what a set says of itself; no image is read where its provenance is there."""
    made = DistilledSet.load(folder, verified=True)
    about, shape, kind = made.provenance, tuple(made.images.shape), made.preprocessing.kind
    fingerprint = str(about.get("dataset_fingerprint"))
    told = {name: about.get(name) for name in ("method", "label", "settings", "ipc", "clusters", "seed")}
    content = {
        "set": str(folder),
        **told,
        "ipc": made.ipc,
        "images": f"{shape[0]} of {made.num_classes} classes, {shape[-1]}x{shape[-2]} px",
        "weights": "differ within classes" if is_weighted(made) else "equal",
        "targets": None if made.targets is None else made.target_kind,
        "exact_images": None if made.floats is None else "float32; the PNGs are previews",
        "preprocessing": None if kind == "none" else kind,
        "mosaic": made.mosaic if made.mosaic > 1 else None,
        "learning_rate": made.learning_rate,
        "data": about.get("dataset") and f"{about['dataset']}, fingerprint {fingerprint[:12]}",
        "prior": about.get("prior"),
        "set_hash": made.hash,
        "image_hash": made.image_hash,
        "stats": about.get("stats"),
        "cost": {kind: _cost(cost) for kind, cost in (about.get("cost") or {}).items()},
    }
    return _yaml({name: value for name, value in content.items() if value not in (None, {})})


def _run_view(folder: str, _: Any) -> str:
    """Return a run's config, how many rows are done, failed and missing, the errors, and what it was made with."""
    from .report import load_run
    from .sweeps.grid import make_grid

    root, run, counts = Path(folder), None, {}
    file = root / "config.yaml"
    try:
        run = load_run(root)
        counts = run.frame["status"].value_counts().to_dict()
    except DDOQError:
        if not file.is_file():
            raise
    done, failed = int(counts.get("done", 0)), int(counts.get("failed", 0))
    content: dict[str, Any] = {"run": run.name if run else root.name, "folder": str(root)}
    missing: Any = "not known, there is no config.yaml"
    if file.is_file():
        config = load_config(file)
        content |= {"run": config.name, **config.model_dump(include={"protocol", "ipc", "students", "seeds"})}
        try:
            for plugin in config.plugins:
                load_plugin(plugin)
            missing = max(0, len(make_grid(config).rows) - done - failed)
        except DDOQError as problem:
            missing = f"not known ({problem})"
    content["rows"] = {"done": done, "failed": failed, "missing": missing}
    if failed:
        content["errors"] = run.frame.loc[run.frame["status"] == "failed", "error"].drop_duplicates().tolist()
    here = [path.exists() for path in (root / "sets").glob("*")]
    content["sets"] = {"here": sum(here), "elsewhere": len(here) - sum(here)}
    meta = dict(run.meta) if run else {}
    content |= {name: meta[name] for name in ("processor", "gpu", "commit") if meta.get(name)}
    return _yaml(content)


VIEWS: dict[str, Callable[[str, dict[str, Any]], str]] = {
    "set": _set_view, "run": _run_view, "protocol": _protocol_view, "config": _config_view, "method": method_view,
}  # fmt: skip


def _kinds_of(what: str) -> list[str]:
    path = Path(what)
    names = {"protocol": packaged_protocols(), "config": {file.stem: file for file in packaged_configs()}}
    if path.is_file():  # the keys that only one of them has tell a protocol from a config
        keys = read_layers(path, names["config"] | names["protocol"]).content.keys()
        models = {"protocol": Protocol.model_fields.keys(), "config": SweepConfig.model_fields.keys()}
        shared = models["protocol"] & models["config"]
        own = {kind: len(keys & (fields - shared)) for kind, fields in models.items()}
        return [kind for kind in models if own[kind] == max(own.values())]
    kinds = []
    if path.is_dir():
        is_run = any((path / name).exists() for name in ("rows", "config.yaml", "rows.csv", "rows.parquet"))
        kinds = ["run" if is_run else "set"]
    kinds += [kind for kind in names if what in names[kind]] + (["method"] if what in DISTILLERS else [])
    if not kinds:
        near = nearest(what, [*names["protocol"], *names["config"], *DISTILLERS.names()])
        raise ConfigError(
            f"there is no folder, file, protocol, config or method {what!r}{near}; ddoq list shows the names"
        )
    return kinds


def _entry_line(entry: Any) -> list[str]:
    shown = [name if value is True else f"{name} {value}" for name, value in entry.flags.items() if value]
    text = f"NOT IMPORTED: {entry.error}" if entry.error else entry.summary
    text += f"  [{', '.join(shown)}]" if shown and not entry.error else ""
    return [entry.name, text + ("" if entry.source.startswith("ddoq-plugin ") else f"  ({entry.source})")]


def _protocol_line(protocol: Any) -> str:
    length, epochs, source = f"{protocol.steps} steps", protocol.epochs, protocol.source
    if protocol.steps is None:
        several = not isinstance(epochs, int)
        length = f"{f'{min(epochs.values())} to {max(epochs.values())}' if several else epochs} epochs"
    start = source if len(source) <= 80 else f"{source[:80].rsplit(' ', 1)[0]} ..."
    return f"{protocol.label_mode}, {length}, {protocol.optimizer.name}: {start}"


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
    return ", ".join(filter(None, parts))


def _yaml(content: dict[str, Any], layers: Layers | None = None) -> str:
    files = [] if layers is None else [str(path) for path, _ in layers.files]
    head = "".join(f"# {'extends ' if place else ''}{file}\n" for place, file in enumerate(files))
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=WIDTH).rstrip()
