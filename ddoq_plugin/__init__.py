"""DDOQ, dataset distillation by optimal quantisation, beside its baselines: distil, train students, compare.

The public names are imported on first use, so that importing the package costs next to nothing."""

from typing import TYPE_CHECKING

from .lazy_imports import lazy_names

if TYPE_CHECKING:
    from .api import distill, evaluate
    from .data import load_data
    from .distilled_set import DistilledSet
    from .distiller import DistillContext, Distiller, DistillerConfig
    from .priors import load_prior
    from .quantization import quantize
    from .registry import register_distiller
    from .report import cross_model_table
    from .sweeps import sweep

__version__ = "0.1.0"
__all__ = [
    "Distiller", "DistillerConfig", "DistillContext", "DistilledSet", "register_distiller", "load_data",
    "load_prior", "quantize", "distill", "evaluate", "sweep", "cross_model_table", "__version__",
]  # fmt: skip
__getattr__, __dir__ = lazy_names(__name__)
