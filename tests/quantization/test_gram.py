from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantization_reference import best_single_move, cost, distances

from ddoq_plugin.quantization import quantize, quantize_many
from ddoq_plugin.quantization.gram import gram_matrix
from ddoq_plugin.quantization.gram_codebooks import seeded_labels, voronoi
from ddoq_plugin.quantization.gram_kernels import cell_squares, cell_sums, exchange, lloyd
from ddoq_plugin.quantization.gram_kernels import cost as gram_cost

problems = st.builds(
    lambda seed, count, dimensions, weighted: (
        (random := np.random.default_rng(seed)).standard_normal((count, dimensions)),
        random.random(count) + 0.05 if weighted else np.ones(count),
    ),
    st.integers(0, 10**6),
    st.integers(8, 40),
    st.integers(1, 90),
    st.booleans(),
)


def state(points, weights, clusters, seed=0):
    """A Gram matrix, seeded labels and the arrays of ``lloyd``."""
    gram = gram_matrix(torch.from_numpy(points), torch.from_numpy(weights / weights.mean()), None)
    labels = seeded_labels(gram, clusters, seed)[0]
    arrays = [np.empty((clusters, len(points))), np.empty(clusters), np.empty(clusters), np.empty(clusters, np.int64)]
    return gram, labels, arrays


@settings(max_examples=25, deadline=None)
@given(problems, st.integers(1, 8))
def test_a_codebook_is_a_fixed_point_that_no_single_move_improves(problem, clusters):
    points, weights = problem
    book = quantize(torch.from_numpy(points), clusters, weights=torch.from_numpy(weights), method="gram")
    labels = book.assignment.numpy()
    found = cost(points, weights, labels)
    # stationarity: centroids are the means of their cells, and cells are nearest
    assert book.distortion == pytest.approx(found / weights.sum(), rel=1e-5)
    reach = distances(points, book.centroids.numpy())
    assert np.allclose(reach[np.arange(len(points)), labels], reach.min(axis=1), rtol=1e-4, atol=1e-5)
    # masses: all positive, sum 1, and the weighted centroids have the mean of the data
    assert book.masses.min() > 0
    assert float(book.masses.sum()) == pytest.approx(1, abs=1e-12)
    mean = np.average(points, axis=0, weights=weights)
    assert np.allclose(book.masses.numpy() @ book.centroids.double().numpy(), mean, atol=1e-5)
    # Hartigan
    assert best_single_move(points, weights, labels, clusters) >= found * (1 - 1e-5) - 1e-9


@settings(max_examples=25, deadline=None)
@given(problems, st.integers(2, 8))
def test_no_step_of_lloyd_or_exchange_raises_the_cost(problem, clusters):
    points, weights = problem
    gram, labels, (sums, squares, masses, members) = state(points, weights, clusters)
    cell_sums(gram.matrix, gram.weights, labels, sums, masses, members)
    cell_squares(gram.weights, labels, sums, squares)
    costs = [gram_cost(gram.diagonal, gram.weights, squares, masses)]
    step = (gram.matrix, gram.diagonal, gram.weights, labels, sums, squares, masses, members, gram.slack, 1)
    for _ in range(10):
        lloyd(*step)
        costs.append(gram_cost(gram.diagonal, gram.weights, squares, masses))
    for _ in range(10):
        exchange(*step)
        costs.append(gram_cost(gram.diagonal, gram.weights, squares, masses))
    scale = gram.weights @ gram.diagonal
    assert costs[-1] == pytest.approx(cost(points, gram.weights, labels), abs=1e-6 * scale)
    assert np.diff(costs).max() <= 1e-6 * scale


def test_incremental_sums_leave_no_drift():
    random = np.random.default_rng(0)
    points = random.standard_normal((300, 500))
    gram, labels, (sums, squares, masses, members) = state(points, np.ones(300), 60)
    step = (gram.matrix, gram.diagonal, gram.weights, labels, sums, squares, masses, members, gram.slack, 300)
    lloyd(*step)
    assert exchange(*step) > 20
    fresh = np.empty_like(sums)
    cell_sums(gram.matrix, gram.weights, labels, fresh, masses, members)
    assert np.abs(fresh - sums).max() < 1e-10 * np.abs(gram.matrix).max()
    assert members.tolist() == np.bincount(labels, minlength=60).tolist()


def test_distortion_agrees_with_float64_within_the_stated_bound():
    random = np.random.default_rng(1)
    points = (random.standard_normal((200, 2000)) + 5).astype(np.float32)
    book = quantize(torch.from_numpy(points), 20)
    exact = distances(points, book.centroids.numpy())[np.arange(200), book.assignment.numpy()].mean()
    assert book.distortion == pytest.approx(exact, rel=1e-6)


def test_a_tiny_distortion_far_from_the_origin_is_resolved():
    # pairs at distance 1e-3 around centres of norm 1e2: the float32 product cannot tell them apart
    random = np.random.default_rng(2)
    centres = random.standard_normal((20, 100)) * 10
    points = np.concatenate([centres - 5e-5, centres + 5e-5])
    book = quantize(torch.from_numpy(points), 20)
    assert book.distortion == pytest.approx(100 * 25e-10, rel=1e-4)
    assert torch.equal(book.assignment[:20], book.assignment[20:])


def test_restarts_and_exchange_only_help():
    random = np.random.default_rng(3)
    points = torch.from_numpy(random.standard_normal((200, 100)))
    gram = gram_matrix(points, None, None)
    plain = quantize(points, 12, restarts=1, exchange=False).distortion
    assert quantize(points, 12, restarts=1).distortion <= plain
    assert quantize(points, 12, restarts=6, exchange=False).distortion <= plain
    one, two = (voronoi(gram, 12, seed, restarts=1) for seed in (0, 0))
    assert np.array_equal(one, two)


def test_a_sweep_gives_what_single_calls_give_and_is_reproducible():
    points = torch.from_numpy(np.random.default_rng(4).standard_normal((150, 70)))
    sweep = quantize_many(points, [1, 5, 20], [0, 3])
    assert set(sweep) == {(k, s) for k in (1, 5, 20) for s in (0, 3)}
    for (clusters, seed), book in sweep.items():
        alone = quantize(points, clusters, seed=seed, method="gram")
        assert torch.equal(book.centroids, alone.centroids)
        assert torch.equal(book.assignment, alone.assignment)
        assert book.distortion == alone.distortion
    assert not torch.equal(sweep[20, 0].assignment, sweep[20, 3].assignment)


def test_nearest_are_the_closest_members_and_distinct():
    points = torch.from_numpy(np.random.default_rng(5).standard_normal((80, 10)))
    book = quantize(points, 15)
    assert len(set(book.nearest.tolist())) == 15
    reach = distances(points.numpy(), book.centroids.numpy())
    for cell, sample in enumerate(book.nearest.tolist()):
        members = (book.assignment == cell).nonzero()[:, 0].numpy()
        assert sample in members
        assert reach[sample, cell] <= reach[members, cell].min() * (1 + 1e-6)


def test_greedy_seeding_draws_by_weighted_squared_distance():
    # two heaps far apart: the second centre falls into the other heap whatever the draws
    points = np.concatenate([np.zeros((10, 3)), np.full((10, 3), 100.0)]) + np.random.default_rng(6).normal(
        size=(20, 3)
    )
    for seed in range(10):
        gram, labels, _ = state(points, np.ones(20), 2, seed)
        assert len(set(labels[:10])) == 1 and len(set(labels[10:])) == 1 and labels[0] != labels[10]


def test_one_dimension_reaches_the_known_optimum():
    # U[0,1]: z_k = (2k - 1) / 2K, masses 1/K, distortion 1 / (12 K^2) (midpoint grid of N points: less 1 / (12 N^2))
    count, clusters = 2000, 5
    grid = (torch.arange(count, dtype=torch.float64)[:, None] + 0.5) / count
    book = quantize(grid, clusters)
    order = book.centroids[:, 0].argsort()
    expected = (2 * torch.arange(1, clusters + 1) - 1) / (2 * clusters)
    torch.testing.assert_close(book.centroids[order, 0], expected.float(), atol=2e-3, rtol=0)
    torch.testing.assert_close(
        book.masses, torch.full((clusters,), 1 / clusters, dtype=torch.float64), atol=4e-3, rtol=0
    )
    assert book.distortion == pytest.approx(1 / (12 * clusters**2), rel=1e-3)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_w2_falls_as_k_to_the_minus_one_over_d(dimensions):
    points = torch.from_numpy(np.random.default_rng(7).random((2000, dimensions)))
    counts = [4, 8, 16, 32]
    books = quantize_many(points, counts, [0], restarts=4)
    w2 = np.log([books[k, 0].distortion ** 0.5 for k in counts])
    slope = np.polyfit(np.log(counts), w2, 1)[0]
    assert slope == pytest.approx(-1 / dimensions, abs=0.1)


def test_two_heaps_of_sizes_a_and_b_weigh_a_to_b():
    random = np.random.default_rng(8)
    points = np.concatenate([random.normal(size=(30, 20)), random.normal(size=(90, 20)) + 50])
    masses = quantize(torch.from_numpy(points), 2).masses
    assert sorted(masses.tolist()) == pytest.approx([0.25, 0.75])
