"""Products in full float32, whatever reduced precision the program around has switched on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Switch TF32 (CUDA) and bf16 (oneDNN) stand-ins for float32 products off, and back to what they were.

    TF32 has 10 bits of mantissa: squared distances would be wrong by 1e-3 of the squared norms, and a codebook's
    distortion with them. Usable as a decorator.
    """
    kept = [(part, name, getattr(part, name)) for part, name, _ in _switches()]
    try:
        for part, name, exact in _switches():
            setattr(part, name, exact)
        yield
    finally:
        for part, name, value in kept:
            setattr(part, name, value)


def _switches() -> list[tuple[object, str, object]]:
    cuda = torch.backends.cuda.matmul
    if not hasattr(cuda, "fp32_precision"):  # before torch 2.9
        return [(cuda, "allow_tf32", False)]
    return [(cuda, "fp32_precision", "ieee"), (torch.backends.mkldnn.matmul, "fp32_precision", "ieee")]
