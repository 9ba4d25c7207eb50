"""Expected calibration error, its floor, its debiased form, and the bins behind it.

Bins are equal in width, or with ``equal_mass`` in answers, up to ties, which stay together in one.
"""

import numpy as np
import pandas as pd
from scipy.special import ndtr

from avss_utils.stats.binning import bin_edges, bin_numbers, binned_errors, checked


def expected_calibration_error(
    confidence: np.ndarray, correct: np.ndarray, *, n_bins: int, equal_mass: bool = False
) -> float:
    """Mean over ``n_bins`` bins of [0, 1], by their size, of |accuracy - mean confidence|.

    ``confidence``: (n,) in [0, 1]; ``correct``: (n,) of 0 and 1 (ties between). A confidence on an
    edge belongs to the lower bin, 0 to the first. In [0, 1]. Source: Naeini et al. 2015; Guo et al.
    2017 (arXiv 1706.04599); equal mass: Nixon et al. 2019 (arXiv 1904.01685). Raises ValueError
    for confidences or answers outside [0, 1], no rows, or unequal lengths.
    """
    confidence, correct = checked(confidence, correct, n_bins)
    bins = bin_numbers(confidence, n_bins, equal_mass)
    return float(binned_errors((correct - confidence)[None], bins, n_bins)[0])


def calibration_floor(
    confidence: np.ndarray,
    *,
    n_bins: int,
    equal_mass: bool = False,
    n_draws: int = 500,
    rng: np.random.Generator,
) -> float:
    """What the error would be if every confidence were right: the mean over simulated answers.

    It is above 0 because each bin's accuracy is that of a few answers; an error at the floor is
    perfect calibration.
    """
    confidence, _ = checked(confidence, np.zeros(len(confidence)), n_bins)
    bins = bin_numbers(confidence, n_bins, equal_mass)
    drawn = rng.random((n_draws, len(confidence))) < confidence
    return float(binned_errors(drawn - confidence, bins, n_bins).mean())


def debiased_calibration_error(
    confidence: np.ndarray, correct: np.ndarray, *, n_bins: int, equal_mass: bool = False
) -> float:
    """Twice the expected calibration error, less its mean were each bin's accuracy drawn anew.

    Each accuracy is drawn from a normal around the observed one; its mean distance from the bin's
    confidence has a closed form, so that nothing is random. Can be below 0. Takes about all the
    bias off where confidence is clearly wrong, but at perfect calibration only two fifths of it (of
    a normal's mean absolute value 2 - sqrt(2) stays): there, subtract ``calibration_floor``. A bin
    of one answer, or of equal answers, is taken at its word. Arguments and errors as for
    ``expected_calibration_error``. Source: Kumar, Liang and Ma 2019 (arXiv 1909.10155), who draw.
    """
    confidence, correct = checked(confidence, correct, n_bins)
    _, bins, n = np.unique(
        bin_numbers(confidence, n_bins, equal_mass), return_inverse=True, return_counts=True
    )
    accuracy = np.bincount(bins, correct) / n
    gap = np.abs(accuracy - np.bincount(bins, confidence) / n)
    spread = np.sqrt(np.bincount(bins, (correct - accuracy[bins]) ** 2)) / n  # of the accuracy
    far = np.divide(gap, spread, out=np.full(len(n), np.inf), where=spread > 0)
    drawn = spread * np.sqrt(2 / np.pi) * np.exp(-(far**2) / 2) + gap * (1 - 2 * ndtr(-far))
    return float((n * (2 * gap - drawn)).sum() / len(confidence))


def reliability_bins(
    confidence: np.ndarray, correct: np.ndarray, *, n_bins: int, equal_mass: bool = False
) -> pd.DataFrame:
    """The bins of ``expected_calibration_error`` that hold an answer, one row per bin.

    Columns: bin (from 0), low and high (its edges; low < confidence <= high, 0 in the first), n
    (answers), confidence (their mean), accuracy, and its 95 % Wilson interval accuracy_low and
    accuracy_high. Arguments and errors as there.
    """
    confidence, correct = checked(confidence, correct, n_bins)
    edges = bin_edges(confidence, n_bins, equal_mass)
    bins, own, n = np.unique(
        bin_numbers(confidence, n_bins, equal_mass), return_inverse=True, return_counts=True
    )
    right = np.bincount(own, correct)
    intervals = [_wilson(*row) for row in zip(right, n, strict=True)]
    cells = {"bin": bins, "low": edges[bins], "high": edges[bins + 1], "n": n}
    cells |= {"confidence": np.bincount(own, confidence) / n, "accuracy": right / n}
    cells |= {"accuracy_low": [i[0] for i in intervals], "accuracy_high": [i[1] for i in intervals]}
    return pd.DataFrame(cells)


def _wilson(right: float, n: int) -> tuple[float, float]:
    from scipy.stats import binomtest  # half a second, and not every command needs it

    # ties leave halves, which are no counts: each limit takes the whole number on its own side
    low, high = (
        binomtest(int(k), int(n)).proportion_ci(method="wilson")
        for k in (np.floor(right), np.ceil(right))
    )
    return float(low.low), float(high.high)
