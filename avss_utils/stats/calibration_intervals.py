"""A calibration error with its interval."""

import numpy as np

from avss_utils.stats.binning import bin_numbers, binned_errors, checked
from avss_utils.stats.resampling import Estimate, moved_onto


def calibration_estimate(
    confidence: np.ndarray,
    correct: np.ndarray,
    *,
    n_bins: int,
    equal_mass: bool = False,
    rng: np.random.Generator,
    n_resamples: int = 300,
) -> Estimate:
    """``expected_calibration_error`` with its 95 % bootstrap interval over questions.

    Resampling adds to an error as sampling did, so the draws are moved back onto the value. It is
    the interval of the error at this n, floor included (``calibration_floor``), and can reach below
    0. Bins stay those of all answers. Arguments and errors as for the error itself.
    """
    confidence, correct = checked(confidence, correct, n_bins)
    gap, bins, n = correct - confidence, bin_numbers(confidence, n_bins, equal_mass), len(correct)
    value = float(binned_errors(gap[None], bins, n_bins)[0])
    rows = rng.integers(0, n, (n_resamples, n))
    draws = binned_errors(gap[rows], bins[rows], n_bins)
    low, high = np.quantile(moved_onto(value, draws), [0.025, 0.975])
    return Estimate(value, float(low), float(high), n)
