"""What theory says must not change a codebook, on random weighted inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddoq_plugin.quantization import quantize, shape_weights, w2_squared

FEW = settings(max_examples=12, deadline=None)


def weighted(seed, count=40, dimensions=6):
    random = np.random.default_rng(seed)
    points = torch.from_numpy(random.standard_normal((count, dimensions)))
    return points, torch.from_numpy(random.random(count) + 0.1), random


@FEW
@given(st.integers(0, 10**6), st.integers(1, 10))
def test_voronoi_masses_are_the_best_masses(seed, clusters):
    points, weights, random = weighted(seed)
    book = quantize(points, clusters, weights=weights)
    best = w2_squared(points, book.centroids, weights=weights)
    assert best == pytest.approx(book.distortion, rel=1e-6)
    exact = w2_squared(points, book.centroids, book.masses, weights)
    assert exact == pytest.approx(best, rel=1e-6)
    others = [
        shape_weights(book.masses, "sqrt"),
        torch.ones(clusters),
        torch.from_numpy(random.random(clusters) + 0.01),
    ]
    for masses in others:
        assert w2_squared(points, book.centroids, masses, weights) >= best * (1 - 1e-6)


@FEW
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_translation_rotation_and_scale(seed, clusters):
    points, weights, random = weighted(seed)
    turn = torch.from_numpy(np.linalg.qr(random.standard_normal((6, 6)))[0])
    shift = torch.from_numpy(random.standard_normal(6))
    plain = quantize(points, clusters, weights=weights)
    moved = quantize(3 * points @ turn + shift, clusters, weights=7 * weights)
    assert torch.equal(moved.assignment, plain.assignment)
    assert moved.distortion == pytest.approx(9 * plain.distortion, rel=1e-9)
    torch.testing.assert_close(moved.masses, plain.masses)
    torch.testing.assert_close(
        moved.centroids.double(), 3 * plain.centroids.double() @ turn + shift, atol=1e-5, rtol=1e-5
    )


@FEW
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_a_sample_of_double_weight_is_two_samples(seed, clusters):
    points, weights, _ = weighted(seed)
    doubled = quantize(
        points.repeat_interleave(2, dim=0), clusters, weights=weights.repeat_interleave(2) / 2, restarts=1
    )
    single = quantize(points, clusters, weights=weights, restarts=1, exchange=False)
    # the same draws, so the same Lloyd run; exchange may then part two copies of one sample
    copies = quantize(
        points.repeat_interleave(2, dim=0), clusters, weights=weights.repeat_interleave(2), restarts=1, exchange=False
    )
    assert torch.equal(copies.assignment[::2], single.assignment)
    assert torch.equal(copies.assignment[1::2], single.assignment)
    torch.testing.assert_close(copies.masses, single.masses)
    torch.testing.assert_close(copies.centroids, single.centroids)
    assert doubled.distortion <= single.distortion * (1 + 1e-9)


@FEW
@given(st.integers(0, 10**6), st.integers(2, 5))
def test_the_order_of_the_samples_changes_nothing_but_the_start(seed, clusters):
    # heaps so far apart that every start ends in the same partition
    random = np.random.default_rng(seed)
    heap = random.integers(0, clusters, 60)
    heap[:clusters] = np.arange(clusters)
    points = torch.from_numpy(random.standard_normal((60, 4)) + 1000 * np.eye(clusters, 4)[heap] * (1 + heap[:, None]))
    order = torch.from_numpy(random.permutation(60))
    plain, mixed = quantize(points, clusters), quantize(points[order], clusters)
    assert mixed.distortion == pytest.approx(plain.distortion, rel=1e-6)
    torch.testing.assert_close(mixed.masses.sort().values, plain.masses.sort().values)
    together = plain.assignment[order][:, None] == plain.assignment[order]
    assert torch.equal(together, mixed.assignment[:, None] == mixed.assignment)


@FEW
@given(st.integers(0, 10**6))
def test_w2_does_not_see_the_order_of_samples_or_centroids(seed):
    points, weights, random = weighted(seed)
    codes, masses = points[:5] + 0.1, torch.from_numpy(random.random(5) + 0.1)
    rows, columns = torch.from_numpy(random.permutation(40)), torch.from_numpy(random.permutation(5))
    for given_masses in (None, masses):
        mixed = None if given_masses is None else given_masses[columns]
        assert w2_squared(points[rows], codes[columns], mixed, weights[rows]) == pytest.approx(
            w2_squared(points, codes, given_masses, weights), rel=1e-9
        )


@FEW
@given(st.integers(0, 10**6))
def test_more_clusters_never_cost_more(seed):
    points, weights, _ = weighted(seed, count=30)
    costs = [quantize(points, clusters, weights=weights, restarts=8).distortion for clusters in (1, 3, 9, 20, 30)]
    assert all(more <= less for less, more in zip(costs, costs[1:], strict=False))
