"""DDOQ, dataset distillation by optimal quantisation, beside its baselines: distil, train students, compare.

The public names are imported on first use, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .api import distill as distill
    from .api import evaluate as evaluate
    from .data import load_data as load_data
    from .distilled_set import DistilledSet as DistilledSet
    from .distiller import DistillContext as DistillContext
    from .distiller import Distiller as Distiller
    from .distiller import DistillerConfig as DistillerConfig
    from .priors import load_prior as load_prior
    from .quantization import quantize as quantize
    from .registry import register_distiller as register_distiller
    from .report import cross_model_table as cross_model_table
    from .sweeps import sweep as sweep

__version__ = "0.1.0"

_HOME = {
    "Distiller": "distiller",
    "DistillerConfig": "distiller",
    "DistillContext": "distiller",
    "DistilledSet": "distilled_set",
    "register_distiller": "registry",
    "load_data": "data",
    "load_prior": "priors",
    "quantize": "quantization",
    "distill": "api",
    "evaluate": "api",
    "sweep": "sweeps",
    "cross_model_table": "report",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'ddoq_plugin' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
