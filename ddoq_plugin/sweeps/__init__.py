"""Sweeps: the grid of a config, its shared stages, the trials under Ray Tune, and one row on disk a trained student."""

from __future__ import annotations

import importlib

__all__ = ["sweep", "SweepResult"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(".run", __name__), name)
