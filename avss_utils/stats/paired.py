"""Two arms on the same questions, seeds nested: the one resampler of every comparison.

Each resample draws the questions of a set anew, the same ones for both arms, and then the seeds of
each arm (hierarchical). A statistic of one seed is a function of measures, (n_questions,) each, and
of weights, (n_draws, n_questions), the first of which has every question once.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from avss_utils.stats.calibration import bin_numbers, folded_mean
from avss_utils.stats.outcomes import Measure, OutcomeTable
from avss_utils.stats.resampling import (
    LEVEL,
    N_RESAMPLES,
    Estimate,
    limits,
    moved_onto,
    resample_counts,
    safe_ratio,
)

Statistic = Callable[..., np.ndarray]


def mean_of(shares: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean of one measure, as a ``Statistic``; NaN where nothing has weight."""
    return safe_ratio(weights @ shares, weights.sum(1))


def lacking(shares: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """1 minus the mean of one measure, such as a rate of errors, as a ``Statistic``."""
    return 1 - mean_of(shares, weights)


def gap_of(one: np.ndarray, other: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean of one measure less that of another, as a ``Statistic``."""
    return mean_of(one - other, weights)


def above(level: np.ndarray) -> Statistic:
    """The mean of one measure above a ``level`` of each question, such as chance."""
    return lambda shares, weights: mean_of(shares - level, weights)


def of_answered(statistic: Statistic) -> Statistic:
    """The same over questions that were answered: the last measure has those that were not."""

    def apart(*given: np.ndarray) -> np.ndarray:
        *shares, abstained, weights = given
        return statistic(*shares, weights * (1 - abstained))

    return apart


def calibration_error(n_bins: int, *, equal_mass: bool = False) -> Statistic:
    """Expected calibration error of (correct, confidence), as a ``Statistic``; bins stay as they
    are. See ``calibration.expected_calibration_error``.
    """

    def error(right: np.ndarray, sure: np.ndarray, weights: np.ndarray) -> np.ndarray:
        inside = np.eye(n_bins)[bin_numbers(sure, n_bins, equal_mass)]
        gaps = np.abs(weights @ (inside * (right - sure)[:, None])).sum(1)
        return safe_ratio(gaps, weights.sum(1))

    return error


def debiased_error(n_bins: int) -> Statistic:
    """``calibration.debiased_calibration_error`` of (correct, confidence), as a ``Statistic``."""

    def error(right: np.ndarray, sure: np.ndarray, weights: np.ndarray) -> np.ndarray:
        inside = np.eye(n_bins)[bin_numbers(sure, n_bins, False)]
        columns = (np.ones_like(right), right, right**2, sure)
        n, hits, squares, confidence = (weights @ (inside * x[:, None]) for x in columns)
        gaps, spread = (
            np.abs(hits - confidence),
            np.sqrt(np.maximum(squares - hits**2 / np.maximum(n, 1), 0)),
        )
        return safe_ratio((2 * gaps - folded_mean(gaps, spread)).sum(1), weights.sum(1))

    return error


def arm_draws(
    outcomes: OutcomeTable,
    arm: str,
    name: str,
    measures: Sequence[Measure],
    statistic: Statistic,
    *,
    weights: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """The mean over an arm's seeds of a statistic, under every weighting of questions: (n_draws,).

    The first draw takes each seed once, the others draw seeds anew.
    """
    shares = [outcomes.of(arm, name, measure) for measure in measures]
    each = np.stack([statistic(*own, weights) for own in zip(*shares, strict=True)])
    seeds = resample_counts(len(each), len(weights) - 1, rng) / len(each)
    return (seeds.T * each).sum(0)


def together(
    outcomes: OutcomeTable,
    arms: Sequence[str],
    name: str,
    measures: Sequence[Measure],
    statistic: Statistic,
    *,
    rng: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
    seeds: Sequence[int] | None = None,
) -> tuple[list[np.ndarray], int]:
    """``arm_draws`` of several arms over the same questions of a set, and how many questions.

    ``seeds``: what the draws of each arm's seeds begin from, so that they are the same on every
    set: a training is judged on all of them.
    """
    n = outcomes.of(arms[0], name, measures[0]).shape[1]
    weights = resample_counts(n, n_resamples, rng).astype(float)  # once, not in every product
    found = []
    for number, arm in enumerate(arms):
        own = rng if seeds is None else np.random.default_rng([*seeds, number])
        found.append(arm_draws(outcomes, arm, name, measures, statistic, weights=weights, rng=own))
    return found, n


def paired(
    outcomes: OutcomeTable,
    arm: str,
    reference: str,
    sets: str | Iterable[str],
    *,
    measures: Sequence[Measure] = ("correct",),
    statistic: Statistic = mean_of,
    kind: str = "difference",
    corrected: bool = False,
    moved: bool = False,
    level: float = LEVEL,
    seed: int | Sequence[int],
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """A statistic of ``arm`` beside that of ``reference``, mean over sets; limits at ``level``.

    ``kind``: difference (arm less reference), fall (reference less arm), relative fall (over the
    reference) or retention (arm over reference). ``corrected`` takes each question's chance off the
    measure first. ``moved``: the draws are shifted onto the value, for statistics that resampling
    itself adds to, such as calibration errors. Questions of sets are drawn apart, an arm's seeds
    once for all sets; n is all questions.
    """
    sets = [sets] if isinstance(sets, str) else list(sets)
    total, n_all, sizes = np.zeros(n_resamples + 1), 0, dict(n_resamples=n_resamples)
    once = [int(x) for x in np.atleast_1d(seed)] if len(sets) > 1 else None
    for number, name in enumerate(sets):
        rng = _generator(seed, number, len(sets))
        taken = above(outcomes.chance(name)) if corrected else statistic
        (own, other), n = together(
            outcomes, (arm, reference), name, measures, taken, **sizes, rng=rng, seeds=once
        )
        total += compared(own, other, kind) / len(sets)
        n_all += n
    return as_estimate(total, n_all, moved=moved, level=level)


def compared(own: np.ndarray, other: np.ndarray, kind: str) -> np.ndarray:
    """Draws of an arm beside those of its reference, as a ``kind`` of ``paired``."""
    kinds: dict[str, Callable[[], np.ndarray]] = {
        "difference": lambda: own - other,
        "fall": lambda: other - own,
        "relative fall": lambda: safe_ratio(other - own, other),
        "retention": lambda: safe_ratio(own, other),
    }
    return kinds[kind]()


def as_estimate(
    draws: np.ndarray, n: int, *, moved: bool = False, level: float = LEVEL
) -> Estimate:
    """The first draw, which is the value, and the limits of the others."""
    rest = moved_onto(draws[0], draws[1:]) if moved else draws[1:]
    return Estimate(float(draws[0]), *limits(rest, level), n)


def _generator(seed: int | Sequence[int], number: int, n_sets: int) -> np.random.Generator:
    """The random numbers of one of several sets."""
    return np.random.default_rng(seed if n_sets == 1 else [seed, number])
