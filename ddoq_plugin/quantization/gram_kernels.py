"""k-means on a Gram matrix: greedy k-means++, Lloyd and Hartigan's exchange, on index sets alone.

A centroid is the weighted mean of the points of its cell, so every distance follows from ``gram[i, j] = <x_i, x_j>``:

    |x_i - z_k|^2 = gram[i, i] - 2 sums[k, i] / m_k + squares[k] / m_k^2,
    sums[k, i] = sum_{j in k} w_j gram[i, j],   squares[k] = |sum_{j in k} w_j x_j|^2,   m_k = sum_{j in k} w_j.

``sums`` and ``squares`` are float64 whatever the Gram matrix is, so that thousands of updates leave no drift. A
point moves only when that gains more than ``slack``, the rounding error of the Gram matrix; without it, ties between
duplicated points would go round for ever."""

import numpy as np

from ..compute.compiled import compiled

_TILE = 64  # of a matrix that is transposed
_BLOCK = 128  # points whose best exchanges are found together, in vector registers


@compiled
def mirror(triangle, matrix):
    """Fill the symmetric ``matrix`` [N, N] from the upper ``triangle``, tile by tile."""
    count = triangle.shape[0]
    for top in range(0, count, _TILE):
        for left in range(0, top + 1, _TILE):
            for i in range(top, min(top + _TILE, count)):
                for j in range(left, min(left + _TILE, i + 1)):
                    matrix[i, j] = triangle[j, i]
                    matrix[j, i] = triangle[j, i]


@compiled
def inner_offsets(centroids, means, centre, inner):
    """Fill ``inner`` [K] with <z_k, z_k - 2 y_k> of ``centroids`` z_k and ``means`` y_k [K, d] less ``centre``."""
    for k in range(inner.size):
        total = 0.0
        for j in range(centre.size):
            offset = np.float64(centroids[k, j] - centre[j])
            total += offset * (offset - 2.0 * np.float64(means[k, j] - centre[j]))
        inner[k] = total


@compiled
def _first_above(ascending, value):
    """Index of the first of ``ascending`` above ``value``, the last index if there is none."""
    low = 0
    high = ascending.size - 1
    while low < high:
        middle = (low + high) // 2
        if ascending[middle] > value:
            high = middle
        else:
            low = middle + 1
    return low


@compiled
def seed_greedy(gram, diagonal, weights, uniforms, labels):
    """Greedy k-means++ (Arthur & Vassilvitskii 2007): of L candidates keep the one that lowers the cost most.

    ``uniforms`` [K, L] in [0, 1) drive the draws; ``labels`` [N] receives the index of each point's nearest centre."""
    count = gram.shape[0]
    clusters, candidates = uniforms.shape
    cumulative = np.empty(count)
    closest = np.empty(count)
    fresh = np.empty(count)
    kept = np.empty(count)
    chosen = np.zeros(count, np.bool_)
    for k in range(clusters):
        total = 0.0
        for i in range(count):
            total += weights[i] * (closest[i] if k > 0 else 1.0)
            cumulative[i] = total
        if total <= 0.0:  # every point sits on a centre: take any others, the cells stay distinct
            total = 0.0
            for i in range(count):
                total += 0.0 if chosen[i] else weights[i]
                cumulative[i] = total
        best_cost = np.inf
        best = -1
        for draw in range(candidates if k > 0 else 1):
            point = _first_above(cumulative, uniforms[k, draw] * total)
            while weights[point] == 0.0:  # rounding at the upper end only
                point -= 1
            row = gram[point]
            cost = 0.0
            for i in range(count):
                distance = diagonal[i] - 2.0 * np.float64(row[i]) + diagonal[point]
                distance = distance if distance > 0.0 else 0.0
                if k > 0:
                    distance = distance if distance < closest[i] else closest[i]
                fresh[i] = distance
                cost += weights[i] * distance
            if cost < best_cost:
                best_cost = cost
                best = point
                fresh, kept = kept, fresh
        chosen[best] = True
        for i in range(count):
            if k == 0 or kept[i] < closest[i]:
                labels[i] = k
            closest[i] = kept[i]
        closest[best] = 0.0
        labels[best] = k


@compiled
def cell_sums(gram, weights, labels, sums, masses, members):
    """Fill ``sums`` [K, N], ``masses`` [K] and ``members`` [K] (points of positive weight) from ``labels``."""
    sums[:] = 0.0
    masses[:] = 0.0
    members[:] = 0
    for j in range(gram.shape[0]):
        weight = weights[j]
        if weight > 0.0:
            k = labels[j]
            masses[k] += weight
            members[k] += 1
            target = sums[k]
            row = gram[j]
            for i in range(gram.shape[0]):
                target[i] += weight * row[i]


@compiled
def cell_squares(weights, labels, sums, squares):
    """Fill ``squares`` [K] from ``sums``."""
    squares[:] = 0.0
    for i in range(labels.size):
        squares[labels[i]] += weights[i] * sums[labels[i], i]


@compiled
def _nearest(sums, squares, masses, best, nearest):
    """For each point the cell of the nearest centroid and that distance less ``gram[i, i]``."""
    best[:] = np.inf
    for k in range(masses.size):
        if masses[k] > 0.0:
            offset = squares[k] / (masses[k] * masses[k])
            slope = 2.0 / masses[k]
            row = sums[k]
            for i in range(best.size):
                value = offset - slope * row[i]
                closer = value < best[i]
                best[i] = value if closer else best[i]
                nearest[i] = k if closer else nearest[i]


@compiled
def fill_empty(diagonal, weights, best, labels, members):
    """Give each empty cell the costliest point of a cell that has more than one."""
    for k in range(members.size):
        if members[k] == 0:
            costliest = -1
            cost = -np.inf
            for i in range(labels.size):
                if weights[i] > 0.0 and members[labels[i]] > 1:
                    value = weights[i] * (diagonal[i] + best[i])
                    if value > cost:
                        cost = value
                        costliest = i
            members[labels[costliest]] -= 1
            members[k] = 1
            labels[costliest] = k


@compiled
def _move(gram, weight, point, source, target, sums, masses):
    """Move one point's mass between two cells."""
    masses[source] -= weight
    masses[target] += weight
    row = gram[point]
    left = sums[source]
    joined = sums[target]
    for j in range(row.size):
        share = weight * row[j]
        left[j] -= share
        joined[j] += share


@compiled
def _reassign(weights, labels, sums, squares, masses, best, nearest, members, slack):
    """Move points to the ``nearest`` cell where that is nearer by more than ``slack``; count ``members``."""
    members[:] = 0
    for i in range(labels.size):
        own = labels[i]
        value = np.inf
        if masses[own] > 0.0:
            value = squares[own] / (masses[own] * masses[own]) - 2.0 * sums[own, i] / masses[own]
        if best[i] < value - slack:
            labels[i] = nearest[i]
        else:
            best[i] = value
        if weights[i] > 0.0:
            members[labels[i]] += 1


@compiled
def _shift_sums(gram, weights, labels, previous, sums, masses, members):
    """Bring ``sums`` and ``masses`` from the cells ``previous`` to ``labels``."""
    for i in range(labels.size):
        if labels[i] != previous[i] and weights[i] > 0.0:
            _move(gram, weights[i], i, previous[i], labels[i], sums, masses)
    for i in range(labels.size):  # a cell of one point must not keep what rounding left of the others' mass
        if members[labels[i]] == 1 and weights[i] > 0.0:
            masses[labels[i]] = weights[i]


def lloyd(gram, diagonal, weights, labels, sums, squares, masses, members, slack, limit):
    """Lloyd's iteration from ``labels`` to a fixed point (at most ``limit`` steps); returns the number of steps."""
    best = np.empty(len(labels))
    nearest = np.empty(len(labels), np.int64)
    cell_sums(gram, weights, labels, sums, masses, members)
    cell_squares(weights, labels, sums, squares)
    for step in range(limit):
        previous = labels.copy()
        _nearest(sums, squares, masses, best, nearest)
        _reassign(weights, labels, sums, squares, masses, best, nearest, members, slack)
        if members.min() == 0:
            fill_empty(diagonal, weights, best, labels, members)
        moved = np.count_nonzero(labels != previous)
        if moved == 0:
            return step
        if 2 * moved < len(labels):
            _shift_sums(gram, weights, labels, previous, sums, masses, members)
        else:
            cell_sums(gram, weights, labels, sums, masses, members)
        cell_squares(weights, labels, sums, squares)
    return limit


@compiled
def _can_gain(diagonal, weights, labels, sums, squares, masses, slack, saved, margins):
    """Set ``margins`` of a block of points below 0 where some move improves; no division, so that it vectorises well.

    Leaving cell a saves m_a / (m_a - w) |x - z_a|^2 per unit of mass, joining cell k costs m_k / (m_k + w) |x - z_k|^2
    (Hartigan 1975; Telgarsky & Vattani 2010, section 2). ``saved`` takes the former less the slack."""
    count = diagonal.size
    for i in range(count):
        own = labels[i]
        mass = masses[own]
        distance = diagonal[i] + squares[own] / (mass * mass) - 2.0 * sums[own, i] / mass
        rest = mass - weights[i]
        saved[i] = distance * mass / rest - slack if rest > 0.0 else -np.inf
        margins[i] = np.inf
    for k in range(masses.size):
        mass = masses[k]
        offset = squares[k] / mass
        row = sums[k]
        for i in range(count):
            # joining costs less than is saved, both times m_k + w
            margin = diagonal[i] * mass + offset - 2.0 * row[i] - saved[i] * (mass + weights[i])
            margin = np.inf if labels[i] == k else margin
            margins[i] = margin if margin < margins[i] else margins[i]


@compiled
def _cheapest_cell(norm, weight, own, point, sums, squares, masses):
    """Cell that ``point`` (squared norm ``norm``) joins most cheaply, its own left out, and that cost per mass."""
    best = -1
    least = np.inf
    for k in range(masses.size):
        mass = masses[k]
        joined = (norm + squares[k] / (mass * mass) - 2.0 * sums[k, point] / mass) * mass / (mass + weight)
        if joined < least and k != own:
            least = joined
            best = k
    return best, least


@compiled
def exchange(gram, diagonal, weights, labels, sums, squares, masses, members, slack, limit):
    """Hartigan's exchange until no single move lowers the cost; returns the number of moves.

    Needs the state that ``lloyd`` leaves. A block of points is searched at once; each point found is searched again
    before it moves, because others of its block may have moved meanwhile. It ends with a sweep without a move."""
    count = gram.shape[0]
    saved = np.empty(_BLOCK)
    margins = np.empty(_BLOCK)
    total = 0
    for _ in range(limit):
        before = total
        for start in range(0, count, _BLOCK):
            stop = min(start + _BLOCK, count)
            part = slice(start, stop)
            _can_gain(
                diagonal[part], weights[part], labels[part], sums[:, part], squares, masses, slack, saved, margins
            )
            for i in range(start, stop):
                source = labels[i]
                weight = weights[i]
                if margins[i - start] < 0.0 and weight > 0.0 and members[source] > 1:
                    mass = masses[source]
                    kept = diagonal[i] + squares[source] / (mass * mass) - 2.0 * sums[source, i] / mass
                    target, joined = _cheapest_cell(diagonal[i], weight, source, i, sums, squares, masses)
                    if kept * mass / (mass - weight) - joined <= slack:
                        continue
                    squares[source] += weight * (weight * diagonal[i] - 2.0 * sums[source, i])
                    squares[target] += weight * (weight * diagonal[i] + 2.0 * sums[target, i])
                    _move(gram, weight, i, source, target, sums, masses)
                    members[source] -= 1
                    members[target] += 1
                    labels[i] = target
                    total += 1
        if total == before:
            break
    return total


@compiled
def cost(diagonal, weights, squares, masses):
    """Weighted sum of squared distances, sum_i w_i gram[i, i] - sum_k squares[k] / m_k."""
    total = 0.0
    for i in range(diagonal.size):
        total += weights[i] * diagonal[i]
    for k in range(masses.size):
        if masses[k] > 0.0:
            total -= squares[k] / masses[k]
    return total


def settle(gram, diagonal, weights, labels, clusters):
    """Return the squared distance [N] of each point to its centroid; points of weight zero first join the nearest."""
    count = len(labels)
    sums = np.empty((clusters, count))
    squares, masses, members = np.empty(clusters), np.empty(clusters), np.empty(clusters, np.int64)
    cell_sums(gram, weights, labels, sums, masses, members)
    cell_squares(weights, labels, sums, squares)
    if weights.min() == 0.0:
        nearest = np.empty(count, np.int64)
        _nearest(sums, squares, masses, np.empty(count), nearest)
        labels[weights == 0.0] = nearest[weights == 0.0]
    own = masses[labels]
    return np.maximum(diagonal + squares[labels] / own**2 - 2 * sums[labels, np.arange(count)] / own, 0.0)
