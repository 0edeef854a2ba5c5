from __future__ import annotations

import numpy as np
import pytest
import torch

from ddoq_plugin.errors import QuantizationError
from ddoq_plugin.quantization import quantize, w2_squared

METHODS = ("gram", "lloyd", "minibatch")


def normal(count, dimensions, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, dimensions)))


@pytest.mark.parametrize("method", METHODS)
def test_one_cluster_is_the_mean(method):
    points = normal(50, 20)
    book = quantize(points, 1, method=method)
    torch.testing.assert_close(book.centroids[0], points.mean(dim=0).float())
    assert book.masses.tolist() == [1.0]
    assert book.distortion == pytest.approx(float(points.var(dim=0, correction=0).sum()), rel=1e-6)


@pytest.mark.parametrize(("method", "masses"), [("gram", "voronoi"), ("gram", "balanced"), ("lloyd", "voronoi")])
def test_as_many_clusters_as_samples(method, masses):
    points = normal(30, 5)
    book = quantize(points, 30, method=method, masses=masses)
    assert book.distortion == pytest.approx(0, abs=1e-10)
    torch.testing.assert_close(book.masses, torch.full((30,), 1 / 30, dtype=torch.float64))
    assert sorted(book.nearest.tolist()) == list(range(30))


@pytest.mark.parametrize("method", METHODS)
def test_more_clusters_than_samples_is_an_error_that_names_the_class(method):
    with pytest.raises(QuantizationError, match="11 clusters .* class 'tench' has only 10 samples"):
        quantize(normal(10, 3), 11, method=method, name="tench")


def test_weightless_samples_do_not_count_as_samples():
    weights = torch.ones(10)
    weights[:4] = 0
    with pytest.raises(QuantizationError, match="only 6 samples of positive weight"):
        quantize(normal(10, 3), 7, weights=weights)
    for method in ("gram", "lloyd"):
        book = quantize(normal(10, 3), 6, weights=weights, method=method)
        assert book.distortion == pytest.approx(0, abs=1e-10)
        assert sorted(book.nearest.tolist()) == [4, 5, 6, 7, 8, 9]
        assert book.masses.tolist() == pytest.approx([1 / 6] * 6)


@pytest.mark.parametrize("method", METHODS)
def test_constant_data_fills_every_cell(method):
    book = quantize(torch.full((40, 100), 3.25), 7, method=method)
    assert (book.centroids == 3.25).all()
    assert book.distortion == 0
    assert book.masses.min() > 0
    assert float(book.masses.sum()) == pytest.approx(1)
    assert len(set(book.nearest.tolist())) == 7


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("clusters", [3, 5])
def test_fewer_distinct_points_than_clusters(method, clusters):
    points = normal(4, 80).repeat(10, 1)
    book = quantize(points, clusters, method=method)
    assert book.masses.min() > 0
    if clusters > 4:
        assert book.distortion == pytest.approx(0, abs=1e-9)
    own = book.centroids.double()[book.assignment]
    assert float(((points - own) ** 2).sum(dim=1).mean()) == pytest.approx(book.distortion, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_are_named(method, bad):
    points = normal(50, 70).float()
    points[17, 3] = bad
    with pytest.raises(QuantizationError, match="Sample 17 of class 'church' holds NaN or infinity"):
        quantize(points, 5, method=method, name="church")


def test_nan_in_balanced_and_w2():
    points = normal(50, 70)
    points[17, 3] = float("nan")
    with pytest.raises(QuantizationError, match="Sample 17"):
        quantize(points, 5, masses="balanced")
    with pytest.raises(QuantizationError, match="Sample 17"):
        w2_squared(points, points[:3])
    with pytest.raises(QuantizationError, match="Sample 1 of class 'the centroids'"):
        w2_squared(points[20:], torch.stack([points[0], points[17]]), torch.ones(2))


@pytest.mark.parametrize("method", METHODS)
def test_layout_and_type_change_nothing_but_rounding(method):
    points = normal(60, 2 * 4 * 4).reshape(60, 2, 4, 4).float()
    whole = quantize(points, 6, method=method)
    strided = points.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not strided.is_contiguous()
    assert torch.equal(quantize(strided, 6, method=method).centroids, whole.centroids)
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float16, 1e-2), (torch.bfloat16, 5e-2)):
        rounded = points.to(dtype)
        book = quantize(rounded, 6, method=method)
        assert book.centroids.dtype == torch.float32
        assert book.distortion == pytest.approx(whole.distortion, rel=tolerance)
        # half-precision input is computed in full precision
        exact = quantize(rounded.float(), 6, method=method)
        assert book.distortion == pytest.approx(exact.distortion, rel=1e-6)


def test_integers_are_taken():
    points = torch.randint(0, 255, (40, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert quantize(points, 4).distortion == quantize(points.float(), 4).distortion


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_squares_beyond_float32(scale):
    points = normal(40, 100)
    plain = quantize(points.float(), 5)
    scaled = quantize((points * scale).float(), 5)
    assert torch.equal(scaled.assignment, plain.assignment)
    assert scaled.distortion == pytest.approx(plain.distortion * scale**2, rel=1e-5)


@pytest.mark.parametrize(("method", "scale"), [("gram", 1e200), ("lloyd", 1e25), ("minibatch", 1e25)])
def test_squares_beyond_the_range_are_an_error(method, scale):
    with pytest.raises(QuantizationError, match="too large to square"):
        quantize(normal(4000, 100) * scale, 5, method=method)


def test_a_million_points_in_one_and_two_dimensions():
    random = np.random.default_rng(0)
    line = quantize(torch.from_numpy(random.random((1_000_000, 1), dtype=np.float32)), 10, max_iterations=8)
    assert line.distortion == pytest.approx(1 / 1200, rel=2e-2)
    plane = quantize(torch.from_numpy(random.random((1_000_000, 2), dtype=np.float32)), 6, max_iterations=8)
    assert len(plane.assignment) == 1_000_000
    # hexagonal cells bound the distortion of K points on the unit square from below: 5 / (18 sqrt 3 K) (Fejes Toth)
    assert 5 / (18 * 3**0.5 * 6) <= plane.distortion <= 1.2 * 5 / (18 * 3**0.5 * 6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "elkan"}, "Unknown quantisation method 'elkan'"),
        ({"masses": "equal"}, "Unknown masses 'equal'"),
        ({"masses": "balanced", "method": "lloyd"}, "Gram domain"),
        ({"restarts": 0}, "restarts must be 1 or more"),
        ({"max_iterations": 0}, "max_iterations must be 1 or more"),
        ({"batch_size": 10}, "belongs to the methods 'minibatch' and 'd4m'"),
        ({"method": "minibatch", "weights": torch.ones(20)}, "takes no sample weights"),
        ({"method": "minibatch", "batch_size": 2}, "cannot start 3 clusters"),
        ({"weights": torch.ones(19)}, "19 weights were given for the 20 samples"),
        ({"weights": -torch.ones(20)}, "none negative"),
        ({"weights": torch.zeros(20)}, "not all zero"),
    ],
)
def test_wrong_options_are_named(options, says):
    with pytest.raises(QuantizationError, match=says):
        quantize(normal(20, 3), 3, **options)


def test_no_samples_and_no_clusters():
    with pytest.raises(QuantizationError, match="no latents of class 'x'"):
        quantize(torch.zeros(0, 3), 1, name="x")
    with pytest.raises(QuantizationError, match="1 or more, not 0"):
        quantize(normal(5, 3), 0)
    with pytest.raises(QuantizationError, match="complex"):
        quantize(torch.zeros(5, 3, dtype=torch.complex64), 1)
