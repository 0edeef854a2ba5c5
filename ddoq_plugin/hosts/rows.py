"""What both ways of scoring ask of sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..record import is_weighted

if TYPE_CHECKING:
    from ..distilled_set import DistilledSet


def ways_of(made: DistilledSet, weighting: str) -> list[str]:
    """Return the ways a set is scored: a weighted one without its weights and, unless ``off``, with them."""
    if not is_weighted(made):
        return ["equal"]
    return ["ignored"] if weighting == "off" else ["ignored", weighting]


def labelled(sets: Mapping[str, DistilledSet] | Sequence[DistilledSet]) -> list[tuple[str, DistilledSet]]:
    """Return sets with their labels: those given, or those of their provenance."""
    if isinstance(sets, Mapping):
        return list(sets.items())
    return [(str(made.provenance.get("label") or f"set {number}"), made) for number, made in enumerate(sets)]
