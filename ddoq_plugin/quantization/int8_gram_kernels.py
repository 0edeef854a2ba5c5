"""Inner loops of ``int8_gram``: samples into digits of 7 bits, and the digits' products into inner products."""

import numpy as np

from ..compute.compiled import compiled


@compiled
def split_digits(block, inverse, high, low, both, norms):
    """Round ``block`` [N, w] times ``inverse`` to integers 128 high + low, int8 each; ``both`` is high + low.

    ``norms`` float64 [N] gain the squared norms of the rows before rounding."""
    count, width = block.shape
    for i in range(count):
        squares = np.float32(0.0)
        for j in range(width):
            value = block[i, j]
            squares += value * value
            whole = np.int32(np.floor(value * inverse + np.float32(0.5)))
            last = ((whole + np.int32(64)) & np.int32(127)) - np.int32(64)
            first = (whole - last) >> np.int32(7)
            high[i, j] = first
            low[i, j] = last
            both[i, j] = first + last
        norms[i] += squares


@compiled
def add_products(high, low, both, top, unit, matrix):
    """Add ``unit`` times the integers' inner products to ``matrix`` [N, N] from row and column ``top`` on.

    Takes the digits' int32 products; both^2 = high^2 + 2 high low + low^2 (Karatsuba) saves that of high and low."""
    rows, columns = high.shape
    for i in range(rows):
        target = matrix[top + i]
        for j in range(columns):
            first = np.float64(high[i, j])
            last = np.float64(low[i, j])
            target[top + j] += unit * (16384.0 * first + 128.0 * (np.float64(both[i, j]) - first - last) + last)


@compiled
def reflect(matrix):
    """Copy the upper triangle of ``matrix`` [N, N] to the lower one, tile by tile."""
    count = matrix.shape[0]
    for top in range(0, count, 64):
        for left in range(0, top + 1, 64):
            for i in range(top, min(top + 64, count)):
                for j in range(left, min(left + 64, i)):
                    matrix[i, j] = matrix[j, i]
