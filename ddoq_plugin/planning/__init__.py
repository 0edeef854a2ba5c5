"""Planning: what a config will cost, in hours, disk and memory, before anything runs; and what cannot fit.

Nothing is computed here: images are counted, networks are counted on torch's meta device, and rates come from earlier
rows or, stated with their sources, from rates.yaml. Nothing imports this package but the command line."""

from typing import TYPE_CHECKING

from ..lazy_imports import lazy_names

if TYPE_CHECKING:
    from .plan import Plan, make_plan
    from .rates import load_rates
    from .rendering import render
    from .sizes import human, parse_size

__all__ = ["Plan", "make_plan", "render", "load_rates", "human", "parse_size"]
__getattr__, __dir__ = lazy_names(__name__)
