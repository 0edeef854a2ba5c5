"""Planning: what a config will cost, in hours, disk and memory, before anything runs; and what cannot fit.

Nothing is computed here: images are counted, networks are counted on torch's meta device, and rates come from earlier
rows or, stated with their sources, from rates.yaml. Nothing imports this package but the command line.
"""

from __future__ import annotations

import importlib

_PUBLIC = {
    "Plan": "plan",
    "make_plan": "plan",
    "render": "rendering",
    "load_rates": "rates",
    "human": "units",
    "parse_size": "units",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
