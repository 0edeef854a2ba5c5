"""Paired tests over seeds, Holm's correction, and the smallest difference a number of seeds can detect."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NO_VARIANCE = 1e-9  # standard deviations of accuracies (percent) below this are rounding


@dataclass(frozen=True)
class PairedTest:
    """Differences a - b over pairs: how many, their mean, sample standard deviation, and the two-sided p of a t test.

    ``std`` is NaN for fewer than two pairs; ``p`` is NaN then and where the differences do not vary (there is no test).
    """

    n: int
    mean: float
    std: float
    p: float

    @property
    def no_variance(self) -> bool:
        """Whether there are pairs to compare but all differences are the same."""
        return self.n >= 2 and self.std < NO_VARIANCE


def paired_t_test(a: Sequence[float], b: Sequence[float]) -> PairedTest:
    """Test whether paired values differ: t = mean(d) / (std(d) / sqrt(n)) with d = a - b, n - 1 degrees of freedom."""
    from scipy import stats

    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    n = len(differences)
    mean = float(differences.mean()) if n else math.nan
    std = float(differences.std(ddof=1)) if n > 1 else math.nan
    if n < 2 or std < NO_VARIANCE:
        return PairedTest(n, mean, std, math.nan)
    return PairedTest(n, mean, std, float(2 * stats.t.sf(abs(mean) / (std / math.sqrt(n)), n - 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted by Holm (1979): the i-th smallest of m times (m - i + 1), made monotone, at most 1.

    NaN (no test) stays NaN and does not count."""
    adjusted = [math.nan] * len(p_values)
    tested = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    largest = 0.0
    for rank, (p, place) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(tested) - rank)))
        adjusted[place] = largest
    return adjusted


def detectable_difference(n: int, std: float = 1.0, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the smallest true mean difference that a two-sided paired t test finds with probability ``power``.

    Solves P(|T| > t_crit) = power for the noncentrality delta, T noncentral t with n - 1 degrees of freedom; the
    difference is delta * std / sqrt(n). ``n`` counts pairs (seeds), ``std`` is of the paired differences and gives the
    result its unit, ``alpha`` is the level of the test. Infinity for fewer than two pairs."""
    from scipy import stats
    from scipy.optimize import brentq

    if n < 2:
        return math.inf
    critical = stats.t.isf(alpha / 2, n - 1)
    # The noncentral t by its definition, (Z + delta) / sqrt(V / df), averaged over quantiles of V: scipy's own
    # distribution function returns NaN for the large delta that two seeds or a corrected level need.
    quantiles = (np.arange(4000) + 0.5) / 4000
    scaled = critical * np.sqrt(stats.chi2.ppf(quantiles, n - 1) / (n - 1))

    def missing_power(delta: float) -> float:
        return float((stats.norm.sf(scaled - delta) + stats.norm.cdf(-scaled - delta)).mean()) - power

    upper = 1.0
    while missing_power(upper) < 0:
        upper *= 2
    return brentq(missing_power, 0.0, upper, xtol=1e-6) * std / math.sqrt(n)
