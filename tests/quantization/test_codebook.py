from __future__ import annotations

import pytest
import torch

from ddoq_plugin.errors import QuantizationError
from ddoq_plugin.quantization import effective_sample_size, shape_weights


def test_shapes_are_powers_of_the_masses_with_mean_one():
    masses = torch.tensor([1.0, 4.0, 16.0, 79.0])
    for weighting, alpha, exponent in (
        ("uniform", None, 0),
        ("counts", None, 1),
        ("sqrt", None, 0.5),
        ("power", 0.3, 0.3),
    ):
        weights = shape_weights(masses, weighting, alpha)
        expected = masses.double() ** exponent
        assert weights.dtype == torch.float64
        torch.testing.assert_close(weights, expected / expected.mean(), rtol=1e-12, atol=0)


def test_the_scale_of_the_masses_changes_nothing_even_far_out():
    masses = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    for scale in (1e-300, 1e300):
        torch.testing.assert_close(shape_weights(masses * scale, "counts"), shape_weights(masses, "counts"))


def test_a_mass_of_zero_keeps_weight_zero_unless_weights_are_uniform():
    masses = torch.tensor([0.0, 1.0])
    assert shape_weights(masses, "sqrt").tolist() == [0.0, 2.0]
    assert shape_weights(masses, "uniform").tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("weighting", "alpha", "says"),
    [
        ("root", None, "Unknown weighting 'root'"),
        ("power", None, "needs alpha"),
        ("sqrt", 0.5, "only it takes one"),
        ("power", -1.0, "0 or more"),
        ("power", float("nan"), "0 or more"),
    ],
)
def test_wrong_weightings_are_named(weighting, alpha, says):
    with pytest.raises(QuantizationError, match=says):
        shape_weights(torch.ones(3), weighting, alpha)


@pytest.mark.parametrize("bad", [[], [0.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_bad_masses_are_refused(bad):
    for function in (shape_weights, effective_sample_size):
        with pytest.raises(QuantizationError, match="finite, none negative"):
            function(torch.tensor(bad))


def test_effective_sample_size():
    assert effective_sample_size(torch.full((7,), 0.3)) == pytest.approx(7)
    assert effective_sample_size(torch.tensor([1.0, 0.0, 0.0])) == pytest.approx(1)
    assert effective_sample_size(torch.tensor([1.0, 3.0])) == pytest.approx(16 / 10)
