"""Calibration error by hand, its bounds, and its floor."""

import numpy as np
import pytest

from avss_utils.confidence import calibration_floor, expected_calibration_error


def test_by_hand():
    # bin (0.5, 1]: mean confidence 0.8, accuracy 0.5, three quarters of the answers after all
    confidence, correct = [0.9, 0.7, 0.8, 0.2], [1, 0, 0.5, 0]
    found = expected_calibration_error(confidence, correct, n_bins=2)
    assert found == pytest.approx((abs(1.5 - 2.4) + abs(0 - 0.2)) / 4)


@pytest.mark.parametrize(
    ("sure", "right", "error"), [(1, 1, 0), (1, 0, 1), (0, 1, 1), (0.5, 0, 0.5)]
)
def test_bounds(sure, right, error):
    found = expected_calibration_error([sure] * 3, [right] * 3, n_bins=10)
    assert found == pytest.approx(error)


def test_an_edge_belongs_to_the_bin_below():
    # 0.5 with 0.4 in one bin of two: their errors cancel; 0.6 alone would not
    assert expected_calibration_error([0.5, 0.4], [0, 0.9], n_bins=2) == pytest.approx(0)
    assert expected_calibration_error([0.6, 0.4], [0, 1], n_bins=2) == pytest.approx(0.6)


def test_the_order_of_answers_does_not_matter():
    rng = np.random.default_rng(0)
    confidence, correct = rng.random(50), rng.integers(0, 2, 50)
    order = rng.permutation(50)
    one = expected_calibration_error(confidence, correct, n_bins=10)
    assert expected_calibration_error(confidence[order], correct[order], n_bins=10) == one


def test_the_floor_is_what_perfect_calibration_shows():
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.5, 1, 180)
    floor = calibration_floor(confidence, n_bins=15, rng=rng)
    drawn = [
        expected_calibration_error(confidence, rng.random(180) < confidence, n_bins=15)
        for _ in range(200)
    ]
    assert floor == pytest.approx(np.mean(drawn), abs=0.01)
    assert 0.03 < floor < 0.12
    large = calibration_floor(rng.uniform(0.5, 1, 20_000), n_bins=15, n_draws=20, rng=rng)
    assert large < floor / 5


@pytest.mark.parametrize(
    ("confidence", "correct", "n_bins", "message"),
    [
        ([1.1], [1], 5, "between 0 and 1"),
        ([], [], 5, "0 confidences"),
        ([0.5], [1, 0], 5, "2 answers"),
        ([0.5], [1], 0, "hold nothing"),
    ],
)
def test_what_cannot_be_judged_is_refused(confidence, correct, n_bins, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(confidence, correct, n_bins=n_bins)
