"""Seeds: every random stream has its own generator, named by what it is for.

``derive_seed("noise", seed, class_id, index)`` gives the same integer on every machine and in every process, and
streams with different names are independent; no code touches a library's global generator."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def derive_seed(*parts: object) -> int:
    """Return a seed in [0, 2^63) from the ``repr`` of ``parts`` (strings, numbers, tuples of them)."""
    digest = hashlib.blake2b("\x1f".join(map(repr, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*parts: object, device: str = "cpu") -> torch.Generator:
    """Return a ``torch.Generator`` on ``device`` seeded by ``derive_seed(*parts)``."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(*parts))


def numpy_rng(*parts: object) -> np.random.Generator:
    """Return a NumPy generator seeded by ``derive_seed(*parts)``."""
    import numpy as np

    return np.random.default_rng(derive_seed(*parts))
