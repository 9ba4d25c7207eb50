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
    """How much false answers differ from right ones of the same stratum: block, effect, low, high.

    ``values``: (n, n_blocks), as log variances; ``is_false`` and ``stratum``: (n,). The effect is
    the coefficient of the label in a linear model with an intercept for each stratum, over the
    model's residual standard deviation. The 95 % interval draws answers anew, the strata's means
    and the standard deviation as they are. Strata with one label only say nothing; where all are
    such, effects are NaN.
    """
    own = stratum[:, None] == np.unique(stratum)
    share = own / own.sum(0)
    label = is_false - own @ (share.T @ is_false)
    rest = values - own @ (share.T @ values)
    weights = resample_counts(len(label), n_resamples, rng)
    with np.errstate(invalid="ignore", divide="ignore"):
        slopes = (weights @ (label[:, None] * rest)) / (weights @ label**2)[:, None]
        effects = slopes / (rest - label[:, None] * slopes[0]).std(0)
    spread = [limits(own) for own in effects[1:].T]
    low, high = np.transpose(spread)
    table = {"block": np.arange(values.shape[1]), "effect": effects[0], "low": low, "high": high}
    return pd.DataFrame(table)
