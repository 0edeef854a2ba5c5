from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddoq_plugin.quantization import quantize, w2_squared
from ddoq_plugin.quantization.transport_kernels import transport
from ddoq_plugin.quantization.w2 import integer_masses, transport_cost


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 15), st.booleans(), st.booleans())
def test_the_transport_is_exact(seed, count, clusters, weighted, tied):
    random = np.random.default_rng(seed)
    costs = random.integers(0, 4, (count, clusters)).astype(float) if tied else random.random((count, clusters))
    weights = random.random(count) * (random.random(count) > 0.2) + 1e-9 if weighted else np.ones(count)
    heights = random.random(clusters) if weighted else np.ones(clusters)
    supply, demand = integer_masses(weights, heights)
    shares = np.empty((count, clusters), np.int64)
    prices = random.standard_normal(clusters)
    transport(costs, supply, demand, prices, shares)
    assert shares.min() >= 0
    assert np.array_equal(shares.sum(axis=1), supply)
    assert np.array_equal(shares.sum(axis=0), demand)
    total = supply.sum()
    expected = ot.emd2(supply / total, demand / total, costs)
    assert (shares * costs).sum() / total == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert transport_cost(costs, weights, heights) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    # the prices prove it: every sample sits where cost less price is lowest
    reduced = costs - prices
    assert (reduced - reduced.min(axis=1, keepdims=True))[shares > 0].max() < 1e-9


def test_integer_masses_are_exact_or_nearly():
    supply, demand = integer_masses(np.ones(12), np.ones(8))
    assert supply.tolist() == [2] * 12 and demand.tolist() == [3] * 8
    weights = np.array([0.0, 1e-15, 1.0, 2.0])
    supply, demand = integer_masses(weights, np.ones(3))
    assert supply.sum() == demand.sum() and demand.max() - demand.min() <= 1
    assert supply[0] == 0 and supply[1] > 0
    assert supply / supply.sum() == pytest.approx(weights / 3, abs=1e-11)
    supply, demand = integer_masses(np.ones(7), np.array([1.0, 0.0, 5.0]))
    assert supply.sum() == demand.sum() and demand[1] == 0
    assert demand / demand.sum() == pytest.approx([1 / 6, 0, 5 / 6], abs=1e-11)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("count", "clusters"), [(60, 7), (64, 8), (20, 13)])
def test_a_balanced_codebook_is_a_fixed_point_of_means_and_transport(count, clusters, weighted):
    random = np.random.default_rng(count)
    points = random.standard_normal((count, 90))
    weights = random.random(count) + 0.1 if weighted else np.ones(count)
    book = quantize(torch.from_numpy(points), clusters, weights=torch.from_numpy(weights), masses="balanced")
    assert book.masses.tolist() == [1 / clusters] * clusters
    codes = book.centroids.double().numpy()
    plan = ot.emd(weights / weights.sum(), np.full(clusters, 1 / clusters), ot.dist(points, codes))
    assert book.distortion == pytest.approx(float((plan * ot.dist(points, codes)).sum()), rel=1e-6)
    assert np.allclose(clusters * plan.T @ points, codes, atol=1e-4)
    assert np.array_equal(plan.argmax(axis=1), book.assignment.numpy()) or weighted
    # mass conservation: the plain mean of the centroids is the mean of the class
    assert np.allclose(codes.mean(axis=0), np.average(points, axis=0, weights=weights), atol=1e-5)
    for sample, cell in zip(book.nearest.tolist(), range(clusters), strict=True):
        assert plan[sample, cell] > 0


def test_balanced_lies_between_voronoi_and_lloyd_with_equal_masses():
    random = np.random.default_rng(1)
    points = torch.from_numpy(random.standard_normal((200, 30)) * random.gamma(1, 1, (200, 1)))
    for clusters in (4, 20):
        voronoi = quantize(points, clusters)
        balanced = quantize(points, clusters, masses="balanced")
        equal = w2_squared(points, voronoi.centroids, torch.ones(clusters))
        assert w2_squared(points, balanced.centroids) <= balanced.distortion < equal
        assert balanced.distortion == pytest.approx(
            w2_squared(points, balanced.centroids, torch.ones(clusters)), rel=1e-6
        )


def test_no_swap_of_two_samples_improves_a_balanced_codebook():
    points = np.random.default_rng(2).standard_normal((24, 5))
    book = quantize(torch.from_numpy(points), 6, masses="balanced")
    labels = book.assignment.numpy()
    assert np.bincount(labels).tolist() == [4] * 6

    def cost(cells):
        return sum(((points[cells == k] - points[cells == k].mean(axis=0)) ** 2).sum() for k in range(6))

    best = cost(labels)
    for i in range(24):
        for j in range(i):
            swapped = labels.copy()
            swapped[i], swapped[j] = labels[j], labels[i]
            assert cost(swapped) >= best - 1e-9


def test_no_alternation_raises_the_cost():
    points = torch.from_numpy(np.random.default_rng(3).standard_normal((150, 40)))
    costs = [quantize(points, 12, masses="balanced", max_iterations=limit).distortion for limit in (1, 2, 3, 5, 300)]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in zip(costs, costs[1:], strict=False))
    assert costs[-1] < costs[0]


def test_it_is_reproducible():
    points = torch.from_numpy(np.random.default_rng(4).standard_normal((100, 20)))
    first, second = (quantize(points, 9, masses="balanced", seed=5) for _ in range(2))
    assert torch.equal(first.centroids, second.centroids) and first.distortion == second.distortion


def test_constant_data():
    book = quantize(torch.ones(10, 3), 4, masses="balanced")
    assert book.distortion == 0 and bool((book.centroids == 1).all())
