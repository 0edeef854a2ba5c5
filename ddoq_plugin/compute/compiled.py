"""Compilation of the quantiser's inner loops with numba, cached on disk where that is possible.

Import this module only where a kernel is about to run: it imports numba."""

from collections.abc import Callable
from typing import Any

from numba import njit

# Sums may be reassociated, which is what lets them use vector registers; NaN and infinity keep their meaning.
_FASTMATH = {"reassoc", "contract", "nsz"}


def compiled(function: Callable[..., Any]) -> Any:
    """Compile ``function`` on its first call; keep the machine code on disk for later processes.

    Numba writes beside the source or, where that is read-only, to the user's cache folder, atomically, keyed by
    source, processor and version, so that forked and Ray workers share it. Where neither can be written (a read-only
    container without a home) the kernel is compiled in each process instead."""
    options = {"nogil": True, "fastmath": _FASTMATH, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # numba: "cannot cache function: no locator available"
        return njit(**options)(function)
