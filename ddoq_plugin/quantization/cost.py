"""Which way of quantising costs less: the cost model behind ``method="auto"``."""

from __future__ import annotations

_ITERATIONS = 20  # passes over the samples that Lloyd, or Lloyd and exchange together, need on latents
_GRAM_BYTES = 2 << 30  # a Gram matrix is float64: 16,384 samples
_ALWAYS_GRAM = 2048
_WORTH = 1.5


def gram_pays(samples: int, dimensions: int, clusters: int, restarts: int) -> bool:
    """Whether a codebook is made in the Gram domain rather than by direct Lloyd.

    In multiply-adds:
        Gram: N^2 d / 2 for the product (symmetric), then per restart N^2 for the sums and 20 passes of 3 N K.
        Direct: 20 passes of N K (d + 3).
    The Gram matrix, 8 N^2 bytes, must stay below 2 GiB. Where it costs up to one and a half times as much it is still
    taken, for the distortion that exchange gains; always up to 2048 samples, where that is 0.5-6 %. The gain falls with
    the samples per cell, so it buys no more. The other codebooks of a sweep, which would share the product, are left
    out of the account: a codebook must not depend on what else was asked for.
    """
    if 8 * samples**2 > _GRAM_BYTES:
        return False
    passes = _ITERATIONS * samples * clusters
    gram = samples**2 * dimensions / 2 + restarts * (samples**2 + 3 * passes)
    return samples <= _ALWAYS_GRAM or gram <= _WORTH * passes * (dimensions + 3)
