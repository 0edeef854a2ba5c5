"""Exact transport of many samples to few points of given capacity, and the means and swaps of balanced codebooks.

The transport is solved by successive shortest paths on the graph of the K points alone (Ahuja, Magnanti & Orlin 1993,
section 9.7, with the samples folded into the arcs): the arc a -> b costs the least extra that one of the samples held
by a pays at b. Dual prices of the points keep all reduced costs non-negative, so any start from prices is optimal for
the loads it has, and every augmentation keeps it so. Prices of the previous alternation leave few samples misplaced,
which makes a solve several times faster than one from nothing. Amounts are integers: no rounding, no cycling."""

import numpy as np

from ..compute.compiled import compiled


@compiled
def _cheapest_moves(costs, held, number, source, extra, mover):
    """Cheapest extra cost, and its sample, of moving a sample of ``source`` to each point."""
    clusters = costs.shape[1]
    best = extra[source]
    who = mover[source]
    best[:] = np.inf
    who[:] = -1
    for place in range(number[source]):
        sample = held[source, place]
        row = costs[sample]
        own = row[source]
        for k in range(clusters):
            value = row[k] - own
            cheaper = value < best[k]
            best[k] = value if cheaper else best[k]
            who[k] = sample if cheaper else who[k]
    best[source] = np.inf


@compiled
def _shortest_path(extra, prices, excess, reached, parent):
    """Dijkstra from all overloaded points to the nearest underloaded one, which it returns; updates the prices."""
    clusters = prices.size
    done = np.zeros(clusters, np.bool_)
    for k in range(clusters):
        reached[k] = 0.0 if excess[k] > 0 else np.inf
        parent[k] = -1
    while True:
        point = -1
        least = np.inf
        for k in range(clusters):
            if not done[k] and reached[k] < least:
                least = reached[k]
                point = k
        if excess[point] < 0:
            for k in range(clusters):
                prices[k] += reached[k] if done[k] else least
            return point
        done[point] = True
        for k in range(clusters):
            length = extra[point, k] + prices[point] - prices[k]
            length = least + (length if length > 0.0 else 0.0)
            if not done[k] and length < reached[k]:
                reached[k] = length
                parent[k] = point


@compiled
def transport(costs, supply, demand, prices, shares):
    """Fill ``shares`` int64 [N, K] with the cheapest transport of ``supply`` [N] to ``demand`` [K] (equal sums, int64).

    ``costs`` float64 [N, K]. ``prices`` float64 [K] are the dual prices to start from (any) and those at the end."""
    count, clusters = costs.shape
    shares[:] = 0
    excess = -demand
    number = np.zeros(clusters, np.int64)
    held = np.empty((clusters, count), np.int32)  # samples with a share in each point
    for i in range(count):
        best = 0
        for k in range(1, clusters):
            if costs[i, k] - prices[k] < costs[i, best] - prices[best]:
                best = k
        if supply[i] > 0:
            shares[i, best] = supply[i]
            excess[best] += supply[i]
            held[best, number[best]] = i
            number[best] += 1
    extra = np.empty((clusters, clusters))
    mover = np.empty((clusters, clusters), np.int64)
    for k in range(clusters):
        _cheapest_moves(costs, held, number, k, extra, mover)
    reached = np.empty(clusters)
    parent = np.empty(clusters, np.int64)
    while excess.max() > 0:
        end = _shortest_path(extra, prices, excess, reached, parent)
        amount = -excess[end]
        point = end
        while parent[point] >= 0:
            before = parent[point]
            amount = min(amount, shares[mover[before, point], before])
            point = before
        amount = min(amount, excess[point])
        excess[point] -= amount
        excess[end] += amount
        point = end
        while parent[point] >= 0:
            before = parent[point]
            sample = mover[before, point]
            if shares[sample, point] == 0:
                held[point, number[point]] = sample
                number[point] += 1
            shares[sample, point] += amount
            shares[sample, before] -= amount
            if shares[sample, before] == 0:
                place = 0
                while held[before, place] != sample:
                    place += 1
                number[before] -= 1
                held[before, place] = held[before, number[before]]
            point = before
        point = end  # the arcs are refreshed once all moves of the path are made
        while True:
            _cheapest_moves(costs, held, number, point, extra, mover)
            if parent[point] < 0:
                break
            point = parent[point]


@compiled
def share_sums(gram, weights, supply, shares, sums, masses):
    """Fill ``sums`` [K, N] and ``masses`` [K] (as in ``gram_kernels``) from the shares."""
    count, clusters = shares.shape
    sums[:] = 0.0
    masses[:] = 0.0
    for j in range(count):
        for k in range(clusters):
            if shares[j, k] > 0:
                part = weights[j] * shares[j, k] / supply[j]
                masses[k] += part
                target = sums[k]
                row = gram[j]
                for i in range(count):
                    target[i] += part * row[i]


@compiled
def share_costs(diagonal, weights, supply, shares, sums, masses, costs):
    """Fill ``costs`` [N, K]: squared distances to the weighted means of the shares."""
    count, clusters = shares.shape
    squares = np.zeros(clusters)
    for j in range(count):
        for k in range(clusters):
            if shares[j, k] > 0:
                squares[k] += weights[j] * shares[j, k] / supply[j] * sums[k, j]
    for k in range(clusters):
        offset = squares[k] / (masses[k] * masses[k])
        slope = 2.0 / masses[k]
        for i in range(count):
            value = diagonal[i] + offset - slope * sums[k, i]
            costs[i, k] = value if value > 0.0 else 0.0


@compiled
def swap(gram, diagonal, weights, supply, shares, sums, slack, limit):
    """Swap pairs of samples of one weight between points while that lowers the cost; returns the number of swaps.

    With x_i all in a and x_j all in b, both points of mass m, the cost falls by 2 w / m times

        <s_b - s_a, x_i - x_j> + w |x_i - x_j|^2,    s_k = sum of the weighted shares of k:

    Hartigan's exchange under equal masses. The transport leaves the first term at most 0; the second is what means that
    move along gain. Samples split between points stay."""
    count, clusters = shares.shape
    label = np.full(count, -1)
    own = np.empty(count)  # <s_a, x_i>, a the point that holds x_i
    column = np.empty(clusters)
    swaps = 0
    for i in range(count):
        for k in range(clusters):
            if supply[i] > 0 and shares[i, k] == supply[i]:
                label[i] = k
                own[i] = sums[k, i]
    for _ in range(limit):
        before = swaps
        for i in range(count):
            source = label[i]
            if source < 0:
                continue
            weight = weights[i]
            column[:] = sums[:, i]
            near = sums[source]
            row = gram[i]
            best = -1
            most = slack * weight
            for j in range(count):
                target = label[j]
                if target >= 0 and target != source and weights[j] == weight:
                    apart = diagonal[i] + diagonal[j] - 2.0 * row[j]
                    gain = column[target] - own[i] + near[j] - own[j] + weight * apart
                    if gain > most:
                        most = gain
                        best = j
            if best < 0:
                continue
            target = label[best]
            shares[i, source] = 0
            shares[i, target] = supply[i]
            shares[best, target] = 0
            shares[best, source] = supply[best]
            label[i] = target
            label[best] = source
            far = sums[target]
            other = gram[best]
            for j in range(count):
                change = weight * (other[j] - row[j])
                near[j] += change
                far[j] -= change
            for j in range(count):
                if label[j] >= 0:
                    own[j] = sums[label[j], j]
            swaps += 1
        if swaps == before:
            break
    return swaps
