"""What an arm changed against another: over the same questions, and over seeds."""

import numpy as np
import pandas as pd

from avss_utils.confidence.binning import bin_numbers, binned_errors
from avss_utils.hallucination.intervention import DETECTABLE
from avss_utils.mitigation.study import UNTRAINED, as_shares
from avss_utils.statistics import N_RESAMPLES, Estimate, limits, moved_onto, safe_ratio


class Outcomes:
    """Shares by arm, set and measure, (n_seeds, n_questions); the untrained model has one seed."""

    def __init__(self, rows: pd.DataFrame) -> None:
        kept = rows[rows.cells.astype(str) != ""]
        groups = kept.sort_values("seed").groupby(["arm", "set", "measure"], sort=False).cells
        self.by = {key: np.stack([as_shares(cell) for cell in own]) for key, own in groups}
        self.arms = list(dict.fromkeys(rows.arm))

    def of(self, arm: str, name: str, measure: str) -> np.ndarray:
        """(n_seeds, n_questions) of one arm, set and measure; KeyError for what there is not."""
        return self.by[arm, name, measure]


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

    Each resample draws questions, the same for both, and seeds of each arm (hierarchical). With
    ``fall`` the measure is 1 minus the share (a hallucination rate from mc1), and the change is how
    far it fell; with ``relative``, over the reference's. n: questions.
    """
    own, other = (outcomes.of(a, name, measure) for a in (arm, reference))
    if fall:
        own, other = 1 - own, 1 - other
    pairs = _drawn(own.shape, len(other), rng, n_resamples)
    draws = np.array([(own[a][:, q].mean(), other[b][:, q].mean()) for a, b, q in pairs])
    values = np.vstack([(own.mean(), other.mean()), draws])
    change = values[:, 0] - values[:, 1]
    change = -change if fall else change
    if relative:
        change = safe_ratio(change, values[:, 1])
    return Estimate(float(change[0]), *limits(change[1:]), own.shape[1])


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
    n_resamples: int = 500,
) -> Estimate:
    """How far the expected calibration error of choices fell, over the reference's.

    The error is that of each seed, and their mean; resamples as in ``mean_change``, moved back onto
    the value, for resampling adds to errors. At most 1. The floor stays in both.
    """
    sides = []
    for one in (arm, reference):
        right, sure = (outcomes.of(one, name, m) for m in ("mc1", "confidence"))
        bins = np.stack([bin_numbers(row, n_bins, equal_mass) for row in sure])
        sides.append((right - sure, bins))
    own, other = sides
    pairs = _drawn(own[0].shape, len(other[0]), rng, n_resamples)

    def error(side, seeds, questions) -> float:
        gap, bins = (part[seeds][:, questions] for part in side)
        return binned_errors(gap, bins, n_bins).mean()

    every = [np.arange(len(side[0])) for side in sides], np.arange(own[0].shape[1])
    values = [(error(own, every[0][0], every[1]), error(other, every[0][1], every[1]))]
    values += [(error(own, a, q), error(other, b, q)) for a, b, q in pairs]
    after, before = np.array(values).T
    fall = 1 - safe_ratio(after, before)
    moved = moved_onto(fall[0], fall[1:])
    return Estimate(float(fall[0]), *limits(np.minimum(moved, 1.0)), own[0].shape[1])


def _drawn(shape: tuple[int, int], n_other: int, rng: np.random.Generator, n_resamples: int):
    """(seeds of the arm, seeds of the reference, questions) of each resample."""
    n_seeds, n = shape
    for _ in range(n_resamples):
        seeds = rng.integers(0, n_seeds, n_seeds), rng.integers(0, n_other, n_other)
        yield *seeds, rng.integers(0, n, n)


def rank_among(
    outcomes: Outcomes, arm: str, others: str, name: str, measure: str
) -> tuple[float, np.ndarray]:
    """The arm's mean, and that of every arm whose name starts with ``others``: higher is better."""
    null = [a for a in outcomes.arms if a.startswith(others)]
    means = [outcomes.of(a, name, measure).mean() for a in (arm, *null)]
    return float(means[0]), np.array(means[1:])
