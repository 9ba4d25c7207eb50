"""Calibration errors by hand, their bounds and floors; planted temperatures."""

import numpy as np
import pytest
from scipy.stats import binomtest

from avss_utils.stats import paired
from avss_utils.stats.calibration import (
    calibration_floor,
    choice_confidence,
    debiased_calibration_error,
    expected_calibration_error,
    reliability_bins,
    temperature,
)
from avss_utils.stats.resampling import resample_counts


def test_by_hand():
    # bin (0.5, 1]: mean confidence 0.8, accuracy 0.5, three quarters of the answers after all
    confidence, correct = [0.9, 0.7, 0.8, 0.2], [1, 0, 0.5, 0]
    found = expected_calibration_error(confidence, correct, n_bins=2)
    assert found == pytest.approx((abs(1.5 - 2.4) + abs(0 - 0.2)) / 4)


@pytest.mark.parametrize(
    ("sure", "right", "error"), [(1, 1, 0), (1, 0, 1), (0, 1, 1), (0.5, 0, 0.5)]
)
def test_bounds(sure, right, error):
    for of in (expected_calibration_error, debiased_calibration_error):  # nothing to debias
        assert of([sure] * 3, [right] * 3, n_bins=10) == pytest.approx(error)


def test_an_edge_belongs_to_the_bin_below():
    # 0.5 with 0.4 in one bin of two: their errors cancel; 0.6 alone would not
    assert expected_calibration_error([0.5, 0.4], [0, 0.9], n_bins=2) == pytest.approx(0)
    assert expected_calibration_error([0.6, 0.4], [0, 1], n_bins=2) == pytest.approx(0.6)


@pytest.mark.parametrize(("equal_mass", "low"), [(False, 0.03), (True, 0.05)])
def test_the_floor_is_what_perfect_calibration_shows(equal_mass, low):
    rng, options = np.random.default_rng(1), dict(n_bins=15, equal_mass=equal_mass)
    confidence = rng.uniform(0.5, 1, 180)
    floor = calibration_floor(confidence, rng=rng, **options)
    drawn = [
        expected_calibration_error(confidence, rng.random(180) < confidence, **options)
        for _ in range(300)
    ]
    assert floor == pytest.approx(np.mean(drawn), abs=0.004)
    assert low < floor < 0.12
    large = calibration_floor(rng.uniform(0.5, 1, 20_000), n_draws=20, rng=rng, **options)
    assert large < floor / 5


@pytest.mark.parametrize(
    ("confidence", "correct", "n_bins", "message"),
    [
        ([1.1], [1], 5, "between 0 and 1"),
        ([], [], 5, "0 confidences"),
        ([0.5], [1, 0], 5, "2 answers"),
        ([0.5], [1], 0, "hold nothing"),
        ([0.5], [np.nan], 5, "right"),
        ([0.5], [2], 5, "right"),
    ],
)
def test_what_cannot_be_judged_is_refused(confidence, correct, n_bins, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(confidence, correct, n_bins=n_bins)


def test_bins_of_equal_mass_by_hand():
    # equal width: all in (0.5, 1], where they cancel; equal mass: two and two, each 0.3 off
    confidence, correct = [0.6, 0.8, 0.9, 0.9], [1, 1, 0, 1]
    assert expected_calibration_error(confidence, correct, n_bins=2) == pytest.approx(0.05)
    found = expected_calibration_error(confidence, correct, n_bins=2, equal_mass=True)
    assert found == pytest.approx((abs(2 - 1.4) + abs(1 - 1.8)) / 4)


@pytest.mark.parametrize("n_bins", [1, 2, 3, 7, 10, 15])
@pytest.mark.parametrize("n", [1, 9, 100, 101])
def test_equal_mass_is_equal_up_to_one_answer(n, n_bins):
    rng = np.random.default_rng(n)
    held = reliability_bins(rng.random(n), np.ones(n), n_bins=n_bins, equal_mass=True).n
    assert held.sum() == n
    assert len(held) == min(n, n_bins)
    assert held.max() - held.min() <= 1


def test_equal_confidences_share_a_bin_of_equal_mass():
    confidence = np.repeat([0.2, 0.5, 0.7, 1.0], [1, 6, 1, 2])
    table = reliability_bins(confidence, np.ones(10), n_bins=5, equal_mass=True)
    assert table.n.tolist() == [7, 1, 2]  # 0.2 and 0.5 hold three fifths of them
    assert table.high.tolist() == [0.5, 0.7, 1.0]


def test_equal_mass_asks_for_the_order_of_confidences_alone():
    rng = np.random.default_rng(2)
    confidence, correct = rng.random(97).round(2), rng.integers(0, 2, 97)
    options = dict(n_bins=8, equal_mass=True)
    table, other = (reliability_bins(c, correct, **options) for c in (confidence, confidence**9))
    assert (table.n == other.n).all()
    assert (table.accuracy == other.accuracy).all()
    assert not np.allclose(table.confidence, other.confidence)


def _answers(n: int, off: float, rng) -> tuple[np.ndarray, np.ndarray]:
    """Confidences and answers that are right less often than these say, by ``off``."""
    confidence = rng.uniform(off, 1, n)
    return confidence, (rng.random(n) < confidence - off).astype(float)


def test_the_debiased_error_is_the_mean_over_drawn_accuracies():
    rng = np.random.default_rng(4)
    confidence, correct = _answers(60, 0.1, rng)
    plain = expected_calibration_error(confidence, correct, n_bins=4)
    table = reliability_bins(confidence, correct, n_bins=4)
    spread = np.sqrt(table.accuracy * (1 - table.accuracy) / table.n)
    drawn = rng.normal(table.accuracy, spread, (100_000, len(table)))
    resampled = (np.abs(drawn - table.confidence.to_numpy()) * table.n.to_numpy()).sum(1) / 60
    found = debiased_calibration_error(confidence, correct, n_bins=4)
    assert found == pytest.approx(2 * plain - resampled.mean(), abs=5e-4)


@pytest.mark.parametrize("equal_mass", [False, True])
def test_what_debiasing_takes_off(equal_mass):
    rng = np.random.default_rng(5)
    options = dict(n_bins=15, equal_mass=equal_mass)

    def means(off: float) -> np.ndarray:
        found = []
        for _ in range(300):
            answers = _answers(180, off, rng)
            plain = expected_calibration_error(*answers, **options)
            found.append((plain, debiased_calibration_error(*answers, **options)))
        return np.mean(found, 0)

    plain, debiased = means(0.0)
    assert plain == pytest.approx(0.09, abs=0.01)
    # a mean of absolute values cannot be unbiased at 0: 2 - sqrt(2) of it stays in large bins
    assert debiased == pytest.approx((2 - np.sqrt(2)) * plain, rel=0.1)
    plain, debiased = means(0.15)
    assert plain > 0.16
    assert debiased == pytest.approx(0.15, abs=0.01)
    assert abs(debiased - 0.15) < abs(plain - 0.15)


def test_a_debiased_error_of_chance_alone_is_below_zero():
    # accuracy meets confidence exactly, which four answers rarely do
    found = debiased_calibration_error([0.5] * 4, [0, 1, 0, 1], n_bins=1)
    assert found == pytest.approx(-np.sqrt(2 / np.pi) / 4)


def test_reliability_bins_by_hand():
    confidence, correct = [0.1, 0.9, 0.7, 1.0, 0.0], [0, 1, 0, 1, 1]
    table = reliability_bins(confidence, correct, n_bins=4)
    assert table.bin.tolist() == [0, 2, 3]  # none in (0.25, 0.5]
    assert table.low.tolist() == [0, 0.5, 0.75]
    assert table.high.tolist() == [0.25, 0.75, 1]
    assert table.n.tolist() == [2, 1, 2]
    assert table.confidence.tolist() == pytest.approx([0.05, 0.7, 0.95])
    assert table.accuracy.tolist() == [0.5, 0, 1]
    wilson = [binomtest(k, n).proportion_ci(method="wilson") for k, n in [(1, 2), (0, 1), (2, 2)]]
    assert table.accuracy_low.tolist() == pytest.approx([w.low for w in wilson])
    assert table.accuracy_high.tolist() == pytest.approx([w.high for w in wilson])


@pytest.mark.parametrize("equal_mass", [False, True])
def test_reliability_bins_make_up_the_error(equal_mass):
    rng = np.random.default_rng(6)
    confidence, correct = rng.random(200).round(2), rng.choice([0, 0.5, 1], 200)
    options = dict(n_bins=9, equal_mass=equal_mass)
    table = reliability_bins(confidence, correct, **options)
    gap = (table.accuracy - table.confidence).abs()
    error = expected_calibration_error(confidence, correct, **options)
    assert (gap * table.n).sum() / 200 == pytest.approx(error)
    assert (table.low <= table.confidence).all()
    assert (table.confidence <= table.high).all()
    assert (table.accuracy_low < table.accuracy).all()
    assert (table.accuracy_high > table.accuracy).all()


def test_a_tie_widens_the_interval_to_whole_answers():
    table = reliability_bins([0.8] * 4, [1, 0.5, 0, 0], n_bins=2)
    one, two = (binomtest(k, 4).proportion_ci(method="wilson") for k in (1, 2))
    assert table.accuracy_low.tolist() == pytest.approx([one.low])
    assert table.accuracy_high.tolist() == pytest.approx([two.high])


def _asked(n: int, rng) -> tuple[list[np.ndarray], np.ndarray]:
    """Questions of two to five choices, each right as often as its score says."""
    scores = [rng.normal(0, 1.5, rng.integers(2, 6)) for _ in range(n)]
    label = [rng.choice(len(s), p=np.exp(s) / np.exp(s).sum()) for s in scores]
    return scores, np.array(label)


def test_confidence_in_a_choice_by_hand():
    scores = [np.log([1, 3]), np.log([4, 2, 2]) - 80, np.log([1, 1, 1, 1])]
    prediction, confidence = choice_confidence(scores)
    assert prediction.tolist() == [1, 0, 0]  # the earliest of equals
    assert confidence == pytest.approx([3 / 4, 1 / 2, 1 / 4])
    prediction, confidence = choice_confidence(scores, temperature=0.5)
    assert prediction.tolist() == [1, 0, 0]
    assert confidence == pytest.approx([9 / 10, 16 / 24, 1 / 4])


def test_temperature_goes_from_certainty_to_a_blind_guess():
    scores = [np.array([-1.0, -2.0]), np.array([-7.0, -6.0, -900.0])]
    assert choice_confidence(scores, temperature=1e-3)[1] == pytest.approx([1, 1])
    for hottest in (1e9, np.inf):
        assert choice_confidence(scores, temperature=hottest)[1] == pytest.approx([1 / 2, 1 / 3])


def test_a_planted_temperature_is_found_and_corrects_the_error():
    rng = np.random.default_rng(0)
    scores, label = _asked(4000, rng)
    loud = [3 * s for s in scores]
    found = temperature(loud[:2000], label[:2000])
    assert found == pytest.approx(3, rel=0.1)
    judged, right = loud[2000:], label[2000:]
    raw_choice, raw = choice_confidence(judged)
    choice, cooled = choice_confidence(judged, temperature=found)
    assert (choice == raw_choice).all()
    assert 0.4 < (choice == right).mean() < 0.9
    floor = calibration_floor(cooled, n_bins=15, rng=rng)
    assert expected_calibration_error(raw, raw_choice == right, n_bins=15) > 0.15
    assert expected_calibration_error(cooled, choice == right, n_bins=15) < 1.6 * floor


def test_temperature_is_where_the_likelihood_is_flat():
    # right in three of four, scores 2 apart: 1 / (1 + exp(-2 / T)) = 3 / 4
    scores = [np.array([-5.0, -3.0])] * 4
    assert temperature(scores, [1, 1, 0, 1]) == pytest.approx(2 / np.log(3), rel=1e-3)


@pytest.mark.parametrize(
    ("label", "end"), [([1] * 4, 0.1), ([0] * 4, np.inf), ([0, 1] * 2, np.inf)]
)
def test_temperature_is_infinite_where_the_scores_tell_nothing_and_bounded_below(label, end):
    scores = [np.array([-2.0, -1.0])] * 4
    assert temperature(scores, label, bounds=(0.1, 9.0)) == pytest.approx(end, rel=1e-2)


TWO = [[0.0, 1.0], [0.0, 1.0, 2.0]]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: choice_confidence([]), "choices"),
        (lambda: choice_confidence([[1.0], []]), "choices"),
        (lambda: choice_confidence([[1.0, np.nan]]), "finite"),
        (lambda: choice_confidence(TWO, temperature=0), "above 0"),
        (lambda: temperature(TWO, [0]), "one label each"),
        (lambda: temperature(TWO, [2, 2]), "one label each"),
        (lambda: temperature(TWO, [-1, 0]), "one label each"),
    ],
)
def test_scores_labels_and_temperatures_without_meaning_are_refused(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()


def test_the_debiased_error_as_a_statistic_is_that_of_the_rows_drawn():
    rng = np.random.default_rng(0)
    sure = rng.random(200)
    right = (rng.random(200) < sure**2).astype(float)
    weights = resample_counts(200, 5, rng)
    found = paired.debiased_error(15)(right, sure, weights.astype(float))
    for own, counts in zip(found, weights, strict=True):
        rows = np.repeat(np.arange(200), counts)
        expected = debiased_calibration_error(sure[rows], right[rows], n_bins=15)
        assert own == pytest.approx(expected, abs=1e-12)
