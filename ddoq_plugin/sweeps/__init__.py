"""Sweeps: the grid of a config, its shared stages, the trials under Ray Tune, and one row on disk a trained student."""

from typing import TYPE_CHECKING

from ..lazy_imports import lazy_names

if TYPE_CHECKING:
    from .run import SweepResult, sweep
    from .verify import Verified, verify_run

__all__ = ["SweepResult", "Verified", "sweep", "verify_run"]
__getattr__, __dir__ = lazy_names(__name__)
