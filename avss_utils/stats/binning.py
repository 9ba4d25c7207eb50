"""Which answers are of similar confidence, and how far their accuracy lies from it."""

import numpy as np


def checked(confidence, correct, n_bins: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Both as float arrays, (n,). Raises ValueError for what no calibration can be told from."""
    confidence, correct = np.asarray(confidence, float), np.asarray(correct, float)
    if not 0 < len(confidence) == len(correct):
        raise ValueError(f"{len(confidence)} confidences and {len(correct)} answers")
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("a confidence lies between 0 and 1")
    if not ((correct >= 0) & (correct <= 1)).all():
        raise ValueError("an answer is right (1), wrong (0) or between, as a tie is")
    if n_bins < 1:
        raise ValueError(f"{n_bins} bins hold nothing")
    return confidence, correct


def bin_edges(confidence: np.ndarray, n_bins: int, equal_mass: bool) -> np.ndarray:
    """From 0 to 1, (n_bins + 1,): evenly, or at the confidences that part the answers evenly.

    Edges of equal mass are confidences that occur, not points between two of them, so that only the
    confidences' order decides which answers are together.
    """
    if not equal_mass:
        return np.linspace(0, 1, n_bins + 1)
    last = -(-len(confidence) * np.arange(1, n_bins) // n_bins) - 1  # of each bin but the last
    return np.concatenate([[0.0], np.sort(confidence)[last], [1.0]])


def bin_numbers(confidence: np.ndarray, n_bins: int, equal_mass: bool) -> np.ndarray:
    """The bin of each answer, (n,), from 0; one on an edge is in the lower bin, 0 in the first."""
    if equal_mass:  # equal confidences meet the same edge first, and so stay together
        return np.searchsorted(bin_edges(confidence, n_bins, True)[1:-1], confidence)
    return np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)


def binned_errors(gap: np.ndarray, bins: np.ndarray, n_bins: int) -> np.ndarray:
    """Calibration error of every row of ``gap`` (correct - confidence), (n_rows, n): (n_rows,).

    ``bins``: those of ``gap``, or (n,) where all rows share them.
    """
    n_rows, n = gap.shape
    cells = np.arange(n_rows)[:, None] * n_bins + bins
    sums = np.bincount(cells.ravel(), gap.ravel(), n_rows * n_bins)
    return np.abs(sums.reshape(n_rows, n_bins)).sum(1) / n
