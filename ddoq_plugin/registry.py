"""One registry class for distillers, datasets, priors and students.

Entries come from entry points of installed packages, a file given by ``--plugin``, and decorators in running code
(``@register_distiller("mine")`` above a class), all treated alike.

An entry whose name ends in ":" is a namespace: it serves every name with that prefix (``timm:NAME``). An entry point
may name an object (it is registered under the entry point's name) or a list of :class:`Entry`.
A plugin that cannot be imported is kept as an entry with its error: it is listed, and harms nothing else."""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from .errors import ConfigError, UnknownNameError, nearest


@dataclass(frozen=True)
class Entry:
    """One registered thing. ``target`` is the object or the path ``"module:attribute"`` of a lazy import; ``flags`` are
    the capabilities that ``ddoq list`` shows; ``source`` says which package, file or code registered it; ``error`` is
    set where it could not be imported."""

    name: str
    target: Any = None
    summary: str = ""
    flags: Mapping[str, object] = field(default_factory=dict)
    source: str = ""
    error: str | None = None


class Registry:
    """Entries of one kind, by name; ``flag_names`` are its capabilities, read from attributes of a registered class."""

    def __init__(self, kind: str, group: str, flag_names: tuple[str, ...] = ()) -> None:
        self.kind, self.group, self.flag_names = kind, group, flag_names
        self._entries: dict[str, Entry] = {}
        self._discovered = False

    def register(self, name: str, target: Any = None, *, summary: str = "", **flags: object) -> Any:
        """Register ``target`` (or, as a decorator, what follows); a name that is taken raises ConfigError."""
        if target is None:
            return partial(self.register, name, summary=summary, **flags)
        source = target.partition(":")[0] if isinstance(target, str) else getattr(target, "__module__", "running code")
        file = getattr(sys.modules.get(source), "__file__", None)
        if source.startswith("ddoq_user_plugin_") and file:
            source = f"file {Path(file).name}"
        self._add(Entry(name, target, summary, flags, source))
        return target

    def names(self) -> list[str]:
        """Return the usable names, sorted, without those of namespaces."""
        return sorted(name for name, entry in self._all().items() if entry.error is None and name[-1:] != ":")

    def entries(self) -> list[Entry]:
        """Return every entry, sorted by name; those that could not be imported carry their error."""
        return [entry for _, entry in sorted(self._all().items())]

    def entry(self, name: str) -> Entry:
        """Return the entry called ``name``; an unknown one raises UnknownNameError with the nearest names."""
        entries = self._all()
        if name not in entries:
            failed = [f"{e.source} ({e.error})" for e in entries.values() if e.error]
            broken = f" These plugins could not be imported: {'; '.join(failed)}." if failed else ""
            known = f"{nearest(name, self.names())} (known: {', '.join(self.names())})"
            raise UnknownNameError(f"unknown {self.kind} {name!r}{known}.{broken}")
        if entries[name].error:
            raise UnknownNameError(f"{self.kind} {name!r} could not be imported: {entries[name].error}")
        return entries[name]

    def namespace(self, name: str) -> tuple[Entry | None, str]:
        """Return the entry that serves every name with the prefix of ``name`` ("timm:" of "timm:vit") and the rest."""
        prefix, _, rest = name.partition(":")
        return self._all().get(f"{prefix}:") if rest else None, rest

    def module(self, name: str) -> str:
        """Return the name of the module that defines the entry called ``name``."""
        target = self.entry(name).target
        return target.partition(":")[0] if isinstance(target, str) else str(getattr(target, "__module__", "__main__"))

    def load(self, name: str) -> Any:
        """Return the object called ``name``, importing it where its target is a lazy path."""
        target = self.entry(name).target
        if not isinstance(target, str):
            return target
        module, _, attribute = target.partition(":")
        return getattr(importlib.import_module(module), attribute)

    def __contains__(self, name: str) -> bool:
        return name in self._all() and self._all()[name].error is None

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _all(self) -> dict[str, Entry]:
        if not self._discovered:
            self._discovered = True
            for point in importlib.metadata.entry_points(group=self.group):
                self._discover(point)
        return self._entries

    def _discover(self, point: importlib.metadata.EntryPoint) -> None:
        distribution = getattr(point, "dist", None)
        source = f"{distribution.name} {distribution.version}" if distribution is not None else point.value
        try:
            loaded = point.load()
            found = list(loaded) if isinstance(loaded, (list, tuple)) else [Entry(point.name, loaded)]
            for entry in found:
                self._add(replace(entry, source=source))
        except Exception as problem:  # a broken plugin of somebody else must not break the list
            name = point.name if point.name not in self._entries else f"{point.name} ({source})"
            error = str(problem) if isinstance(problem, ConfigError) else _last_line(problem)
            self._entries[name] = Entry(name, summary=point.value, source=source, error=error)

    def _add(self, entry: Entry) -> None:
        """Add an entry, its flags and summary filled from the attributes and docstring of a target at hand."""
        taken = self._all().get(entry.name)
        if taken is not None:
            raise ConfigError(
                f"the {self.kind} name {entry.name!r} of {entry.source} is already taken by {taken.source}; "
                "register it under another name"
            )
        if not isinstance(entry.target, str):
            read = {flag: getattr(entry.target, flag) for flag in self.flag_names if hasattr(entry.target, flag)}
            summary = entry.summary or (entry.target.__doc__ or "").strip().partition("\n")[0]
            entry = replace(entry, flags={**read, **entry.flags}, summary=summary)
        self._entries[entry.name] = entry

    @contextmanager
    def temporarily(self, **targets: Any) -> Iterator[None]:
        """Register targets by name for the length of a block."""
        for name, target in targets.items():
            self.register(name, target)
        try:
            yield
        finally:
            self._remove(set(targets))

    def _remove(self, names: set[str]) -> None:
        for name in names:
            del self._entries[name]


DISTILLERS = Registry(
    "distiller", "ddoq_plugin.distillers", ("makes_images", "uses_clusters", "uses_weights", "needs_prior", "reference")
)
DATASETS = Registry("dataset", "ddoq_plugin.datasets")
PRIORS = Registry("prior", "ddoq_plugin.priors")
STUDENTS = Registry("student", "ddoq_plugin.students")
REGISTRIES = {"distillers": DISTILLERS, "datasets": DATASETS, "priors": PRIORS, "students": STUDENTS}


_LOADED_PLUGINS: dict[str, tuple[str, dict[str, set[str]]]] = {}
"""Plugin files that are loaded: path -> sha256 and the names that the file registered, by kind."""


def register_distiller(name: str, target: Any = None, *, summary: str = "", **flags: object) -> Any:
    """Register a :class:`~ddoq_plugin.Distiller` class under ``name`` (decorator or call)."""
    return DISTILLERS.register(name, target, summary=summary, **flags)


def load_plugin(path: str | Path) -> str:
    """Run a plugin file, so that its decorators register, and return the sha256 of its bytes.

    Loading the same file again does nothing; a file that was edited since replaces what it registered. Raises
    ConfigError where there is no such file, or it fails; nothing of it is then registered."""
    path = Path(path).expanduser().resolve()
    if not path.is_file() or path.suffix != ".py":
        what = "is no Python file" if path.is_file() else "does not exist"
        raise ConfigError(f"the plugin {path} {what}; give the path of a .py file")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    loaded_digest, registered = _LOADED_PLUGINS.get(str(path), ("", {}))
    if loaded_digest == digest:
        return digest
    for key, names in registered.items():
        REGISTRIES[key]._remove(names)
    before = {key: set(registry._all()) for key, registry in REGISTRIES.items()}
    name = f"ddoq_user_plugin_{path.stem}_{digest[:8]}"
    specification = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(specification)  # type: ignore[arg-type]
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)  # type: ignore[union-attr]
    except (Exception, SystemExit) as problem:
        for key, registry in REGISTRIES.items():
            registry._remove(set(registry._all()) - before[key])
        del sys.modules[name]
        said = str(problem) if isinstance(problem, ConfigError) else _last_line(problem)
        raise ConfigError(f"the plugin {path} does not load: {said}{_line_in(path, problem)}; correct it") from problem
    new = {key: set(registry._all()) - before[key] for key, registry in REGISTRIES.items()}
    _LOADED_PLUGINS[str(path)] = (digest, new)
    return digest


def _line_in(path: Path, problem: BaseException) -> str:
    """Return where in a file an exception came from, for a message."""
    lines = [frame.lineno for frame in traceback.extract_tb(problem.__traceback__) if frame.filename == str(path)]
    if isinstance(problem, SyntaxError) and problem.filename == str(path):
        lines.append(problem.lineno)
    return f" (line {lines[-1]})" if lines else ""


def _last_line(problem: BaseException) -> str:
    return traceback.format_exception_only(problem)[-1].strip()
