"""What arms did to every question, and numbers of it under resampled questions and seeds."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from avss_utils.chapters.mitigation.arms import is_random
from avss_utils.chapters.mitigation.cells import as_shares
from avss_utils.stats.binning import bin_numbers
from avss_utils.stats.resampling import N_RESAMPLES, resample_counts, safe_ratio

UNTRAINED = "none"
TYPICAL = "mean random set"
# Of shares of one seed, (n_questions,) each, and weights, (n_draws, n_questions): (n_draws,)
Statistic = Callable[..., np.ndarray]


class Outcomes:
    """Shares by arm, set and measure, (n_seeds, n_questions); the untrained model has one seed.

    A further arm, TYPICAL, is the random sets as if each were a seed of one: its mean is theirs,
    and its intervals hold the draw of sets.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        kept = rows[rows.cells.astype(str) != ""]
        groups = kept.sort_values("seed").groupby(["arm", "set", "measure"], sort=False).cells
        self.by = {key: np.stack([as_shares(cell) for cell in own]) for key, own in groups}
        drawn: dict[tuple[str, ...], list[np.ndarray]] = {}
        for (arm, *where), shares in self.by.items():
            if is_random(arm):
                drawn.setdefault((TYPICAL, *where), []).append(shares[0])
        self.by |= {key: np.stack(own) for key, own in drawn.items()}

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
    """The mean of one measure, as a ``Statistic``; NaN where nothing has weight."""
    return safe_ratio(weights @ shares, weights.sum(1))


def lacking(shares: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """1 minus the mean of one measure, such as a rate of errors, as a ``Statistic``."""
    return 1 - mean_of(shares, weights)


def gap_of(one: np.ndarray, other: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean of one measure less that of another, as a ``Statistic``."""
    return mean_of(one - other, weights)


def of_answered(statistic: Statistic) -> Statistic:
    """The same over questions that were answered: the last measure has those that were not."""

    def apart(*given: np.ndarray) -> np.ndarray:
        *shares, abstained, weights = given
        return statistic(*shares, weights * (1 - abstained))

    return apart


def calibration_error(n_bins: int, *, equal_mass: bool = False) -> Statistic:
    """Expected calibration error of (right, confidence), as a ``Statistic``; bins stay as they are.

    See ``confidence.expected_calibration_error``.
    """

    def error(right: np.ndarray, sure: np.ndarray, weights: np.ndarray) -> np.ndarray:
        inside = np.eye(n_bins)[bin_numbers(sure, n_bins, equal_mass)]
        gaps = np.abs(weights @ (inside * (right - sure)[:, None])).sum(1)
        return safe_ratio(gaps, weights.sum(1))

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
