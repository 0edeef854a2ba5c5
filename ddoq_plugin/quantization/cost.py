"""Which way of quantising costs less: the cost model behind ``method="auto"``."""

from __future__ import annotations

import math

_ITERATIONS = 20  # of Lloyd on all samples, as measured on latents
_GRAM_BYTES = 2 << 30  # a Gram matrix is float64: 16,384 samples


def gram_pays(samples: int, dimensions: int, clusters: list[int], restarts: list[int]) -> bool:
    """Whether one Gram matrix serves all of ``clusters`` (one entry per K and seed) cheaper than direct Lloyd each.

    In multiply-adds:
        Gram: N^2 d / 2 for the product (symmetric), then per restart N^2 (sums) + 3 N K per pass, of which Lloyd and
            the exchange need about 20 together.
        Direct: 20 passes of N K d, and nothing for the start.
    The memory of the Gram matrix, 8 N^2 bytes, must stay below 2 GiB. Where Gram costs up to four times as much it is
    still taken: its exchange step and restarts buy 1-4 % of distortion that direct Lloyd cannot reach.
    """
    if 8 * samples**2 > _GRAM_BYTES:
        return False
    gram = samples**2 * dimensions / 2
    direct = 0.0
    for count, runs in zip(clusters, restarts, strict=True):
        gram += runs * (samples**2 + _ITERATIONS * 3 * samples * count + math.log2(count + 1) * samples * count)
        direct += _ITERATIONS * samples * count * (dimensions + 3)
    return samples <= 2048 or gram <= 4 * direct
