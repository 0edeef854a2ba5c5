"""What the rows of both ways of scoring have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..distilled_set import DistilledSet


def is_weighted(made: DistilledSet) -> bool:
    """Return whether the set's weights differ from each other."""
    return bool((made.weights - 1).abs().max() > 1e-6)


def ways_of(made: DistilledSet, weighting: str) -> list[str]:
    """Return the ways a set is scored: a weighted one without its weights and, unless ``off``, with them."""
    if not is_weighted(made):
        return ["equal"]
    return ["ignored"] if weighting == "off" else ["ignored", weighting]


def set_columns(label: str, made: DistilledSet) -> dict[str, Any]:
    """Return the columns that say which set a row is about."""
    about = made.provenance
    return {
        "method": about.get("method"),
        "label": label,
        "ipc": made.ipc,
        "clusters": about.get("clusters"),
        "weighting": (about.get("settings") or {}).get("weighting", "uniform"),
        "set_hash": made.hash,
        "image_hash": made.image_hash,
        "status": "done",
    }


def labelled(sets: Mapping[str, DistilledSet] | Sequence[DistilledSet]) -> list[tuple[str, DistilledSet]]:
    """Return sets with their labels: those given, or those of their provenance."""
    if isinstance(sets, Mapping):
        return list(sets.items())
    return [(str(made.provenance.get("label") or f"set {number}"), made) for number, made in enumerate(sets)]
