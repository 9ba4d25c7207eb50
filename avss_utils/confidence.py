"""Does confidence mean what it says? Expected calibration error, its floor, and its excess."""

import numpy as np


def expected_calibration_error(
    confidence: np.ndarray, correct: np.ndarray, *, n_bins: int
) -> float:
    """Mean over ``n_bins`` equal bins of [0, 1], by their size, of |accuracy - mean confidence|.

    ``confidence``: (n,) in [0, 1]; ``correct``: (n,) of 0 and 1. A confidence on an edge belongs to
    the lower bin, 0 to the first. Source: Naeini et al. 2015; Guo et al. 2017 (arXiv 1706.04599).
    Raises ValueError for confidences outside [0, 1], no rows, or unequal lengths.
    """
    confidence, correct = _checked(confidence, correct, n_bins)
    return float(_error(confidence, correct[None], n_bins)[0])


def calibration_floor(
    confidence: np.ndarray, *, n_bins: int, n_draws: int = 500, rng: np.random.Generator
) -> float:
    """What the error would be if every confidence were right: the mean over simulated answers.

    It is above 0 because each bin's accuracy is that of a few answers; an error at the floor is
    perfect calibration.
    """
    confidence, _ = _checked(confidence, np.zeros(len(confidence)), n_bins)
    drawn = rng.random((n_draws, len(confidence))) < confidence
    return float(_error(confidence, drawn.astype(float), n_bins).mean())


def _error(confidence: np.ndarray, correct: np.ndarray, n_bins: int) -> np.ndarray:
    """Of every row of ``correct``, (n_draws, n)."""
    bins = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    member = np.zeros((len(confidence), n_bins))
    member[np.arange(len(confidence)), bins] = 1
    return np.abs((correct - confidence) @ member).sum(1) / len(confidence)


def _checked(confidence, correct, n_bins: int) -> tuple[np.ndarray, np.ndarray]:
    confidence, correct = np.asarray(confidence, float), np.asarray(correct, float)
    if not 0 < len(confidence) == len(correct):
        raise ValueError(f"{len(confidence)} confidences and {len(correct)} answers")
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("a confidence lies between 0 and 1")
    if n_bins < 1:
        raise ValueError(f"{n_bins} bins hold nothing")
    return confidence, correct
