"""Intervals, null distributions and correlations at hand-computed values and by simulation."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from avss_utils.stats.block_profiles import autoregressive_p, rank_correlation
from avss_utils.stats.resampling import (
    Estimate,
    against_null,
    bootstrap,
    corrected_ratio,
    mean,
    proportion,
    ratio_of_means,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def width(e: Estimate) -> float:
    return e.high - e.low


def column_mean(x: np.ndarray, axis: int) -> np.ndarray:
    return x.mean(axis)


def test_mean_has_the_hand_computed_value_and_n():
    e = mean(np.array([1.0, 2.0, 6.0]), rng=rng())
    assert (e.value, e.n) == (3.0, 3)
    assert 1.0 <= e.low <= e.value <= e.high <= 6.0


def test_mean_interval_stays_within_the_data_and_reaches_its_bounds():
    e = mean(np.array([0.0, 1.0]), rng=rng())
    assert (e.low, e.value, e.high) == (0.0, 0.5, 1.0)


def test_mean_interval_is_near_the_textbook_one():
    x = rng(1).normal(10, 2, size=400)
    half = 1.96 * x.std(ddof=1) / 20
    e = mean(x, rng=rng())
    assert e.low == pytest.approx(x.mean() - half, abs=0.03)
    assert e.high == pytest.approx(x.mean() + half, abs=0.03)


def test_mean_moves_and_scales_with_the_data():
    x = rng(2).normal(size=50)
    plain, moved = mean(x, rng=rng()), mean(4 * x + 7, rng=rng())
    for field in ("value", "low", "high"):
        assert getattr(moved, field) == pytest.approx(4 * getattr(plain, field) + 7)


def test_constant_data_have_a_point_interval():
    e = mean(np.full(8, 0.25), rng=rng())
    assert (e.value, e.low, e.high) == (0.25, 0.25, 0.25)


def test_one_row_has_a_point_interval_and_says_n_1():
    e = mean(np.array([3.0]), rng=rng())
    assert (e.value, e.low, e.high, e.n) == (3.0, 3.0, 3.0, 1)


def test_bootstrap_is_decided_by_its_generator():
    x = rng(3).normal(size=30)
    assert mean(x, rng=rng(5)) == mean(x, rng=rng(5))
    assert mean(x, rng=rng(5)) != mean(x, rng=rng(6))


def test_bootstrap_in_chunks_covers_all_resamples():
    x = rng(4).normal(size=5000)
    seen = []

    def statistic(a, axis):
        seen.append(a.shape)
        return a.mean(axis)

    bootstrap(statistic, x, rng=rng(), n_resamples=1500)
    assert seen[0] == (5000,)
    assert [s[0] for s in seen[1:]] == [800, 700]


def test_a_higher_level_widens_the_interval():
    x = rng(5).normal(size=60)
    narrow, wide = (bootstrap(column_mean, x, rng=rng(), level=level) for level in (0.5, 0.99))
    assert width(narrow) < width(wide)


def test_bootstrap_interval_covers_the_truth_as_often_as_it_says():
    draw, covered = rng(6), 0
    for _ in range(200):
        e = bootstrap(column_mean, draw.exponential(size=80), rng=draw, n_resamples=400)
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


def test_ratio_of_means_has_the_hand_computed_value():
    e = ratio_of_means(np.array([1.0, 0, 0, 1]), np.array([1.0, 1, 1, 1]), rng=rng())
    assert (e.value, e.n) == (0.5, 4)
    assert (e.low, e.high) == (0.0, 1.0)


def test_pairing_removes_the_noise_that_two_samples_share():
    full = rng(8).lognormal(size=100)
    paired = ratio_of_means(0.9 * full, full, rng=rng())
    unpaired = ratio_of_means(0.9 * full, rng(9).permutation(full), rng=rng())
    assert paired.value == pytest.approx(unpaired.value)
    assert width(paired) < 1e-12
    assert width(unpaired) > 0.1


def test_ratio_does_not_depend_on_the_unit_or_on_the_order_of_rows():
    a, b = rng(10).random(40), 1 + rng(11).random(40)
    plain = ratio_of_means(a, b, rng=rng())
    scaled = ratio_of_means(1000 * a, 1000 * b, rng=rng())
    turned = ratio_of_means(a[::-1], b[::-1], rng=rng())
    assert scaled.value == pytest.approx(plain.value)
    assert scaled.low == pytest.approx(plain.low)
    assert turned.value == pytest.approx(plain.value)


def test_a_zero_denominator_gives_no_number_and_no_finite_limits():
    e = ratio_of_means(np.ones(5), np.zeros(5), rng=rng())
    assert np.isnan(e.value)
    assert (e.low, e.high) == (-np.inf, np.inf)


def test_a_denominator_that_is_often_zero_widens_the_limits_to_infinity():
    rare = np.array([1.0, *np.zeros(9)])  # no 1 drawn in 0.9^10 = 35 % of the resamples
    e = ratio_of_means(rare, rare, rng=rng())
    assert e.value == 1.0
    assert (e.low, e.high) == (-np.inf, np.inf)


def test_a_denominator_that_is_hardly_ever_zero_leaves_finite_limits():
    often = np.array([1.0] * 9 + [0.0])
    e = ratio_of_means(often, often, rng=rng())
    assert (e.low, e.value, e.high) == (1.0, 1.0, 1.0)


def test_corrected_ratio_has_the_hand_computed_value():
    ours, full = np.array([1.0] * 60 + [0.0] * 40), np.array([1.0] * 75 + [0.0] * 25)
    e = corrected_ratio(ours, full, np.full(100, 0.5), rng=rng())
    assert e.value == pytest.approx((0.60 - 0.5) / (0.75 - 0.5))


def test_corrected_ratio_is_1_for_the_same_and_0_for_guessing():
    full, chance = np.array([1.0] * 90 + [0.0] * 10), np.full(100, 0.25)
    same = corrected_ratio(full, full, chance, rng=rng())
    assert (same.low, same.value, same.high) == (1.0, 1.0, 1.0)
    guess = np.array([1.0] * 25 + [0.0] * 75)
    assert corrected_ratio(guess, full, chance, rng=rng()).value == 0.0


def test_corrected_ratio_without_chance_is_the_plain_ratio():
    ours, full = rng(12).random(50), 1 + rng(13).random(50)
    assert corrected_ratio(ours, full, np.zeros(50), rng=rng()) == ratio_of_means(
        ours, full, rng=rng()
    )


def test_corrected_ratio_on_a_task_at_chance_has_infinite_limits():
    at_chance = np.tile([1.0, 0.0], 50)
    e = corrected_ratio(at_chance, at_chance, np.full(100, 0.5), rng=rng())
    assert np.isnan(e.value)
    assert (e.low, e.high) == (-np.inf, np.inf)


def test_proportion_has_the_exact_limits():
    e = proportion(0, 20)
    assert (e.value, e.low, e.n) == (0.0, 0.0, 20)
    assert e.high == pytest.approx(1 - 0.025 ** (1 / 20))  # Clopper-Pearson in closed form
    assert proportion(20, 20).low == pytest.approx(0.025 ** (1 / 20))


def test_proportion_of_successes_mirrors_that_of_failures():
    e, mirrored = proportion(3, 17), proportion(14, 17)
    assert (1 - e.value, 1 - e.high, 1 - e.low) == pytest.approx(
        (mirrored.value, mirrored.low, mirrored.high)
    )


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


def test_null_comparison_ignores_order_and_monotone_transformation():
    null = rng(14).normal(size=50)
    assert against_null(0.3, null) == against_null(0.3, null[::-1])
    assert against_null(np.exp(0.3), np.exp(null)) == against_null(0.3, null)


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


def test_rank_correlation_ignores_monotone_transformation():
    x, y = rng(17).normal(size=(2, 20))
    assert rank_correlation(np.exp(x), y**3).rho == pytest.approx(rank_correlation(x, y).rho)


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


def test_an_estimate_prints_its_interval_and_n():
    assert str(Estimate(0.51234, 0.4, 0.6, 128)) == "0.512 [0.4, 0.6], n = 128"
