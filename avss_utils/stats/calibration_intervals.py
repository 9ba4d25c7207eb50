"""Calibration errors with their intervals, of one run and of two on the same questions."""

from collections.abc import Sequence

import numpy as np

from avss_utils.stats.binning import bin_numbers, binned_errors, checked
from avss_utils.stats.resampling import N_RESAMPLES, Estimate, limits, moved_onto, safe_ratio


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
    answers = _binned(confidence, correct, n_bins, equal_mass)
    (value,), (draws,) = _resampled([answers], n_bins, n_resamples, rng)
    low, high = np.quantile(draws, [0.025, 0.975]) - (np.mean(draws) - value)
    return Estimate(float(value), float(low), float(high), len(answers[0]))


def paired_calibration_change(
    before: np.ndarray,
    after: np.ndarray,
    correct_before: np.ndarray,
    correct_after: np.ndarray,
    *,
    n_bins: int,
    equal_mass: bool = False,
    n_resamples: int = N_RESAMPLES,
    rng: np.random.Generator,
) -> Estimate:
    """(after - before) / before of the expected calibration error; -0.34 is a fall by 34 %.

    ``before`` and ``after``: confidences of the same questions in the same order, (n,), each
    binned by itself; ``correct_``: their answers. At least -1. The 95 % interval is a bootstrap
    over questions, both errors on the same ones, its draws moved back onto the value as in
    ``calibration_estimate``. Both errors hold their floor: at a small n even perfect training
    stays above -1, and a change is drawn towards 0. Where before is 0 the change is NaN with
    infinite limits. Raises ValueError for unequal lengths, or as the error itself does.
    """
    pairs = (before, correct_before), (after, correct_after)
    answers = [_binned(*pair, n_bins, equal_mass) for pair in pairs]
    n = len(answers[0][0])
    if len(answers[1][0]) != n:
        raise ValueError(f"{n} questions before and {len(answers[1][0])} after: not the same ones")
    errors, draws = _resampled(answers, n_bins, n_resamples, rng)
    if errors[0] == 0:
        return Estimate(np.nan, -np.inf, np.inf, n)
    value, changes = errors[1] / errors[0] - 1, safe_ratio(draws[1], draws[0]) - 1
    # moving back must not promise a fall by more than all of it
    moved = np.maximum(moved_onto(value, changes), -1)
    return Estimate(float(value), *limits(moved), n)


def _binned(confidence, correct, n_bins: int, equal_mass: bool) -> tuple[np.ndarray, np.ndarray]:
    """correct - confidence of every answer, and its bin."""
    confidence, correct = checked(confidence, correct, n_bins)
    return correct - confidence, bin_numbers(confidence, n_bins, equal_mass)


def _resampled(
    answers: Sequence[tuple[np.ndarray, np.ndarray]], n_bins: int, n_resamples: int, rng
) -> tuple[np.ndarray, np.ndarray]:
    """The error of each of ``answers``, and those of the same resamples: (k,), (k, n_resamples)."""
    values = [binned_errors(gap[None], bins, n_bins)[0] for gap, bins in answers]
    n = len(answers[0][0])
    chunk = max(1, 4_000_000 // n)
    parts = []
    for start in range(0, n_resamples, chunk):
        rows = rng.integers(0, n, (min(chunk, n_resamples - start), n))
        parts.append([binned_errors(gap[rows], bins[rows], n_bins) for gap, bins in answers])
    return np.array(values), np.concatenate(parts, axis=1)
