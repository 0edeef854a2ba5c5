"""Names that a package imports on their first use, so that importing the package loads nothing heavy."""

import ast
import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any


def lazy_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package that imports its public names on first use: those that its
    ``if TYPE_CHECKING:`` block imports from its own modules. AttributeError for any other name."""

    @functools.cache
    def homes() -> dict[str, str]:
        found: dict[str, str] = {}
        for block in ast.parse(inspect.getsource(sys.modules[package])).body:
            if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
                for line in block.body:
                    if isinstance(line, ast.ImportFrom) and line.level == 1:
                        found |= {alias.name: f".{line.module}" for alias in line.names}
        return found

    def get(name: str) -> Any:
        if name.startswith("__") or name not in homes():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes()[name], package), name)

    return get, lambda: sorted({*vars(sys.modules[package]), *homes()})
