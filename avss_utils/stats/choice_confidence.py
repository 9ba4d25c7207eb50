"""How sure a model is of the choice it would make, and the temperature that makes it honest."""

from collections.abc import Sequence

import numpy as np
from scipy.special import log_softmax


def choice_confidence(
    scores: Sequence[np.ndarray], *, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest choice of each question, and the share of probability that it has among them.

    ``scores``: one array a question, as ``likelihood.score_choices`` gives them (summed
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
    return prediction, np.exp(_at(log_softmax(table / temperature, axis=1), prediction))


def temperature(
    logits: Sequence[np.ndarray],
    label: np.ndarray,
    *,
    bounds: tuple[float, float] = (0.05, 20.0),
) -> float:
    """By what to divide the scores so that the right choices are least surprising.

    ``logits``: scores as in ``choice_confidence``; ``label``: the right choice's number, (n,). More
    than 1 for an overconfident model. Minimises the mean negative log-likelihood, which has one
    minimum, within ``bounds``: it ends near the lower where every answer is right, near the upper
    where the scores tell nothing. Fit it on other questions than those that judge it. Source: Guo
    et al. 2017 (arXiv 1706.04599). Raises ValueError as ``choice_confidence`` does, or for a label
    that is no choice's number.
    """
    from scipy.optimize import minimize_scalar  # slow to import, and few commands need it

    table, label = _table(logits), np.asarray(label)
    n_choices = np.isfinite(table).sum(1)
    if len(label) != len(table) or not ((label >= 0) & (label < n_choices)).all():
        raise ValueError(f"{len(table)} questions need one label each, the number of a choice")

    def surprise(log_temperature: float) -> float:
        return -_at(log_softmax(table / np.exp(log_temperature), axis=1), label).mean()

    found = minimize_scalar(surprise, bounds=np.log(bounds), method="bounded")
    return float(np.exp(found.x))


def _at(table: np.ndarray, column: np.ndarray) -> np.ndarray:
    return table[np.arange(len(table)), column]


def _table(scores: Sequence[np.ndarray]) -> np.ndarray:
    """(n, most choices); choices that a question lacks have no probability (-inf)."""
    rows = [np.asarray(row, float) for row in scores]
    if not rows or not all(len(row) and np.isfinite(row).all() for row in rows):
        raise ValueError("each question needs choices with finite scores")
    table = np.full((len(rows), max(map(len, rows))), -np.inf)
    for filled, row in zip(table, rows, strict=True):
        filled[: len(row)] = row
    return table
