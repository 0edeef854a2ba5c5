"""A Gram matrix from products of 8-bit integers: exact, of samples that are rounded to 14 bits.

Processors with AVX-512 VNNI multiply bytes six times as fast as BLAS multiplies float32, and without any rounding. Each
block of columns is rounded to whole multiples v of the block's step, |v| <= 8127, and v is split into two digits, v =
128 h + l. The three symmetric products h h', l l' and (h + l)(h + l)' give all inner products of the rounded samples
exactly (Karatsuba & Ofman 1962), in half the time of a float32 product.

What is optimised is thus the class with each sample moved by at most r, r^2 = sum over columns of (step / 2)^2. By the
triangle inequality its W2 to any codebook differs by at most the root mean square of these moves. Rounding changes
which of two centroids is nearer to a sample only where both are about equally near. After Hartigan's exchange none are:
the squared distance to any other centroid is larger than that to the own one by a share of 1/m + 1/m' at least, with m
and m' the numbers of samples in the two cells. So the assignment is Lloyd's for the samples as they are, too."""

import functools

import numpy as np
import torch
from torch import Tensor

from .matmul import centred_blocks

_LARGEST = 8127  # 63 * 128 + 63, so that the sum of two digits is a byte too
_COLUMNS = 2048  # of a block: rounded with one step, held in the cache
_ROWS = 256  # of a strip of the upper triangle
_LEAST_SAMPLES = 400
_LEAST_DIMENSIONS = 512


def rounding_pays(count: int, dimensions: int) -> bool:
    """Whether byte products are faster than BLAS' syrk for [N, d] on this processor."""
    return count >= _LEAST_SAMPLES and dimensions >= _LEAST_DIMENSIONS and multiplies_bytes()


@functools.cache
def multiplies_bytes() -> bool:
    """Whether this processor has byte products (AVX-512 VNNI) and torch uses them.

    Older x86 instructions saturate inside such a product, and without oneDNN torch runs a plain loop."""
    from llvmlite.binding import get_host_cpu_features

    if not torch.backends.mkldnn.is_available() or not hasattr(torch, "_int_mm"):
        return False
    try:
        return bool(get_host_cpu_features().get("avx512vnni"))
    except RuntimeError:  # a processor that LLVM does not know
        return False


def rounded_gram(points: Tensor, centre: Tensor) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Return the inner products of the rounded ``points`` [N, d] less ``centre`` float32 [d].

    These are the products float64 [N, N], the squared norms float64 [N] before rounding, and r^2, what rounding can
    move a sample by at most, squared. None where a value is not finite, or float32 cannot hold its square."""
    from .int8_gram_kernels import add_products, reflect, split_digits

    count, dimensions = points.shape
    matrix, norms, radius = np.zeros((count, count)), np.zeros(count), 0.0
    buffers = torch.empty(3, count * min(dimensions, _COLUMNS), dtype=torch.int8)
    for _, block in centred_blocks(points, centre, _COLUMNS):
        lowest, highest = block.aminmax()
        largest = max(-float(lowest), float(highest))
        if largest == 0.0:
            continue
        if not 1e-15 < largest < 1e15:
            return None
        digits = buffers[:, : block.numel()].view(3, *block.shape)
        split_digits(block.numpy(), np.float32(_LARGEST / largest), *digits.numpy(), norms)
        step = largest / _LARGEST
        radius += block.shape[1] * step**2 / 4
        for top in range(0, count, _ROWS):
            products = [torch._int_mm(part[top : top + _ROWS], part[top:].T).numpy() for part in digits]
            add_products(*products, top, step**2, matrix)
    reflect(matrix)
    return matrix, norms, radius
