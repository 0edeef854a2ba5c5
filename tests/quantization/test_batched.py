from __future__ import annotations

import numpy as np
import pytest
import torch
from quantization_reference import best_single_move, cost

from ddoq_plugin.errors import QuantizationError
from ddoq_plugin.quantization import quantize, w2_squared
from ddoq_plugin.quantization.batched import batched_codebook
from ddoq_plugin.quantization.batched_kernels import Problem, costs, exchange, lloyd, seed_greedy
from ddoq_plugin.quantization.gram import gram_matrix
from ddoq_plugin.quantization.gram_codebooks import Settings, seeded_labels, uniform_draws


def normal(count, dimensions=90, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, dimensions))).float()


def batched(classes, clusters, weights=None, seed=0, settings=None):
    weights = weights or [None] * len(classes)
    return [
        batched_codebook(points, share, f"c{index}", clusters, seed, settings or Settings())
        for index, (points, share) in enumerate(zip(classes, weights, strict=True))
    ]


def problem_of(points):
    gram = gram_matrix(points.double(), None, None)
    matrix = torch.from_numpy(gram.matrix)[None]
    ones = torch.ones(1, len(points), dtype=torch.float64)
    return gram, Problem(matrix, matrix.diagonal(dim1=1, dim2=2), ones, torch.full((1, 1, 1), gram.slack))


def test_seeding_makes_the_choices_of_the_compiled_kernel():
    for seed in range(5):
        gram, problem = problem_of(normal(60, seed=seed))
        draws = torch.from_numpy(uniform_draws(12, seed, 1))[None]
        assert seed_greedy(problem, draws)[0, 0].tolist() == seeded_labels(gram, 12, seed).tolist()


def test_lloyd_ends_where_the_compiled_kernel_ends():
    points = normal(80)
    settings = Settings(restarts=1, exchange=False)
    (book,) = batched([points], 9, settings=settings)
    reference = quantize(points, 9, restarts=1, exchange=False)
    assert torch.equal(book.assignment, reference.assignment)
    torch.testing.assert_close(book.centroids, reference.centroids)
    torch.testing.assert_close(book.masses, reference.masses)
    assert book.distortion == pytest.approx(reference.distortion, rel=1e-5)


def test_no_step_raises_a_cost_and_no_single_move_is_left():
    points = normal(40, seed=1)
    _, problem = problem_of(points)
    draws = torch.from_numpy(uniform_draws(6, 0, 3))[None]
    run = lloyd(problem, seed_greedy(problem, draws), 6, 300)
    before = costs(problem, run)
    for _ in range(200):
        run = exchange(problem, run, 1)
        after = costs(problem, run)
        assert (after <= before + 1e-9).all()
        before = after
    for restart in range(3):
        labels = run.labels[0, restart].numpy()
        found = cost(points.numpy(), np.ones(40), labels)
        assert float(after[0, restart]) == pytest.approx(found, rel=1e-5)
        assert best_single_move(points.numpy(), np.ones(40), labels, 6) >= found * (1 - 1e-6)


def test_distortions_of_classes_of_all_sizes_are_exact_and_near_those_of_the_cpu():
    classes = [normal(count, seed=count) for count in (30, 75, 52)]
    random = np.random.default_rng(0)
    weights = [None, torch.from_numpy(random.random(75)), None]
    weights[1] /= weights[1].mean()
    together = batched(classes, 7, weights)
    for points, share, book in zip(classes, weights, together, strict=True):
        assert len(book.assignment) == len(points)
        assert book.distortion == pytest.approx(w2_squared(points, book.centroids, weights=share), rel=1e-5)
        assert float(book.masses.sum()) == pytest.approx(1)
        reference = quantize(points, 7, weights=share)
        assert book.distortion == pytest.approx(reference.distortion, rel=0.03)


def test_hard_classes_among_ordinary_ones():
    weights = torch.ones(30, dtype=torch.float64)
    weights[:20] = 0
    weights *= 3
    hard = [
        normal(30),
        torch.full((30, 90), 2.5),
        normal(3).repeat(10, 1),
        normal(30) * 1e25,
        normal(30) * 1e-25,
        normal(30),
        normal(8),
    ]
    books = batched(hard, 8, [None, None, None, None, None, weights, None])
    for points, book in zip(hard, books, strict=True):
        assert book.masses.min() > 0
        own = book.centroids.double()[book.assignment]
        spread = float(points.double().var(dim=0).sum())
        if book is not books[5]:
            exact = float((points.double() - own).square().sum(dim=1).mean())
            assert book.distortion == pytest.approx(exact, rel=1e-4, abs=1e-10 * spread)
    assert books[1].distortion == 0
    assert books[6].distortion == pytest.approx(0, abs=1e-9)
    assert books[3].assignment.tolist() == books[0].assignment.tolist() == books[4].assignment.tolist()
    assert (books[5].nearest >= 20).all()


def test_low_dimension_is_computed_in_float64():
    points = normal(300, 1).double()
    (book,) = batched([points], 40)
    assert book.distortion == pytest.approx(w2_squared(points, book.centroids), rel=1e-5)


def test_bad_classes_are_named():
    bad = normal(20)
    bad[4, 0] = float("inf")
    with pytest.raises(QuantizationError, match="Sample 4 of class 'c1'"):
        batched([normal(20), bad], 3)
    with pytest.raises(QuantizationError, match="too large to square"):
        batched([normal(20).double() * 1e200], 3)


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["gram", "lloyd", "minibatch"])
def test_cuda_agrees_with_the_cpu(method):
    points = normal(500, 300)
    on_cpu = quantize(points, 20, method=method)
    on_cuda = quantize(points.cuda(), 20, method=method)
    assert on_cuda.centroids.is_cuda
    assert on_cuda.distortion == pytest.approx(on_cpu.distortion, rel=0.02)
    assert on_cuda.distortion == pytest.approx(w2_squared(points.cuda(), on_cuda.centroids), rel=1e-5)
    again = quantize(points.cuda(), 20, method=method)
    assert torch.equal(on_cuda.centroids, again.centroids)
