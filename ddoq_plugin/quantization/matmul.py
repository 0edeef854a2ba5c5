"""Products of samples: with codes, block by block, and in full float32."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_ELEMENTS = 1 << 20  # of a block of samples that stays in the cache from one use to the next
# a block of columns: 8 MB of float32, but never so narrow that the product is more traffic than work
_BLOCK_ELEMENTS = 2 << 20
_BLOCK_WIDTH = 512


def affine(rows: Tensor, codes: Tensor, offsets: Tensor) -> Tensor:
    """Return ``rows`` [n, d] @ ``codes`` [K, d]^T + ``offsets`` [K].

    float32 on the CPU goes to oneDNN, whose kernels use AVX-512 on every processor that has it; torch's default, MKL,
    takes twice as long on AMD's (measured at K = 100)."""
    if rows.device.type == "cpu" and rows.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        return F.linear(rows.to_mkldnn(), codes, offsets).to_dense()
    return F.linear(rows, codes, offsets)


def centred_blocks(points: Tensor, centre: Tensor, width: int | None = None) -> Iterator[tuple[slice, Tensor]]:
    """Yield ``points - centre`` by blocks of columns in the precision of ``centre``, each in the same small buffer."""
    count, dimensions = points.shape
    width = min(dimensions, width or max(_BLOCK_WIDTH, _BLOCK_ELEMENTS // count))
    buffer = torch.empty(count * width, dtype=centre.dtype)
    for start in range(0, dimensions, width):
        columns = slice(start, min(start + width, dimensions))
        block = buffer[: count * (columns.stop - start)].view(count, -1)
        yield columns, torch.sub(points[:, columns].to(centre.dtype), centre[columns], out=block)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Switch TF32 (CUDA) and bf16 (oneDNN) stand-ins for float32 products off, and back to what they were.

    TF32 has 10 bits of mantissa: squared distances would be wrong by 1e-3 of the squared norms, and a codebook's
    distortion with them. Usable as a decorator."""
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
    onednn: Any = torch.backends.mkldnn
    return [(cuda, "fp32_precision", "ieee"), (onednn.matmul, "fp32_precision", "ieee")]
