"""Numbers for people: bytes in powers of ten, hours on the clock."""

from __future__ import annotations

import re

from ..errors import ConfigError

_SCALES = {"TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3}


def human(size: float) -> str:
    """Return bytes as "8.67 TB"."""
    unit, scale = next(((unit, scale) for unit, scale in _SCALES.items() if size >= scale), ("kB", 1e3))
    return f"{size / scale:.3g} {unit}"


def parse_size(text: str) -> float:
    """Return the bytes of "8TB", "512 GB" or "60GiB". ConfigError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([TGM])(i?)B\s*", text, re.IGNORECASE)
    if found is None:
        raise ConfigError(f"{text!r} is no size; give one like 512GB or 8TB")
    power = {"M": 2, "G": 3, "T": 4}[found[2].upper()]
    return float(found[1]) * (1024 if found[3] else 1000) ** power


def duration(hours: float) -> str:
    """Return hours as "2.4 s", "9.1 min" or "34.1 h"; "-" for none."""
    if hours >= 1:
        return f"{hours:,.0f} h" if hours >= 100 else f"{hours:.3g} h"
    return f"{hours * 60:.3g} min" if hours >= 1 / 60 else f"{hours * 3600:.2g} s" if hours else "-"
