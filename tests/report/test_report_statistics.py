"""Paired tests, Holm's correction and detectable differences against figures worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddoq_plugin.report import detectable_difference, holm, paired_t_test


def test_paired_test_by_hand():
    # differences 1, 2, 3: mean 2, std 1, t = 2 sqrt(3); with two degrees of freedom p = 1 - t / sqrt(2 + t^2)
    found = paired_t_test([2, 4, 6], [1, 2, 3])
    assert (found.n, found.mean, found.std) == (3, 2.0, 1.0)
    assert found.p == pytest.approx(1 - math.sqrt(12) / math.sqrt(14))
    assert paired_t_test([1, 2, 3], [2, 4, 6]).p == pytest.approx(found.p)


def test_without_variance_or_pairs_there_is_no_test():
    same = paired_t_test([80.1, 80.3], [80.0, 80.2])
    assert same.no_variance and math.isnan(same.p) and same.mean == pytest.approx(0.1)
    one = paired_t_test([1.0], [0.0])
    assert (one.n, one.mean, one.no_variance) == (1, 1.0, False) and math.isnan(one.std)
    assert paired_t_test([], []).n == 0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_passes_over_what_was_not_tested():
    adjusted = holm([0.01, math.nan, 0.02])
    assert adjusted[0] == pytest.approx(0.02) and math.isnan(adjusted[1]) and adjusted[2] == pytest.approx(0.02)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_no_correction_and_bonferroni_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q + 1e-12 and q <= min(1.0, p * len(p_values)) + 1e-12
    order = np.argsort(p_values, kind="stable")
    assert all(np.diff(np.array(adjusted)[order]) >= 0)


@pytest.mark.parametrize(("n", "expected"), [(3, 3.264), (5, 1.682), (10, 0.996), (34, 0.495)])
def test_detectable_difference_agrees_with_published_power_tables(n, expected):
    # effect sizes d_z of a two-sided paired t test, alpha 0.05, power 0.8 (Cohen 1988; G*Power)
    assert detectable_difference(n) == pytest.approx(expected, abs=2e-3)


def test_detectable_difference_scales_with_spread_and_grows_with_strictness():
    assert detectable_difference(5, 0.4) == pytest.approx(0.4 * detectable_difference(5))
    assert detectable_difference(3, alpha=0.05 / 100) > 5 * detectable_difference(3)
    assert detectable_difference(2) < math.inf
    assert detectable_difference(1) == math.inf


def test_detectable_difference_is_found_four_times_in_five():
    rng = np.random.default_rng(0)
    draws = rng.normal(detectable_difference(4), 1.0, (4000, 4))
    t = draws.mean(1) / (draws.std(1, ddof=1) / 2)
    assert (np.abs(t) > 3.182446).mean() == pytest.approx(0.8, abs=0.025)  # the critical t of 3 degrees of freedom
