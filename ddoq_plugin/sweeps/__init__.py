"""Sweeps: the grid of a config, its shared stages, the trials under Ray Tune, and one row on disk a trained student."""

from __future__ import annotations

import importlib

_HOME = {"sweep": "run", "SweepResult": "run", "verify_run": "verify", "Verified": "verify"}
__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
