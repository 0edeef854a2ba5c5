from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantization_reference import best_single_move, cost, distances

from ddoq_plugin.errors import QuantizationError
from ddoq_plugin.quantization import int8_gram, quantize, quantize_many, w2_squared
from ddoq_plugin.quantization.gram import gram_matrix
from ddoq_plugin.quantization.int8_gram import rounded_gram
from ddoq_plugin.quantization.matmul import affine

needs_byte_products = pytest.mark.skipif(not int8_gram.multiplies_bytes(), reason="needs a processor with AVX-512 VNNI")


@pytest.fixture
def everywhere(monkeypatch):
    """Small classes are rounded too."""
    monkeypatch.setattr(int8_gram, "_LEAST_SAMPLES", 0)
    monkeypatch.setattr(int8_gram, "_LEAST_DIMENSIONS", 0)


def heaps(count, dimensions, seed=0, spread=1.0):
    random = np.random.default_rng(seed)
    centres = spread * random.standard_normal((12, dimensions))
    points = random.standard_normal((count, dimensions)) + centres[random.integers(0, 12, count)]
    return (points * np.arange(1, dimensions + 1) ** -0.3).astype(np.float32)


def whole_numbers(points, centre, width):
    """The rounded samples as int64, block by block, and the step of each column."""
    moved = points - centre
    numbers, steps = np.empty(points.shape, np.int64), np.empty(points.shape[1])
    for start in range(0, points.shape[1], width):
        part = moved[:, start : start + width]
        largest = float(np.abs(part).max())
        numbers[:, start : start + width] = np.floor(part * np.float32(8127 / largest) + np.float32(0.5))
        steps[start : start + width] = largest / 8127
    return numbers, steps


@needs_byte_products
def test_products_are_those_of_the_rounded_samples_exactly():
    points = torch.from_numpy(heaps(300, 2500))
    centre = points.mean(dim=0)
    matrix, norms, moved = rounded_gram(points, centre)
    numbers, steps = whole_numbers(points.numpy(), centre.numpy(), int8_gram._COLUMNS)
    assert np.abs(numbers).max() == 8127
    expected = sum(
        steps[part][0] ** 2 * (numbers[:, part] @ numbers[:, part].T) for part in (slice(0, 2048), slice(2048, 2500))
    )
    np.testing.assert_allclose(matrix, expected, rtol=1e-13, atol=1e-13 * matrix.max())
    assert np.array_equal(matrix, matrix.T)
    exact = points.double().numpy() - centre.double().numpy()
    np.testing.assert_allclose(norms, (exact**2).sum(axis=1), rtol=1e-6)
    # no sample is moved by more than r, and the bound is not idle
    furthest = ((numbers * steps - exact) ** 2).sum(axis=1).max()
    assert 0.2 * moved < furthest <= moved * 1.01


@needs_byte_products
@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(2, 60), st.sampled_from([1e-12, 1.0, 1e12]), st.sampled_from([0.0, 1.0, 30.0])
)
def test_distances_change_by_no_more_than_rounding_moves_samples(seed, count, scale, offset):
    random = np.random.default_rng(seed)
    points = scale * (random.standard_normal((count, 150)) ** 3 + offset).astype(np.float32)
    points = torch.from_numpy(points)
    centre = points.mean(dim=0)
    matrix, _, moved = rounded_gram(points, centre)
    reach = matrix.diagonal()[:, None] + matrix.diagonal() - 2 * matrix
    exact = distances(points.numpy(), points.numpy())
    gap = np.abs(np.sqrt(reach.clip(0)) - np.sqrt(exact))
    assert gap.max() <= 2 * np.sqrt(moved) * 1.01 + 1e-6 * np.sqrt(exact.max())


@needs_byte_products
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("clusters", [1, 3, 20, 150])
def test_a_codebook_is_stationary_for_the_samples_as_they_are(clusters, weighted):
    points = heaps(450, 600, seed=clusters)
    weights = np.random.default_rng(1).random(450) + 0.1 if weighted else np.ones(450)
    gram = gram_matrix(torch.from_numpy(points), None, None)
    assert gram.norms is not None  # the byte products are taken
    book = quantize(torch.from_numpy(points), clusters, weights=torch.from_numpy(weights))
    reach = distances(points, book.centroids.numpy())
    own = reach[np.arange(450), book.assignment.numpy()]
    assert np.array_equal(reach.argmin(axis=1), book.assignment.numpy())
    assert book.distortion == pytest.approx(np.average(own, weights=weights), rel=1e-6)
    cells = [book.assignment.numpy() == k for k in range(clusters)]
    means = [np.average(points[cell], axis=0, weights=weights[cell]) for cell in cells]
    np.testing.assert_allclose(book.centroids.numpy(), np.stack(means), atol=1e-5)


@needs_byte_products
def test_no_single_move_improves(everywhere):
    for seed in range(4):
        points = heaps(40, 100, seed).astype(np.float64)
        labels = quantize(torch.from_numpy(points).float(), 5, seed=seed).assignment.numpy()
        found = cost(points, np.ones(40), labels)
        assert best_single_move(points, np.ones(40), labels, 5) >= found * (1 - 1e-5)


@needs_byte_products
def test_against_the_float32_product(monkeypatch):
    points = torch.from_numpy(heaps(500, 1000, spread=0.5))
    keys = ([2, 12, 60, 200], [0, 1])
    books = quantize_many(points, *keys)
    apart = quantize_many(torch.from_numpy(heaps(500, 1000, spread=3)), [12], [0])[12, 0]
    monkeypatch.setattr(int8_gram, "multiplies_bytes", lambda: False)
    assert gram_matrix(points, None, None).norms is None
    for key, book in quantize_many(points, *keys).items():
        assert books[key].distortion == pytest.approx(book.distortion, rel=5e-3)  # another local minimum at most
    same = quantize_many(torch.from_numpy(heaps(500, 1000, spread=3)), [12], [0])[12, 0]
    assert torch.equal(same.assignment, apart.assignment)
    assert same.distortion == pytest.approx(apart.distortion, rel=1e-6)


@needs_byte_products
def test_where_rounding_would_show_a_finer_product_is_taken():
    random = np.random.default_rng(2)
    centres = random.standard_normal((225, 600)) * 10
    pairs = torch.from_numpy(np.concatenate([centres - 5e-5, centres + 5e-5]))
    book = quantize(pairs, 225)
    assert book.distortion == pytest.approx(600 * 25e-10, rel=1e-4)
    assert torch.equal(book.assignment[:225], book.assignment[225:])
    # one value far out makes the steps of its columns wide; float32 does not mind
    points = torch.from_numpy(heaps(450, 600))
    points[7, 11] = 2e4
    weights = torch.ones(450, dtype=torch.float64)
    weights[7] = 0
    coarse, fine = (gram_matrix(points, weights, None, precision) for precision in ("rounded", "single"))
    assert coarse.finer == "single" and fine.finer == "double"
    book = quantize(points, 12, weights=weights)
    exact = distances(points.numpy(), book.centroids.numpy())[np.arange(450), book.assignment.numpy()]
    assert book.distortion == pytest.approx(np.average(exact, weights=weights.numpy()), rel=1e-4)


@needs_byte_products
def test_a_sweep_gives_what_single_calls_give_where_one_of_them_needs_a_finer_product():
    half = torch.from_numpy(heaps(225, 600))
    points = torch.cat([half, half + 1e-4])
    sweep = quantize_many(points, [225, 10], [0])
    assert sweep[225, 0].distortion == pytest.approx(600 * 0.25e-8, rel=1e-2)
    for clusters in (225, 10):
        alone = quantize(points, clusters)
        assert torch.equal(sweep[clusters, 0].centroids, alone.centroids)
        assert sweep[clusters, 0].distortion == alone.distortion


@needs_byte_products
def test_half_precision_any_layout_and_the_same_bits():
    points = torch.from_numpy(heaps(420, 640)).half()
    book = quantize(points, 15)
    for same in (points.float(), points.T.contiguous().T, points.double().float().view(420, 10, 8, 8)):
        again = quantize(same, 15)
        assert torch.equal(again.assignment, book.assignment)
        assert again.distortion == pytest.approx(book.distortion, rel=1e-6)
    again = quantize(points, 15)
    assert torch.equal(again.centroids, book.centroids) and again.distortion == book.distortion


@needs_byte_products
def test_hard_cases():
    points = torch.from_numpy(heaps(420, 640))
    constant = quantize(torch.full((420, 640), 3.25), 7)
    assert constant.distortion == 0 and constant.masses.min() > 0
    for scale in (1e-25, 1e25):
        book = quantize(points.double() * scale, 9)
        assert book.distortion == pytest.approx(quantize(points, 9).distortion * scale**2, rel=1e-2)
    for bad in (float("nan"), float("inf")):
        spoilt = points.clone()
        spoilt[17, 3] = bad
        with pytest.raises(QuantizationError, match="Sample 17 of class 'church' holds NaN or infinity"):
            quantize(spoilt, 5, name="church")
    repeated = points[:60].repeat(7, 1)
    book = quantize(repeated, 30)
    assert torch.equal(book.assignment.view(7, 60), book.assignment[:60].expand(7, 60))


@needs_byte_products
@pytest.mark.parametrize("weighted", [False, True])
def test_the_distortion_of_a_balanced_codebook_is_exact_w2(weighted):
    points = torch.from_numpy(heaps(430, 600))
    weights = torch.rand(430, generator=torch.Generator().manual_seed(0)) + 0.1 if weighted else None
    for limit in (1, 300):
        book = quantize(points, 13, masses="balanced", weights=weights, max_iterations=limit)
        exact = w2_squared(points.double(), book.centroids, torch.ones(13), weights)
        assert book.distortion == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("codes", [1, 7])
def test_affine_products(codes, dtype):
    generator = torch.Generator().manual_seed(0)
    rows, slopes = (torch.randn(count, 300, generator=generator).to(dtype) for count in (50, codes))
    offsets = torch.randn(codes, generator=generator).to(dtype)
    expected = (rows.double() @ slopes.double().T + offsets.double()).to(dtype)
    for samples in (rows, rows[::2], rows.T.contiguous().T):
        found = affine(samples, slopes, offsets)
        torch.testing.assert_close(found, expected[:: 50 // len(samples)], atol=1e-4, rtol=1e-5)


def test_processors_without_byte_products_are_not_asked_for_them(monkeypatch):
    monkeypatch.setattr(int8_gram, "multiplies_bytes", lambda: False)
    monkeypatch.setattr(torch, "_int_mm", None)
    assert quantize(torch.from_numpy(heaps(450, 600)), 5).clusters == 5
