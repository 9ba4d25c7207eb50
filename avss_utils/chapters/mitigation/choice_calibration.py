"""How honest the confidence in a choice is, by arm; and what one temperature does, untrained."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from avss_utils.chapters.mitigation.training_effects import CHOICES, CONFIDENCE, MC1, UNTRAINED
from avss_utils.chapters.mitigation.trial_outcomes import PLAIN, canonical_scores
from avss_utils.stats.calibration import (
    calibration_floor,
    choice_confidence,
    debiased_calibration_error,
    temperature,
)
from avss_utils.stats.detection import mean_risks, pairs_won
from avss_utils.stats.outcomes import OutcomeTable
from avss_utils.stats.paired import (
    Statistic,
    as_estimate,
    calibration_error,
    mean_of,
    together,
)
from avss_utils.stats.resampling import safe_ratio

TEMPERED = "one temperature"
ERROR = "ECE, 15 bins"
FLOOR, DEBIASED = "its floor", "debiased"


def temperatures(development: pd.DataFrame) -> dict[str, float]:
    """``stats.temperature`` by set, of ``choice_scores``; "" has the one of all sets."""
    parts = [("", development), *development.groupby("set", sort=False)]
    found = {name: canonical_scores(own) for name, own in parts}
    return {name: temperature(own, np.zeros(len(own), dtype=int)) for name, own in found.items()}


def add_tempered(
    outcomes: OutcomeTable, untrained: pd.DataFrame, development: pd.DataFrame
) -> dict[str, float]:
    """Add the arm TEMPERED: the untrained model under one temperature a set, which are returned.

    ``untrained``, ``development``: ``choice_scores`` of judging and of other questions. A set that
    none was fitted for has the temperature of all. What is chosen stays; only confidence moves.
    """
    fitted = temperatures(development)
    for name, own in untrained.groupby("set", sort=False):
        if list(own.row_id.unique()) != list(outcomes.questions(name, PLAIN)):
            raise ValueError(f"the choices of {name!r} are not those that the arms were asked")
        at = fitted.get(name, fitted[""])
        sure = choice_confidence(canonical_scores(own), temperature=at)[1]
        right = outcomes.of(UNTRAINED, name, MC1)[0]
        outcomes.add(TEMPERED, {(name, MC1): right, (name, CONFIDENCE): sure})
    return fitted


def _squared(right: np.ndarray, sure: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return mean_of((sure - right) ** 2, weights)


def _area(right: np.ndarray, sure: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return safe_ratio(*pairs_won(-sure, right < 0.5, weights))


def _risk(right: np.ndarray, sure: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return mean_risks(-sure, right < 0.5, weights.astype(int))


STATISTICS: dict[str, Statistic] = {
    ERROR: calibration_error(15),
    "ECE, 10 bins": calibration_error(10),
    "ECE, 20 bins": calibration_error(20),
    "ECE, 15 of equal mass": calibration_error(15, equal_mass=True),
    "Brier": _squared,
    "AUROC": _area,
    "risk over coverage": _risk,
}


def calibration_rows(
    outcomes: OutcomeTable, arms: Iterable[str], name: str, *, seed: int, n_resamples: int = 1000
) -> pd.DataFrame:
    """Every measure of confidence in choices on one set, one row per arm and measure.

    Columns: set, arm, measure, value, low, high, n (questions). Measures: those of STATISTICS, with
    95 % intervals over questions and seeds (errors moved back onto their value); for the error of
    15 bins its FLOOR (what perfect confidence would score) and its DEBIASED form, without interval
    (NaN); and for each of STATISTICS its "change of ..." from the untrained model's, paired.
    AUROC: chance that a wrong choice is less confident than a right one; risk over coverage: the
    mean share of wrong choices over all coverages.
    """
    rows = []
    for arm in arms:
        for measure, statistic in STATISTICS.items():
            rng = np.random.default_rng(seed)
            pair = (arm, UNTRAINED), name, CHOICES, statistic
            (own, before), n = together(outcomes, *pair, rng=rng, n_resamples=n_resamples)
            found = {measure: own}
            if arm != UNTRAINED:
                found[f"change of {measure}"] = own - before
            for label, draws in found.items():
                e = as_estimate(draws, n, moved="ECE" in measure)
                rows.append((name, arm, label, e.value, e.low, e.high, n))
        rows += [
            (name, arm, label, x, np.nan, np.nan, n) for label, x in _plain(outcomes, arm, name)
        ]
    return pd.DataFrame(rows, columns=["set", "arm", "measure", "value", "low", "high", "n"])


def _plain(outcomes: OutcomeTable, arm: str, name: str) -> list[tuple[str, float]]:
    """FLOOR and DEBIASED, the mean over seeds."""
    right, sure = (outcomes.of(arm, name, measure) for measure in CHOICES)
    rng = np.random.default_rng(0)
    floors = [calibration_floor(own, n_bins=15, n_draws=200, rng=rng) for own in sure]
    pairs = zip(sure, right, strict=True)
    errors = [debiased_calibration_error(*pair, n_bins=15) for pair in pairs]
    return [(FLOOR, float(np.mean(floors))), (DEBIASED, float(np.mean(errors)))]
