# mypy: disable-error-code="no-untyped-def"
"""The loops of greedy selection that numpy would make large temporary arrays for."""

import numpy as np

from ddoq_plugin.compute.compiled import compiled


@compiled
def gains_of(similarities, covered):
    """Return sum_j max(0, s_ij - covered_j) of each row, float64 ``[n]``: what a place would add to the cover."""
    gains = np.zeros(similarities.shape[0])
    for row in range(similarities.shape[0]):
        total = 0.0
        for column in range(similarities.shape[1]):
            more = similarities[row, column] - covered[column]
            if more > 0:
                total += more
        gains[row] = total
    return gains


@compiled
def cover(similarities, covered):
    """Raise ``covered`` ``[N]`` to the similarities of a chosen place, in place."""
    for column in range(len(covered)):
        if similarities[column] > covered[column]:
            covered[column] = similarities[column]
