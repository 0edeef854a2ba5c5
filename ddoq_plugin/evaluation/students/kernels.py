"""Instance norm, ReLU and 2x2 average pooling together, forward and backward, for channels-last maps on a CPU.

A map is [B, H, W, C], float32 or bfloat16 held in uint16; statistics, float32 [B, C], are over the H W positions of an
image and channel. An image's map fits the cache, so that its passes read memory once.

Import this module only where a kernel is about to run: it imports numba."""

import numpy as np

from ...compute.bfloat16 import load, store
from ...compute.compiled import compiled

ZERO, ONE, QUARTER = np.float32(0), np.float32(1), np.float32(0.25)


@compiled
def forward(x, gamma, beta, epsilon, lower, pool, y, mean, scale, first, last):
    """Write ``y`` = pool(max(gamma (x - mean) scale + beta, lower)) for the images ``first`` to ``last`` - 1.

    ``mean`` and ``scale`` = 1 / sqrt(variance + epsilon) are written too. ``lower`` is 0 (ReLU) or minus infinity;
    ``pool`` 2 halves the sides, 1 keeps them."""
    _, height, width, channels = x.shape
    count = np.float32(height * width)
    total, a, b = np.empty(channels, np.float32), np.empty(channels, np.float32), np.empty(channels, np.float32)
    part = QUARTER if pool == 2 else ONE
    low = lower * part
    for i in range(first, last):
        centre = mean[i]
        total[:] = ZERO
        for h in range(height):
            for w in range(width):
                for c in range(channels):
                    total[c] += load(x[i, h, w, c])
        for c in range(channels):
            centre[c] = total[c] / count
            total[c] = ZERO
        for h in range(height):
            for w in range(width):
                for c in range(channels):
                    t = load(x[i, h, w, c]) - centre[c]
                    total[c] += t * t
        for c in range(channels):
            scale[i, c] = ONE / np.sqrt(total[c] / count + epsilon)
            a[c] = gamma[c] * scale[i, c] * part
            b[c] = beta[c] * part - centre[c] * a[c]
        if pool == 2:
            for h in range(height // 2):
                for w in range(width // 2):
                    for c in range(channels):
                        v = max(load(x[i, 2 * h, 2 * w, c]) * a[c] + b[c], low)
                        v += max(load(x[i, 2 * h, 2 * w + 1, c]) * a[c] + b[c], low)
                        v += max(load(x[i, 2 * h + 1, 2 * w, c]) * a[c] + b[c], low)
                        v += max(load(x[i, 2 * h + 1, 2 * w + 1, c]) * a[c] + b[c], low)
                        y[i, h, w, c] = store(v, y[i, h, w, c])
        else:
            for h in range(height):
                for w in range(width):
                    for c in range(channels):
                        y[i, h, w, c] = store(max(load(x[i, h, w, c]) * a[c] + b[c], low), y[i, h, w, c])


@compiled
def backward(gy, x, gamma, beta, mean, scale, lower, pool, gx, ggamma, gbeta, first, last):
    """Write the gradients: ``gx`` like ``x``, and ``ggamma`` and ``gbeta`` [B, C], to be summed over the images.

    With n positions, x^ = (x - mean) scale and g the gradient where the maximum let it through:
    gx = gamma scale (g - sum g / n - x^ sum(g x^) / n)."""
    _, height, width, channels = x.shape
    count = np.float32(height * width)
    part = QUARTER if pool == 2 else ONE
    shift = pool - 1  # a position's gradient is that of its pooled position
    a, b = np.empty(channels, np.float32), np.empty(channels, np.float32)
    plain, product = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for i in range(first, last):
        for c in range(channels):
            a[c] = gamma[c] * scale[i, c]
            b[c] = beta[c] - mean[i, c] * a[c]
            plain[c] = ZERO
            product[c] = ZERO
        for h in range(height):
            for w in range(width):
                for c in range(channels):
                    v = load(x[i, h, w, c])
                    t = load(gy[i, h >> shift, w >> shift, c])
                    t = t if v * a[c] + b[c] > lower else ZERO
                    plain[c] += t
                    product[c] += t * (v - mean[i, c])
        for c in range(channels):
            r = scale[i, c]
            gbeta[i, c] = plain[c] * part
            ggamma[i, c] = product[c] * r * part
            slope = -a[c] * r * r * product[c] * part / count
            product[c] = slope
            plain[c] = -a[c] * plain[c] * part / count - slope * mean[i, c]
            a[c] *= part  # scaled together with b and lower: the comparison below stays the same
            b[c] *= part
        low = lower * part
        for h in range(height):
            for w in range(width):
                for c in range(channels):
                    v = load(x[i, h, w, c])
                    t = load(gy[i, h >> shift, w >> shift, c])
                    t = t * a[c] if v * a[c] + b[c] > low else ZERO
                    gx[i, h, w, c] = store(t + plain[c] + product[c] * v, gx[i, h, w, c])
