"""Calibration of confidence: its error, the bins behind it, and one temperature that corrects it.

Bins are equal in width, or with ``equal_mass`` in answers, up to ties, which stay together in one.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import log_softmax, ndtr


def _checked(
    confidence: ArrayLike, correct: ArrayLike, n_bins: int
) -> tuple[np.ndarray, np.ndarray]:
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


def expected_calibration_error(
    confidence: ArrayLike, correct: ArrayLike, *, n_bins: int, equal_mass: bool = False
) -> float:
    """Mean over ``n_bins`` bins of [0, 1], by their size, of |accuracy - mean confidence|.

    ``confidence``: (n,) in [0, 1]; ``correct``: (n,) of 0 and 1 (ties between). A confidence on an
    edge belongs to the lower bin, 0 to the first. In [0, 1]. Source: Naeini et al. 2015; Guo et al.
    2017 (arXiv 1706.04599); equal mass: Nixon et al. 2019 (arXiv 1904.01685). Raises ValueError
    for confidences or answers outside [0, 1], no rows, or unequal lengths.
    """
    confidence, correct = _checked(confidence, correct, n_bins)
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
    confidence, _ = _checked(confidence, np.zeros(len(confidence)), n_bins)
    bins = bin_numbers(confidence, n_bins, equal_mass)
    drawn = rng.random((n_draws, len(confidence))) < confidence
    return float(binned_errors(drawn - confidence, bins, n_bins).mean())


def debiased_calibration_error(
    confidence: ArrayLike, correct: ArrayLike, *, n_bins: int, equal_mass: bool = False
) -> float:
    """Twice the expected calibration error, less its mean were each bin's accuracy drawn anew.

    Each accuracy is drawn from a normal around the observed one; its mean distance from the bin's
    confidence has a closed form, so that nothing is random. Can be below 0. Takes about all the
    bias off where confidence is clearly wrong, but at perfect calibration only two fifths of it (of
    a normal's mean absolute value 2 - sqrt(2) stays): there, subtract ``calibration_floor``. A bin
    of one answer, or of equal answers, is taken at its word. Arguments and errors as for
    ``expected_calibration_error``. Source: Kumar, Liang and Ma 2019 (arXiv 1909.10155), who draw.
    """
    confidence, correct = _checked(confidence, correct, n_bins)
    _, bins, n = np.unique(
        bin_numbers(confidence, n_bins, equal_mass), return_inverse=True, return_counts=True
    )
    accuracy = np.bincount(bins, correct) / n
    gap = np.abs(accuracy - np.bincount(bins, confidence) / n)
    spread = np.sqrt(np.bincount(bins, (correct - accuracy[bins]) ** 2)) / n  # of the accuracy
    return float((n * (2 * gap - folded_mean(gap, spread))).sum() / len(confidence))


def folded_mean(gap: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """The mean distance from 0 of a normal around each ``gap``, at least 0."""
    far = np.divide(gap, spread, out=np.full(np.shape(gap), np.inf), where=spread > 0)
    return spread * np.sqrt(2 / np.pi) * np.exp(-(far**2) / 2) + gap * (1 - 2 * ndtr(-far))


def reliability_bins(
    confidence: ArrayLike, correct: ArrayLike, *, n_bins: int, equal_mass: bool = False
) -> pd.DataFrame:
    """The bins of ``expected_calibration_error`` that hold an answer, one row per bin.

    Columns: bin (from 0), low and high (its edges; low < confidence <= high, 0 in the first), n
    (answers), confidence (their mean), accuracy, and its 95 % Wilson interval accuracy_low and
    accuracy_high. Arguments and errors as there.
    """
    confidence, correct = _checked(confidence, correct, n_bins)
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


def choice_confidence(
    scores: Sequence[ArrayLike], *, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest choice of each question, and the share of probability that it has among them.

    ``scores``: one array a question, as ``measure.choices`` gives them (summed
    log-probabilities, nats); questions may have different numbers of choices. The shares are their
    softmax after division by ``temperature``. Returns (prediction, confidence), both (n,): the
    choice's number, the earlier among equals, whatever the temperature; from 1 / choices to 1.
    Raises ValueError for no questions, a question without choices, scores that are not finite, or a
    temperature not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"a temperature is above 0, not {temperature}")
    table = _table(scores)
    prediction = table.argmax(1)
    there = np.isfinite(table)  # a choice that a question lacks stays at -inf
    divided = np.divide(table, temperature, out=np.full(table.shape, -np.inf), where=there)
    return prediction, np.exp(_at(log_softmax(divided, axis=1), prediction))


def temperature(
    logits: Sequence[ArrayLike],
    label: ArrayLike,
    *,
    bounds: tuple[float, float] = (1e-3, 1e6),
) -> float:
    """By what to divide the scores so that the right choices are least surprising.

    ``logits``: scores as in ``choice_confidence``; ``label``: the right choice's number, (n,). More
    than 1 for an overconfident model. Minimises the mean negative log-likelihood, which has one
    minimum: at infinity, equal confidence in every choice, where the right choices' scores are on
    average not above the mean of their questions' choices, as of a model below chance. Else it is
    sought within ``bounds``, and ends near the lower where every answer is right. Fit it on other
    questions than those that judge it. Source: Guo et al. 2017 (arXiv 1706.04599). Raises
    ValueError as ``choice_confidence`` does, or for a label that is no choice's number.
    """
    from scipy.optimize import minimize_scalar  # slow to import, and few commands need it

    table, right = _table(logits), np.asarray(label)
    n_choices = np.isfinite(table).sum(1)
    if len(right) != len(table) or not ((right >= 0) & (right < n_choices)).all():
        raise ValueError(f"{len(table)} questions need one label each, the number of a choice")

    choices = np.ma.masked_invalid(table).mean(1).filled()
    if (_at(table, right) - choices).mean() <= 0:  # the likelihood's slope at equal confidence
        return float(np.inf)

    def surprise(log_temperature: float) -> float:
        return -_at(log_softmax(table / np.exp(log_temperature), axis=1), right).mean()

    found = minimize_scalar(surprise, bounds=np.log(bounds), method="bounded")
    return float(np.exp(found.x))


def _at(table: np.ndarray, column: np.ndarray) -> np.ndarray:
    return table[np.arange(len(table)), column]


def _table(scores: Sequence[ArrayLike]) -> np.ndarray:
    """(n, most choices); choices that a question lacks have no probability (-inf)."""
    rows = [np.asarray(row, float) for row in scores]
    if not rows or not all(len(row) and np.isfinite(row).all() for row in rows):
        raise ValueError("each question needs choices with finite scores")
    table = np.full((len(rows), max(map(len, rows))), -np.inf)
    for filled, row in zip(table, rows, strict=True):
        filled[: len(row)] = row
    return table
