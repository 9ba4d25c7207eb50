"""What an arm changed against another: over the same questions, and over seeds."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from avss_utils.confidence.binning import bin_numbers
from avss_utils.hallucination.intervention import DETECTABLE
from avss_utils.mitigation.study import UNTRAINED, as_shares
from avss_utils.statistics import (
    N_RESAMPLES,
    Estimate,
    limits,
    moved_onto,
    resample_counts,
    safe_ratio,
)

# Of shares of one seed, (n_questions,) each, and weights, (n_draws, n_questions): (n_draws,)
Statistic = Callable[..., np.ndarray]


class Outcomes:
    """Shares by arm, set and measure, (n_seeds, n_questions); the untrained model has one seed."""

    def __init__(self, rows: pd.DataFrame) -> None:
        kept = rows[rows.cells.astype(str) != ""]
        groups = kept.sort_values("seed").groupby(["arm", "set", "measure"], sort=False).cells
        self.by = {key: np.stack([as_shares(cell) for cell in own]) for key, own in groups}

    @property
    def arms(self) -> list[str]:
        """Names of the arms, in the order of the rows."""
        return list(dict.fromkeys(arm for arm, _, _ in self.by))

    def of(self, arm: str, name: str, measure: str) -> np.ndarray:
        """(n_seeds, n_questions) of one arm, set and measure; KeyError for what there is not."""
        return self.by[arm, name, measure]

    def add(self, arm: str, shares: Mapping[tuple[str, str], np.ndarray]) -> None:
        """A further arm of one seed, from shares by set and measure, (n_questions,) each."""
        self.by |= {(arm, *key): np.asarray(own, float)[None] for key, own in shares.items()}


def mean_of(shares: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean of one measure, as a ``Statistic``."""
    return weights @ shares / weights.sum(1)


def wrong_of_answered(right: np.ndarray, abstained: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The share of wrong answers among those given, as a ``Statistic``; NaN where none is given."""
    return safe_ratio(weights @ (1 - right - abstained), weights @ (1 - abstained))


def calibration_error(n_bins: int, *, equal_mass: bool = False) -> Statistic:
    """Expected calibration error of (right, confidence), as a ``Statistic``; bins stay as they are.

    See ``confidence.expected_calibration_error``.
    """

    def error(right: np.ndarray, sure: np.ndarray, weights: np.ndarray) -> np.ndarray:
        inside = np.eye(n_bins)[bin_numbers(sure, n_bins, equal_mass)]
        return np.abs(weights @ (inside * (right - sure)[:, None])).sum(1) / weights.sum(1)

    return error


def draws_of(
    outcomes: Outcomes,
    arm: str,
    name: str,
    measures: tuple[str, ...],
    statistic: Statistic,
    *,
    weights: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """The mean over seeds of a statistic, under every weighting of the questions: (n_draws,).

    The first draw takes each seed once, the others draw seeds anew (hierarchical).
    """
    shares = [outcomes.of(arm, name, measure) for measure in measures]
    each = np.stack([statistic(*own, weights) for own in zip(*shares, strict=True)])
    seeds = resample_counts(len(each), len(weights) - 1, rng) / len(each)
    return (seeds.T * each).sum(0)


def paired_draws(
    outcomes: Outcomes,
    arms: tuple[str, str],
    name: str,
    measures: tuple[str, ...],
    statistic: Statistic,
    *,
    rng: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
) -> tuple[np.ndarray, np.ndarray, int]:
    """``draws_of`` two arms over the same questions, and how many questions."""
    n = outcomes.of(arms[0], name, measures[0]).shape[1]
    weights = resample_counts(n, n_resamples, rng)
    own, other = (
        draws_of(outcomes, arm, name, measures, statistic, weights=weights, rng=rng) for arm in arms
    )
    return own, other, n


def mean_change(
    outcomes: Outcomes,
    arm: str,
    name: str,
    measure: str,
    *,
    reference: str = UNTRAINED,
    fall: bool = False,
    relative: bool = False,
    rng: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """Mean of ``arm`` less that of ``reference`` over seeds and questions, with a 95 % interval.

    Each resample draws questions, the same for both, and seeds of each arm. With ``fall`` the
    measure is 1 minus the share (a hallucination rate from mc1), and the change is how far it fell;
    with ``relative``, over the reference's. n: questions.
    """
    pair = (arm, reference), name, (measure,), mean_of
    own, other, n = paired_draws(outcomes, *pair, rng=rng, n_resamples=n_resamples)
    change = own - other  # of 1 minus the share the fall is the same
    if relative:
        change = safe_ratio(change, 1 - other if fall else other)
    return Estimate(float(change[0]), *limits(change[1:]), n)


def own_fall(
    outcomes: Outcomes,
    arm: str,
    name: str,
    *,
    relative: bool = False,
    rng: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """How far the share of wrong ones fell among the model's own answers, abstentions apart.

    From the untrained model's, over it with ``relative``; resamples as in ``mean_change``.
    """
    pair = (arm, UNTRAINED), name, ("match", "abstained"), wrong_of_answered
    own, other, n = paired_draws(outcomes, *pair, rng=rng, n_resamples=n_resamples)
    fall = safe_ratio(other - own, other) if relative else other - own
    return Estimate(float(fall[0]), *limits(fall[1:]), n)


def detectable(estimate: Estimate) -> float:
    """The smallest change that an interval as wide as this one would have found."""
    return DETECTABLE * (estimate.high - estimate.low) / (2 * 1.96)


def error_fall(
    outcomes: Outcomes,
    arm: str,
    name: str,
    *,
    n_bins: int,
    equal_mass: bool = False,
    reference: str = UNTRAINED,
    rng: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """How far the expected calibration error of choices fell, over the reference's.

    The error is the mean of those of each seed; resamples as in ``mean_change``, moved back onto
    the value, for resampling adds to errors. At most 1. The floor stays in both.
    """
    error = calibration_error(n_bins, equal_mass=equal_mass)
    pair = (arm, reference), name, ("mc1", "confidence"), error
    after, before, n = paired_draws(outcomes, *pair, rng=rng, n_resamples=n_resamples)
    fall = 1 - safe_ratio(after, before)
    moved = moved_onto(fall[0], fall[1:])
    return Estimate(float(fall[0]), *limits(np.minimum(moved, 1.0)), n)


def rank_among(
    outcomes: Outcomes, arm: str, others: str, name: str, measure: str
) -> tuple[float, np.ndarray]:
    """The arm's mean, and that of every arm whose name starts with ``others``: higher is better.

    All are of their first seed: a mean over more seeds would vary less than what it is ranked in.
    """
    null = [a for a in outcomes.arms if a.startswith(others)]
    means = [outcomes.of(a, name, measure)[0].mean() for a in (arm, *null)]
    return float(means[0]), np.array(means[1:])
