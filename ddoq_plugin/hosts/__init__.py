"""Other people's benchmarks, run on our sets. ``ddranking`` needs the extra: ``pip install 'ddoq-plugin[ddranking]'``.

Names are imported on first use: without the extra everything but the host itself still works."""

from typing import TYPE_CHECKING

from ..lazy_imports import lazy_names
from ..registry import Entry

STUDENTS = [
    Entry("ddranking:", "ddoq_plugin.hosts.networks:build_host_student", "every model of DD-Ranking, with the extra")
]

if TYPE_CHECKING:
    from .ddranking import score_with_ddranking
    from .exports import export_set
    from .own_evaluator import own_scores
    from .settings import HostSettings, host_settings

__all__ = ["score_with_ddranking", "HostSettings", "host_settings", "export_set", "own_scores"]
__getattr__, __dir__ = lazy_names(__name__)
