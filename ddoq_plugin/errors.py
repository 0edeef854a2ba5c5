"""The errors a user can cause. Each message is one sentence that names the thing and the mend.

The command line prints them as ``error: ...`` without a traceback; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DDOQError(Exception):
    """Base of every error that a user can cause and mend."""


class ConfigError(DDOQError):
    """A configuration file or option is wrong."""


class UnknownNameError(ConfigError):
    """A name is not in its registry."""


class DataError(DDOQError):
    """A dataset is missing, incomplete or damaged."""


class PriorError(DDOQError):
    """A diffusion prior is missing, damaged or used outside its range."""


class QuantizationError(DDOQError):
    """Latents cannot be quantised as asked."""


class DistillError(DDOQError):
    """A distiller cannot make the set that was asked for."""


class EvaluationError(DDOQError):
    """A student, teacher or protocol cannot be trained or scored as asked."""


class StoreError(DDOQError):
    """A stored artifact cannot be written or read."""


def nearest(name: str, names: Iterable[str], limit: int = 3) -> str:
    """Return ``'; did you mean "x" or "y"?'`` with the known names nearest to ``name``, or the empty string."""
    known = list(names)
    found = difflib.get_close_matches(name, known, n=limit, cutoff=0.5)
    if not found:  # difflib is case-sensitive; people are not
        lowered = {other.lower(): other for other in known}
        found = [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, n=limit, cutoff=0.5)]
    return f"; did you mean {' or '.join(repr(match) for match in found)}?" if found else ""
