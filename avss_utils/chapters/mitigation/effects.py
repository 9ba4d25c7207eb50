"""What an arm changed against another: over the same questions, and over seeds."""

import numpy as np

from avss_utils.chapters.mitigation.outcomes import (
    TYPICAL,
    UNTRAINED,
    Outcomes,
    Statistic,
    calibration_error,
    gap_of,
    lacking,
    mean_of,
    of_answered,
    paired_draws,
)
from avss_utils.stats.resampling import (
    DETECTABLE,
    N_RESAMPLES,
    Estimate,
    limits,
    moved_onto,
    safe_ratio,
)

# right or not, how sure, and for own answers whether none was given
CHOICES = ("mc1", "confidence")
OWN_ANSWERS = ("match", "own confidence", "abstained")


def change_of(
    outcomes: Outcomes,
    arm: str,
    name: str,
    measures: tuple[str, ...],
    statistic: Statistic,
    *,
    reference: str = UNTRAINED,
    fall: bool = False,
    relative: bool = False,
    rng: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """A statistic of ``arm`` less that of ``reference``, with a 95 % interval.

    Each resample draws questions, the same for both, and seeds of each arm. With ``fall`` the
    change is how far the statistic fell; with ``relative``, over the reference's. n: questions.
    """
    draws, n = _changes(
        outcomes,
        (arm, reference),
        name,
        measures,
        statistic,
        fall=fall,
        relative=relative,
        rng=rng,
        n_resamples=n_resamples,
    )
    return Estimate(float(draws[0]), *limits(draws[1:]), n)


def _changes(outcomes, arms, name, measures, statistic, *, fall, relative, **drawn):
    """``change_of``'s draws, the first of them the value itself, and the number of questions."""
    own, other, n = paired_draws(outcomes, arms, name, measures, statistic, **drawn)
    change = other - own if fall else own - other
    return (safe_ratio(change, other) if relative else change), n


def mean_change(
    outcomes: Outcomes, arm: str, name: str, measure: str, *, fall: bool = False, **options
) -> Estimate:
    """``change_of`` the mean of a measure.

    With ``fall`` it is of 1 minus the share (a hallucination rate from mc1), and the change is how
    far that fell.
    """
    statistic = lacking if fall else mean_of
    return change_of(outcomes, arm, name, (measure,), statistic, fall=fall, **options)


def excess_change(
    outcomes: Outcomes, arm: str, name: str, measure: str, control: str, **options
) -> Estimate:
    """``change_of`` the mean of a measure in excess of that of a ``control`` measure."""
    return change_of(outcomes, arm, name, (measure, control), gap_of, **options)


def own_fall(
    outcomes: Outcomes, arm: str, name: str, *, measure: str = "match", **options
) -> Estimate:
    """How far the share of wrong ones fell among the model's own answers, abstentions apart.

    From the untrained model's (``change_of``); ``measure``: match, or the looser contains.
    """
    answered = of_answered(lacking)
    return change_of(outcomes, arm, name, (measure, "abstained"), answered, fall=True, **options)


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
    own_answers: bool = False,
    relative: bool = True,
    reference: str = UNTRAINED,
    rng: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """How far the expected calibration error fell, over the reference's where ``relative``.

    Of choices, whose confidence is their share of probability; or of the model's own answers,
    abstentions apart, whose confidence is their probability. The error is the mean of those of each
    seed; resamples as in ``change_of``, moved back onto the value, for resampling adds to errors.
    At most 1. The floor stays in both.
    """
    measures, error = _error(n_bins, equal_mass=equal_mass, own_answers=own_answers)
    options = dict(fall=True, relative=relative, rng=rng, n_resamples=n_resamples)
    fall, n = _changes(outcomes, (arm, reference), name, measures, error, **options)
    moved = moved_onto(fall[0], fall[1:])
    return Estimate(float(fall[0]), *limits(np.minimum(moved, 1.0)), n)


def error_of(
    outcomes: Outcomes, arm: str, name: str, *, n_bins: int, own_answers: bool = False
) -> float:
    """The expected calibration error of an arm, as ``error_fall`` compares it."""
    measures, error = _error(n_bins, equal_mass=False, own_answers=own_answers)
    rng = np.random.default_rng(0)  # one draw, which is of the questions as they are
    own, _, _ = paired_draws(outcomes, (arm, arm), name, measures, error, rng=rng, n_resamples=1)
    return float(own[0])


def _error(n_bins: int, *, equal_mass: bool, own_answers: bool):
    """The measures that a calibration error is made of, and its statistic."""
    error = calibration_error(n_bins, equal_mass=equal_mass)
    return (OWN_ANSWERS, of_answered(error)) if own_answers else (CHOICES, error)


def rank_among(outcomes: Outcomes, arm: str, name: str, measure: str) -> tuple[float, np.ndarray]:
    """The arm's mean, and that of every random set: higher is better.

    All are of their first seed: a mean over more seeds would vary less than what it is ranked in.
    """
    own, null = outcomes.of(arm, name, measure)[0], outcomes.of(TYPICAL, name, measure)
    return float(own.mean()), null.mean(1)
