"""Answers of like length to questions of like difficulty: what a label may be compared within."""

import numpy as np
import pandas as pd

from avss_utils.stats.resampling import limits, resample_counts


def strata(lengths: np.ndarray, difficulty: np.ndarray, *, n_parts: int = 3) -> np.ndarray:
    """Numbers of strata of like length and like difficulty, (n,): ``n_parts`` quantiles of each.

    Wrong answers are longer and come to harder questions: labels may only move among their likes.
    ``difficulty``: any number that orders questions, as the true answer's log-probability.
    """
    parts = [
        np.searchsorted(np.quantile(values, np.arange(1, n_parts) / n_parts), values, side="left")
        for values in (lengths, difficulty)
    ]
    return parts[0] * n_parts + parts[1]


def adjusted_effects(
    values: np.ndarray,
    is_false: np.ndarray,
    stratum: np.ndarray,
    *,
    n_resamples: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """``effect_draws`` of answers drawn anew: block, effect, low, high (95 %)."""
    effects = effect_draws(
        values, is_false, stratum, resample_counts(len(values), n_resamples, rng)
    )
    spread = [limits(own) for own in effects[1:].T]
    low, high = np.transpose(spread)
    table = {"block": np.arange(values.shape[1]), "effect": effects[0], "low": low, "high": high}
    return pd.DataFrame(table)


def effect_draws(
    values: np.ndarray, is_false: np.ndarray, stratum: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """How much false answers differ from right ones of the same stratum, (n_draws, n_blocks).

    ``values``: (n, n_blocks), as log variances; ``is_false`` and ``stratum``: (n,); ``weights``:
    (n_draws, n), how often each answer counts, the first draw once each. The effect is the
    coefficient of the label in a linear model with an intercept for each stratum, over the first
    draw's residual standard deviation; strata's means are those of the first draw, too. Strata with
    one label only say nothing; where all are such, effects are NaN.
    """
    label, rest = _labels_within(is_false[None], stratum)[0], within_strata(values.T, stratum).T
    with np.errstate(invalid="ignore", divide="ignore"):
        slopes = (weights @ (label[:, None] * rest)) / (weights @ label**2)[:, None]
        return slopes / (rest - label[:, None] * slopes[0]).std(0)


def label_slopes(values: np.ndarray, labels: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    """The coefficient of each labelling, as of ``effect_draws`` but not over a standard deviation.

    ``values``: (n, n_blocks); ``labels``: (n_labellings, n) of bool. (n_labellings, n_blocks); 0
    where every stratum has one label only, which tells nothing.
    """
    label = _labels_within(labels, stratum)
    total = (label**2).sum(1)[:, None]
    slopes = label @ within_strata(values.T, stratum).T
    return np.divide(slopes, total, out=np.zeros_like(slopes), where=total > 0)


def shuffled_within(
    is_false: np.ndarray, stratum: np.ndarray, rng: np.random.Generator, n: int
) -> np.ndarray:
    """``n`` labellings with labels at random among the answers of a stratum, (n, n_answers)."""
    order = np.argsort(stratum, kind="stable")
    keys = stratum[order] + rng.random((n, len(order)))
    found = np.empty(keys.shape, bool)
    found[:, order] = is_false[order][np.argsort(keys, axis=1)]
    return found


def _labels_within(labels: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    """``within_strata``, exactly 0 in strata with one label only."""
    found = within_strata(labels, stratum)
    return np.where(np.abs(found) < 1e-9, 0.0, found)


def within_strata(rows: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    """Each row, (n_rows, n), less its strata's means."""
    own = (stratum[:, None] == np.unique(stratum)).astype(float)
    return rows - rows @ (own / own.sum(0)) @ own.T
