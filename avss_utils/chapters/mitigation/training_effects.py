"""What training changed, by arm: over the same questions, and over seeds."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from avss_utils.chapters.mitigation.arms import is_random
from avss_utils.chapters.mitigation.trial_outcomes import OWN_WORDS, PLAIN, TASK, UNASKED
from avss_utils.stats.outcomes import Measure, OutcomeTable
from avss_utils.stats.paired import (
    Statistic,
    calibration_error,
    gap_of,
    lacking,
    of_answered,
    paired,
)
from avss_utils.stats.resampling import Estimate

UNTRAINED = "none"
TYPICAL = "mean random set"
MC1, MC2, CONFIDENCE = (PLAIN, "correct"), (PLAIN, "p_true"), (PLAIN, "confidence")
MC1_UNASKED, TASK_RIGHT = (UNASKED, "correct"), (TASK, "correct")
MATCH, CONTAINS, ABSTAINED = ((OWN_WORDS, c) for c in ("correct", "contains", "abstained"))
# right or not, how sure, and for own answers whether none was given
CHOICES = (MC1, CONFIDENCE)
OWN_ANSWERS = (MATCH, (OWN_WORDS, "confidence"), ABSTAINED)


def outcomes_of(trials: pd.DataFrame, sets: pd.DataFrame | None = None) -> OutcomeTable:
    """The arms of ``Mitigation.trials`` and ``set_trials``, and TYPICAL: the random sets as if each
    were its seed, by the mean over its own.

    Its mean is theirs, and its intervals hold the draw of sets.
    """
    if sets is not None and len(sets):
        trials = pd.concat([trials, sets.assign(wording=PLAIN)], ignore_index=True)
    outcomes = OutcomeTable(trials)
    if drawn := [arm for arm in outcomes.arms if is_random(arm)]:
        outcomes.pool(TYPICAL, drawn)
    return outcomes


def change(
    outcomes: OutcomeTable,
    arm: str,
    name: str,
    measure: Measure = MC1,
    *,
    reference: str = UNTRAINED,
    **drawn: Any,
) -> Estimate:
    """The mean of a measure less that of ``reference``, see ``stats.paired``: questions and seeds
    are drawn anew, by ``seed``.
    """
    return paired(outcomes, arm, reference, name, measures=(measure,), **drawn)


def rate_fall(
    outcomes: OutcomeTable, arm: str, name: str, *, relative: bool = False, **drawn: Any
) -> Estimate:
    """How far the share of questions with a likelier false answer fell from the untrained model's.

    With ``relative`` over that of the untrained model.
    """
    options: dict[str, Any] = dict(measures=(MC1,), statistic=lacking, kind=_fall(relative))
    return paired(outcomes, arm, UNTRAINED, name, **options, **drawn)


def own_fall(
    outcomes: OutcomeTable,
    arm: str,
    name: str,
    *,
    measure: Measure = MATCH,
    relative: bool = False,
    **drawn: Any,
) -> Estimate:
    """How far the share of wrong ones fell among the model's own answers, abstentions apart.

    From the untrained model's; ``measure``: MATCH, or the looser CONTAINS.
    """
    options: dict[str, Any] = dict(measures=(measure, ABSTAINED), statistic=of_answered(lacking))
    return paired(outcomes, arm, UNTRAINED, name, **options, kind=_fall(relative), **drawn)


def reading_gain(outcomes: OutcomeTable, arm: str, name: str, **drawn: Any) -> Estimate:
    """``change`` of MC1 in excess of that of MC1_UNASKED, which needs no question."""
    options: dict[str, Any] = dict(measures=(MC1, MC1_UNASKED), statistic=gap_of)
    return paired(outcomes, arm, UNTRAINED, name, **options, **drawn)


def error_fall(
    outcomes: OutcomeTable,
    arm: str,
    name: str,
    *,
    n_bins: int,
    own_answers: bool = False,
    relative: bool = True,
    **drawn: Any,
) -> Estimate:
    """How far the expected calibration error fell from the untrained model's, over it where
    ``relative``.

    Of choices, whose confidence is their share of probability; or of the model's own answers,
    abstentions apart, whose confidence is their probability. The error is the mean of those of each
    seed; resamples are moved back onto the value, for resampling adds to errors. At most 1. The
    floor stays in both.
    """
    measures, error = _error(n_bins, own_answers=own_answers)
    options: dict[str, Any] = dict(
        measures=measures, statistic=error, kind=_fall(relative), moved=True
    )
    fall = paired(outcomes, arm, UNTRAINED, name, **options, **drawn)
    high = min(fall.high, 1.0) if np.isfinite(fall.high) else fall.high
    return replace(fall, low=min(fall.low, 1.0), high=high)


def error_of(
    outcomes: OutcomeTable, arm: str, name: str, *, n_bins: int, own_answers: bool = False
) -> float:
    """The expected calibration error of an arm, as ``error_fall`` compares it."""
    measures, error = _error(n_bins, own_answers=own_answers)
    shares = [outcomes.of(arm, name, measure) for measure in measures]
    once = np.ones((1, shares[0].shape[1]))
    return float(np.mean([error(*own, once) for own in zip(*shares, strict=True)]))


def _fall(relative: bool) -> str:
    return "relative fall" if relative else "fall"


def _error(n_bins: int, *, own_answers: bool) -> tuple[tuple[Measure, ...], Statistic]:
    """The measures that a calibration error is made of, and its statistic."""
    error = calibration_error(n_bins)
    return (OWN_ANSWERS, of_answered(error)) if own_answers else (CHOICES, error)


def by_arm(
    measured: Callable[..., Estimate],
    outcomes: OutcomeTable,
    arms: Iterable[str],
    sets: Iterable[str],
    **options: Any,
) -> pd.DataFrame:
    """One of the functions above for every arm and set: arm, set, value, low, high, n."""
    sets, rows = list(sets), []
    for arm in arms:
        for name in sets:
            e = measured(outcomes, arm, name, **options)
            rows.append((arm, name, e.value, e.low, e.high, e.n))
    return pd.DataFrame(rows, columns=["arm", "set", "value", "low", "high", "n"])


def rank_among(outcomes: OutcomeTable, arm: str, name: str) -> tuple[float, np.ndarray]:
    """The arm's MC1, the mean over its seeds, and that of every random set: higher is better."""
    return float(outcomes.of(arm, name, MC1).mean()), outcomes.of(TYPICAL, name, MC1).mean(1)
