"""Other people's benchmarks, run on our sets. ``ddranking`` needs the extra: ``pip install 'ddoq-plugin[ddranking]'``.

Names are imported on first use: without the extra everything but the host itself still works.
"""

from __future__ import annotations

import importlib

from ..registry import Entry

STUDENTS = [
    Entry("ddranking:", "ddoq_plugin.hosts.networks:build_host_student", "every model of DD-Ranking, with the extra")
]

_HOME = {
    "score_with_ddranking": "ddranking",
    "HostSettings": "settings",
    "host_settings": "settings",
    "export_set": "exports",
    "own_scores": "own_evaluator",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'ddoq_plugin.hosts' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
