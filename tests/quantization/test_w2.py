from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from ddoq_plugin.errors import QuantizationError
from ddoq_plugin.quantization import w2_squared


def normal(count, dimensions, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, dimensions)))


def test_against_an_assignment_on_replicated_columns():
    points, codes = normal(60, 100), normal(6, 100, seed=1)
    masses = torch.tensor([1.0, 2, 3, 1, 2, 1])
    reach = torch.cdist(points, codes).square().numpy()
    columns = np.repeat(np.arange(6), masses.numpy().astype(int) * 6)
    rows, picked = linear_sum_assignment(reach[:, columns])
    expected = reach[rows, columns[picked]].mean()
    assert w2_squared(points.float(), codes.float(), masses) == pytest.approx(expected, rel=1e-5)


def test_weights_of_the_samples():
    points, codes = normal(30, 3), normal(4, 3, seed=1)
    weights, masses = torch.rand(30, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.2, 0.3, 0.4])
    source = (weights.double() / weights.double().sum()).numpy()
    expected = ot.emd2(source, masses.double().numpy(), torch.cdist(points, codes).square().numpy())
    assert w2_squared(points, codes, masses, weights) == pytest.approx(expected, rel=1e-6)
    nearest = torch.cdist(points, codes).amin(dim=1).square()
    assert w2_squared(points, codes, weights=weights) == pytest.approx(float((nearest * source).sum()), rel=1e-9)


def test_one_centroid_and_itself():
    points = normal(50, 200)
    spread = float(points.var(dim=0, correction=0).sum())
    for masses in (None, torch.ones(1)):
        assert w2_squared(points, points.mean(dim=0, keepdim=True), masses) == pytest.approx(spread, rel=1e-6)
    assert w2_squared(points, points, torch.ones(50)) == pytest.approx(0, abs=1e-9)


def test_a_centroid_of_mass_zero_takes_part_in_nothing():
    points = normal(20, 5)
    codes = torch.cat([normal(3, 5, seed=1), points[:1]])
    masses = torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert w2_squared(points, codes, masses) == pytest.approx(w2_squared(points, codes[:3], torch.ones(3)), rel=1e-9)


def test_far_from_the_origin_and_in_half_precision():
    points, codes = normal(40, 300).float(), normal(5, 300, seed=1).float()
    plain = w2_squared(points, codes)
    assert w2_squared(points + 1000, codes + 1000) == pytest.approx(plain, rel=1e-4)
    assert w2_squared(points.half().reshape(40, 3, 10, 10), codes.half().reshape(5, 3, 10, 10)) == pytest.approx(
        plain, rel=1e-3
    )


def test_what_does_not_fit_is_named():
    points = normal(10, 3)
    with pytest.raises(QuantizationError, match="The centroids have 4 dimensions, the latents 3"):
        w2_squared(points, normal(2, 4))
    with pytest.raises(QuantizationError, match="3 weights were given for the 2 samples of class 'the centroids'"):
        w2_squared(points, points[:2], torch.ones(3))
    with pytest.raises(QuantizationError, match="none negative"):
        w2_squared(points, points[:2], torch.tensor([1.0, -1.0]))
