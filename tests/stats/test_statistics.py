"""Intervals, null distributions and correlations at hand-computed values and by simulation."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from avss_utils.stats import resampling
from avss_utils.stats.block_profiles import autoregressive_p, rank_correlation
from avss_utils.stats.resampling import (
    Estimate,
    against_null,
    bootstrap,
    proportion,
    safe_ratio,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def mean(x: np.ndarray, **options) -> Estimate:
    return bootstrap(lambda a, axis: a.mean(axis), x, rng=rng(), **options)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> Estimate:
    """Of the means of the same rows, NaN over 0."""
    return bootstrap(
        lambda a, b, axis: safe_ratio(a.mean(axis), b.mean(axis)), numerator, denominator, rng=rng()
    )


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ([0.0, 1.0], (0.5, 0.0, 1.0, 2)),  # reaches the bounds of the data
        ([0.25] * 8, (0.25, 0.25, 0.25, 8)),
        ([3.0], (3.0, 3.0, 3.0, 1)),
    ],
)
def test_a_bootstrap_at_its_bounds(x, expected):
    e = mean(np.array(x))
    assert (e.value, e.low, e.high, e.n) == expected


def test_the_interval_of_a_mean_is_near_the_textbook_one():
    x = rng(1).normal(10, 2, size=400)
    half = 1.96 * x.std(ddof=1) / 20
    e = mean(x)
    assert e.low == pytest.approx(x.mean() - half, abs=0.03)
    assert e.high == pytest.approx(x.mean() + half, abs=0.03)


def test_bootstrap_in_chunks_covers_all_resamples():
    x = rng(4).normal(size=5000)
    seen = []

    def statistic(a, axis):
        seen.append(a.shape)
        return a.mean(axis)

    bootstrap(statistic, x, rng=rng(), n_resamples=1500)
    assert seen[0] == (5000,)
    assert [s[0] for s in seen[1:]] == [800, 700]


def test_bootstrap_interval_covers_the_truth_as_often_as_it_says():
    draw, covered = rng(6), 0
    for _ in range(200):
        e = mean(draw.exponential(size=80), n_resamples=400)
        covered += e.low <= 1.0 <= e.high
    assert 0.90 <= covered / 200 <= 0.99


def test_ratio_interval_covers_the_truth_as_often_as_it_says():
    draw, covered = rng(7), 0
    for _ in range(200):
        full = (draw.random(150) < 0.8).astype(float)
        ours = full * (draw.random(150) < 0.75)  # a truth of 0.75 x full
        e = bootstrap(
            lambda a, b, axis: a.mean(axis) / b.mean(axis), ours, full, rng=draw, n_resamples=300
        )
        covered += e.low <= 0.75 <= e.high
    assert 0.90 <= covered / 200 <= 0.99


@pytest.mark.parametrize("samples", [(np.array([]),), (np.ones(3), np.ones(4))])
def test_empty_or_unequal_samples_are_refused(samples):
    with pytest.raises(ValueError, match="one common length"):
        bootstrap(lambda *a, axis: a[0].mean(axis), *samples, rng=rng())


def test_pairing_removes_the_noise_that_two_samples_share():
    full = rng(8).lognormal(size=100)
    paired, unpaired = (ratio(0.9 * full, other) for other in (full, rng(9).permutation(full)))
    assert paired.value == pytest.approx(unpaired.value)
    assert paired.high - paired.low < 1e-12
    assert unpaired.high - unpaired.low > 0.1


def test_denominators_of_zero_widen_the_limits_to_infinity_where_they_are_frequent():
    none = ratio(np.ones(5), np.zeros(5))
    assert np.isnan(none.value)
    assert (none.low, none.high) == (-np.inf, np.inf)
    rare = np.array([1.0, *np.zeros(9)])  # no 1 drawn in 0.9^10 = 35 % of the resamples
    assert str(ratio(rare, rare)) == "1 [-inf, inf], n = 10"
    often = np.array([1.0] * 9 + [0.0])
    assert str(ratio(often, often)) == "1 [1, 1], n = 10"


def test_proportion_has_the_exact_limits():
    e = proportion(0, 20)
    assert (e.value, e.low, e.n) == (0.0, 0.0, 20)
    assert e.high == pytest.approx(1 - 0.025 ** (1 / 20))  # Clopper-Pearson in closed form
    assert proportion(20, 20).low == pytest.approx(0.025 ** (1 / 20))


def test_null_comparison_counts_ties_as_at_least_as_good():
    place = against_null(2.0, np.array([1.0, 2.0, 3.0, 0.0]))
    assert place.p_value == pytest.approx(3 / 5)
    assert (place.at_least_as_good.value, place.at_least_as_good.n) == (0.5, 4)
    assert place.quantile == pytest.approx((2 + 0.5) / 4)


def test_null_comparison_at_its_bounds():
    null = np.arange(99.0)
    best, worst = against_null(1000.0, null), against_null(-1.0, null)
    assert (best.p_value, best.quantile, best.at_least_as_good.value) == (0.01, 1.0, 0.0)
    assert (worst.p_value, worst.quantile, worst.at_least_as_good.value) == (1.0, 0.0, 1.0)


def test_null_p_value_is_not_too_small_under_the_null():
    draw = rng(15)
    p = np.array([against_null(x[0], x[1:]).p_value for x in draw.normal(size=(200, 40))])
    assert (p <= 0.05).mean() < 0.10
    assert 0.4 < p.mean() < 0.6


@pytest.mark.parametrize(("observed", "null"), [(np.nan, [0.0]), (0.0, [1.0, np.inf])])
def test_null_comparison_refuses_what_is_not_finite(observed, null):
    with pytest.raises(ValueError, match="finite"):
        against_null(observed, np.array(null))


def test_rank_correlation_of_a_hand_computed_case():
    found = rank_correlation(np.array([1.0, 2, 3, 4, 5]), np.array([2.0, 1, 4, 3, 5]))
    assert found.rho == pytest.approx(1 - 6 * 4 / (5 * 24))  # sum of squared rank differences is 4
    assert found.n == 5


def test_rank_correlation_at_its_bounds_and_with_the_smallest_p():
    x = rng(16).normal(size=30)
    same, opposite = rank_correlation(x, x), rank_correlation(x, -x)
    assert (same.rho, opposite.rho) == (pytest.approx(1), pytest.approx(-1))
    assert same.p_value == opposite.p_value == pytest.approx(1 / 30)


def test_rank_correlation_counts_a_shift_that_ties():
    x = np.tile([0.0, 1.0, 2.0], 4)  # every third shift is the profile itself
    assert rank_correlation(x, x).p_value == pytest.approx(4 / 12)


@pytest.mark.filterwarnings("ignore:An input array is constant")
@pytest.mark.parametrize("y", [np.ones(6), np.array([1, 2, 3, np.nan, 5, 6])])
def test_rank_correlation_refuses_a_profile_that_says_nothing(y):
    with pytest.raises(ValueError, match="vary and are finite"):
        rank_correlation(np.arange(6.0), y)


def autoregressive(draw: np.random.Generator, n: int = 30, phi: float = 0.9) -> np.ndarray:
    x = [draw.normal() / np.sqrt(1 - phi**2)]
    for _ in range(n - 1):
        x.append(phi * x[-1] + draw.normal())
    return np.array(x)


def test_circular_shifts_hold_their_level_on_smooth_profiles_where_the_naive_test_does_not():
    draw, ours, naive = rng(18), [], []
    for _ in range(120):
        x, y = autoregressive(draw), autoregressive(draw)
        ours.append(rank_correlation(x, y).p_value)
        naive.append(scipy_stats.spearmanr(x, y).pvalue)
    assert (np.array(naive) <= 0.05).mean() > 0.28
    assert (np.array(ours) <= 0.05).mean() < 0.12
    assert 0.35 < np.mean(ours) < 0.65


@pytest.mark.parametrize("phi", [0.0, 0.9])
def test_the_autoregressive_null_holds_its_level_rough_or_smooth(phi):
    draw, found = rng(19), []
    for _ in range(150):
        x, y = autoregressive(draw, phi=phi), autoregressive(draw, phi=phi)
        found.append(autoregressive_p(x, y, rng=draw, n_profiles=200))
    assert (np.array(found) <= 0.05).mean() < 0.12
    assert 0.4 < np.mean(found) < 0.6


def test_the_autoregressive_null_rejects_where_profiles_go_together():
    x = rng(20).normal(size=30)
    assert autoregressive_p(x, x**3, rng=rng(21), n_profiles=400) == pytest.approx(1 / 401)


def test_the_same_draws_are_kept_and_give_the_same_numbers_and_what_follows():
    n = resampling.FEW_ROWS + 1
    first, again = (np.random.default_rng(3) for _ in range(2))
    one, two = (resampling.resample_counts(n, 20, rng) for rng in (first, again))
    assert one is two
    assert first.random() == again.random()  # the generator has gone on alike
    fresh = np.random.default_rng(3).multinomial(n, [1 / n] * n, 20)
    assert (one[1:] == fresh).all()
    assert (one[0] == 1).all()
    with pytest.raises(ValueError, match="read-only"):
        one[0, 0] = 2
    assert resampling.resample_counts(n, 20, np.random.default_rng(4)) is not one


def test_the_mean_of_independent_estimates_is_as_wide_as_standard_errors_add():
    parts = [Estimate(1.0, 0.4, 1.8, 10), Estimate(3.0, 2.2, 3.6, 5)]
    found = resampling.mean_of_estimates(parts)
    assert found == Estimate(2.0, 2.0 - 0.5, 2.0 + 0.5, 15)  # sqrt(.6^2 + .8^2) / 2 both ways
