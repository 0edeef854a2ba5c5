"""The code that makes an artifact, as part of its key: changed code never passes off old work as its own.

A module counts by what it does: its syntax tree without comments, docstrings and layout. With it count the modules that
it imports, of this package and of the importing module's own, also where an import stands inside a function. Other
libraries do not: their versions stand in the rows."""

import ast
import functools
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = __name__.partition(".")[0]

NEUTRAL = (
    "errors", "progress", "registry", "seeding", "config", "record", "lazy_imports",  # the ground
    "store",  # how artifacts are kept, not what is in them
    "distiller",  # a context's doors: what they make has keys of its own; those that shape a set are roots
    "data",  # images count by their fingerprint; the transforms that shape them again are roots
    "compute",  # faster ways to the same numbers; tests hold them to rounding
)  # fmt: skip
"""Parts of this package at which the search ends: they cannot change an artifact, or have keys of their own."""


@functools.cache
def code_hash(*modules: str) -> str:
    """Return a hash of what ``modules`` and the modules that they import do; "interactive" where there is no source."""
    digest = hashlib.sha256()
    for name in sorted(closure(*modules)):
        digest.update(f"{name} {_tree_hash(name)}\n".encode())
    return digest.hexdigest()[:16]


def closure(*modules: str) -> set[str]:
    """Return ``modules`` and all modules of this package, and of their own, that they import."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [other for other in _imports(name) if not _is_neutral(other)]
    return found


def _is_neutral(name: str) -> bool:
    return any(f"{name}.".startswith(f"{PACKAGE}.{part}.") for part in NEUTRAL)


def _counts(name: str, importer: str) -> bool:
    """Return whether an imported module is of this package, of the importer's, or a file beside the importer."""
    top, own = name.partition(".")[0], importer.partition(".")[0]
    if top in (PACKAGE, own) or own == PACKAGE:
        return top in (PACKAGE, own)
    file = _file(importer)
    return file is not None and any((file.parent / place).exists() for place in (f"{top}.py", top))


@functools.cache
def _tree_hash(name: str) -> str:
    tree = _tree(name)
    if tree is None:
        return "interactive"
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):  # a string that stands alone says something to people, and does nothing
            node.body = [one for one in body if not _is_text(one)] or [ast.Pass()]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


@functools.cache
def _imports(name: str) -> tuple[str, ...]:
    """Return the modules that a module imports by name, those behind a package's names followed to their home."""
    tree = _tree(name)
    found: dict[str, None] = {}
    for node in _nodes(tree, typing=False):
        if isinstance(node, ast.Import):
            found |= dict.fromkeys(alias.name for alias in node.names if _counts(alias.name, name))
        elif isinstance(node, ast.ImportFrom) and _counts(base := _absolute(node, name), name):
            found |= dict.fromkeys(_home(base, alias.name) for alias in node.names)
    return tuple(one for one in found if _file(one) is not None)


def _home(base: str, attribute: str) -> str:
    """Return the module that ``attribute`` of ``base`` is: itself one, or where a package's __init__ takes it from."""
    if _file(f"{base}.{attribute}") is not None:
        return f"{base}.{attribute}"
    file = _file(base)
    if file is not None and file.name == "__init__.py" and base.partition(".")[0] == PACKAGE:
        for node in _nodes(_tree(base), typing=True):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if attribute == (alias.asname or alias.name):
                        return _home(_absolute(node, base), alias.name)
    return base


def _nodes(tree: ast.AST | None, *, typing: bool) -> Iterator[ast.AST]:
    """Yield the nodes of a tree, without the imports for type checkers unless ``typing``."""
    waiting = [] if tree is None else [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting += node.body if typing else []
            waiting += node.orelse
            continue
        yield node
        waiting += ast.iter_child_nodes(node)


def _absolute(node: ast.ImportFrom, name: str) -> str:
    if not node.level:
        return node.module or ""
    file = _file(name)
    parts = name.split(".") if file is not None and file.name == "__init__.py" else name.split(".")[:-1]
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, node.module] if node.module else parts)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _tree(name: str) -> ast.Module | None:
    file = _file(name)
    return None if file is None else ast.parse(file.read_text(encoding="utf-8"))


@functools.cache
def _file(name: str) -> Path | None:
    """Return the source file of a module, None where it has none (built in, interactive, or no module)."""
    loaded = sys.modules.get(name)
    origin = getattr(loaded, "__file__", None)
    if loaded is None:
        try:
            found = importlib.util.find_spec(name)
        except (ImportError, ValueError, AttributeError):
            return None
        origin = None if found is None else found.origin
    return Path(origin) if origin and origin.endswith(".py") else None
