from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddoq_plugin.errors import DistillError
from ddoq_plugin.quantization import quantize, shape_weights, w2_squared
from ddoq_plugin.quantization.allocation import Allocation, allocate, largest_remainder, nearest_samples


def latents(n=60, d=5, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * torch.linspace(2, 0.5, d)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8), st.integers(0, 20))
@settings(deadline=None, max_examples=60)
def test_largest_remainder_shares_all_seats(shares, spare):
    seats = largest_remainder(torch.tensor(shares), len(shares) + spare)
    assert int(seats.sum()) == len(shares) + spare and int(seats.min()) >= 1


def test_largest_remainder_by_hand():
    # quotas 5, 3, 2 of 10: exact; quotas 5.5, 3.3, 2.2 of 11 minus one each: 4.5, 2.3, 1.2 -> the 0.5 wins
    assert largest_remainder(torch.tensor([5.0, 3.0, 2.0]), 10).tolist() == [5, 3, 2]
    assert largest_remainder(torch.tensor([5.0, 3.0, 2.0]), 11).tolist() == [6, 3, 2]
    assert largest_remainder(torch.tensor([100.0, 1.0, 1.0]), 4).tolist() == [2, 1, 1]
    with pytest.raises(DistillError, match="2 images cannot be shared over 3"):
        largest_remainder(torch.ones(3), 2)


def test_as_many_clusters_as_images_is_the_codebook_itself():
    points = latents()
    book = quantize(points, 6)
    made = allocate(points, book, 6)
    assert torch.equal(made.points, book.centroids) and torch.equal(made.masses, book.masses)
    assert made.copies.tolist() == [1] * 6
    assert torch.equal(made.image_masses, book.masses) and torch.equal(made.at_points(book.masses), book.masses)


def test_fewer_clusters_split_each_weight_over_its_images():
    points = latents()
    book = quantize(points, 3)
    made = allocate(points, book, 8)
    assert made.copies.tolist() == [3, 3, 2]
    assert torch.allclose(made.at_points(made.image_masses), book.masses)
    assert int(made.copies.sum()) == 8 and float(made.image_masses.sum()) == pytest.approx(1)


def test_a_power_of_zero_is_uniform_and_of_one_is_counts_also_where_points_have_several_images():
    made = allocate(latents(), quantize(latents(), 4), 10)
    assert made.copies.tolist() == [3, 3, 2, 2]
    assert shape_weights(made.image_masses, "power", 0.0).tolist() == [1.0] * 10
    assert torch.equal(shape_weights(made.image_masses, "uniform"), torch.ones(10, dtype=torch.float64))
    counts = shape_weights(made.image_masses, "power", 1.0)
    assert torch.allclose(made.at_points(counts) / 10, made.masses)


def test_proportional_shares_follow_the_masses():
    points = torch.cat([torch.zeros(70, 2), torch.ones(30, 2) * 9]) + latents(100, 2) * 0.01
    made = allocate(points, quantize(points, 2), 10, share="proportional")
    shares = dict(zip(made.masses.tolist(), made.copies.tolist(), strict=True))
    assert shares == {0.7: 7, 0.3: 3}
    assert torch.allclose(made.image_masses * 10, torch.ones(10).double(), atol=1e-6)  # nothing is left for the weights


def test_more_clusters_are_quantised_by_their_masses():
    points = latents(200)
    book = quantize(points, 40)
    made = allocate(points, book, 5)
    assert made.points.shape == (5, 5) and float(made.masses.sum()) == pytest.approx(1)
    # the masses are those of the class's samples in the cells of the new points
    cells = torch.cdist(points.double(), made.points.double()).argmin(1)
    assert torch.equal(made.assignment, cells)
    assert torch.allclose(made.masses, cells.bincount(minlength=5).double() / 200)
    # weighted by mass, the points keep the class's mean: sum_j (mass of centroids at j) z_j = sum_k w_k z_k
    second = quantize(book.centroids, 5, weights=book.masses)
    assert torch.allclose(second.masses @ second.centroids.double(), points.double().mean(0), atol=1e-5)


def test_unweighted_requantisation_ignores_the_masses():
    points = torch.cat([torch.zeros(95, 2) + latents(95, 2) * 0.01, latents(5, 2) * 0.01 + 10])
    book = quantize(points, 10)
    weighted = allocate(points, book, 1)
    unweighted = allocate(points, book, 1, masses="unweighted")
    assert torch.allclose(weighted.points[0], points.mean(0), atol=1e-3)
    assert torch.allclose(unweighted.points[0], book.centroids.mean(0), atol=1e-3)


def test_balanced_masses_stay_equal():
    points = latents(120)
    for clusters in (4, 10):
        book = quantize(points, clusters, masses="balanced")
        made = allocate(points, book, 4, masses="balanced")
        assert torch.allclose(made.masses, torch.full((4,), 0.25, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("weighting", ["uniform", "counts", "sqrt"])
def test_voronoi_masses_are_never_farther(weighting):
    points = latents(100)
    for clusters in (3, 6, 12):
        made = allocate(points, quantize(points, clusters), 6)
        best = w2_squared(points, made.points, masses=made.masses)
        other = shape_weights(made.masses, weighting)
        assert best <= w2_squared(points, made.points, masses=other.double() / other.sum()) + 1e-9


def test_nearest_samples_are_distinct_and_of_their_cells():
    points = latents(50)
    made = allocate(points, quantize(points, 5), 5)
    chosen = nearest_samples(points, made)
    assert len(set(chosen.tolist())) == 5
    assert made.assignment[chosen].tolist() == list(range(5))
    distances = torch.cdist(points, made.points)
    for point in range(5):
        own = made.assignment == point
        assert distances[chosen[point], point] == distances[own, point].min()


def test_nearest_samples_take_from_neighbours_when_a_cell_is_too_small():
    points = torch.tensor([[0.0], [10.0], [11.0], [12.0]])
    masses, cells, copies = torch.tensor([0.25, 0.75]), torch.tensor([0, 1, 1, 1]), torch.tensor([2, 2])
    made = Allocation(torch.tensor([[0.0], [11.0]]), masses, cells, copies)
    chosen = nearest_samples(points, made).tolist()
    assert len(set(chosen)) == 4 and chosen[0] == 0
