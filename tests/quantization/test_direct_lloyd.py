from __future__ import annotations

import numpy as np
import pytest
import torch
from quantization_reference import distances

from ddoq_plugin.quantization import quantize, quantize_many
from ddoq_plugin.quantization.api import gram_pays
from ddoq_plugin.quantization.lloyd import assign


def heaps(count=5000, dimensions=80, seed=0):
    random = np.random.default_rng(seed)
    centres = 3 * random.standard_normal((30, dimensions))
    return torch.from_numpy(random.standard_normal((count, dimensions)) + centres[random.integers(0, 30, count)])


def test_cells_are_nearest_and_centroids_nearly_their_means():
    points = heaps().float()
    book = quantize(points, 20, method="lloyd")
    reach = distances(points.numpy(), book.centroids.numpy())
    own = reach[np.arange(5000), book.assignment.numpy()]
    assert (own <= reach.min(axis=1) * (1 + 1e-5)).all()
    assert book.distortion == pytest.approx(own.mean(), rel=1e-5)
    masses = np.bincount(book.assignment.numpy(), minlength=20) / 5000
    assert book.masses.numpy() == pytest.approx(masses)
    means = np.stack([points[book.assignment == k].double().mean(dim=0).numpy() for k in range(20)])
    gap = ((means - book.centroids.double().numpy()) ** 2).sum(axis=1) @ masses
    assert gap < 1e-3 * book.distortion


def test_it_comes_near_the_gram_domain():
    points = heaps(1500)
    assert quantize(points, 15, method="lloyd").distortion <= 1.03 * quantize(points, 15, method="gram").distortion


def test_no_pass_raises_the_distortion():
    points = heaps(2000).float()
    centre = points.mean(dim=0)
    found = assign(points, None, points[:25], centre)
    for _ in range(15):
        before, found = found, assign(points, None, found.means, centre)
        assert found.distortion <= before.distortion * (1 + 1e-6)


def test_weights_count_as_copies():
    points = heaps(400)
    weights = torch.randint(0, 4, (400,), generator=torch.Generator().manual_seed(0))
    codes, centre = points[:12].clone(), points.mean(dim=0)
    weighted = assign(points, weights.double() / weights.double().mean(), codes, centre)
    copied = assign(points.repeat_interleave(weights, dim=0), None, codes, centre)
    assert weighted.distortion == pytest.approx(copied.distortion, rel=1e-6)
    torch.testing.assert_close(weighted.means, copied.means, rtol=1e-4, atol=1e-5)


def test_an_empty_cell_takes_the_costliest_sample():
    points = torch.tensor([[0.0], [1.0], [2.0], [50.0]])
    found = assign(points, None, torch.tensor([[1.0], [1000.0]]), torch.zeros(1))
    assert found.labels.tolist() == [0, 0, 0, 1]
    assert found.codes[:, 0].tolist() == [1.0, 50.0]
    assert found.means[:, 0].tolist() == [1.0, 50.0]
    assert found.distances.tolist() == [1.0, 0.0, 1.0, 0.0]


def test_many_clusters_start_from_random_samples():
    points = torch.from_numpy(np.random.default_rng(1).random((12000, 2)))
    book = quantize(points, 1700, method="lloyd", max_iterations=3)
    assert book.masses.min() > 0 and len(book.masses) == 1700
    assert book.distortion < 2 * 5 / (18 * 3**0.5 * 1700)


def test_it_is_reproducible_and_depends_on_the_seed():
    points = heaps(3000)
    first, second, other = (quantize(points, 40, method="lloyd", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.centroids, second.centroids)
    assert not torch.equal(first.centroids, other.centroids)


def test_the_cost_model_takes_gram_for_classes_and_lloyd_for_large_data():
    assert gram_pays(1300, 4096, 100, 1)
    assert gram_pays(1300, 16384, 10, 2)
    assert not gram_pays(130_000, 4096, 100, 1)  # 135 GB
    assert not gram_pays(16_000, 4096, 10, 2)
    assert gram_pays(4000, 1024, 100, 1)
    assert not gram_pays(13_000, 1024, 100, 1)


def test_auto_is_one_of_the_two():
    points = heaps(500)
    assert torch.equal(quantize(points, 5).centroids, quantize(points, 5, method="gram").centroids)
    large = torch.from_numpy(np.random.default_rng(2).random((17_000, 2)))
    assert torch.equal(quantize(large, 5).centroids, quantize(large, 5, method="lloyd").centroids)


def test_auto_does_not_depend_on_what_else_is_asked_for():
    points = torch.from_numpy(np.random.default_rng(3).standard_normal((2500, 80))).float()
    assert gram_pays(2500, 80, 100, 1) and not gram_pays(2500, 80, 4, 2)
    sweep = quantize_many(points, [4, 100], [0])
    for clusters in (4, 100):
        assert torch.equal(sweep[clusters, 0].centroids, quantize(points, clusters).centroids)
