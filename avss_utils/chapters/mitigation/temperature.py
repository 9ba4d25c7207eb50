"""How honest the confidence in a choice is, by arm; and what one temperature does, untrained."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from avss_utils.chapters.mitigation.answer_choices import as_scores
from avss_utils.chapters.mitigation.effects import CHOICES
from avss_utils.chapters.mitigation.outcomes import (
    UNTRAINED,
    Outcomes,
    Statistic,
    calibration_error,
    mean_of,
    paired_draws,
)
from avss_utils.stats.calibration import calibration_floor, debiased_calibration_error
from avss_utils.stats.choice_confidence import choice_confidence, temperature
from avss_utils.stats.detection import mean_risks, pairs_won
from avss_utils.stats.resampling import limits, moved_onto, safe_ratio

TEMPERED = "one temperature"
ERROR = "ECE, 15 bins"
FLOOR, DEBIASED = "its floor", "debiased"


def mc1_scores(choices: pd.DataFrame) -> list[np.ndarray]:
    """Of each row of ``measures.choice_table``: the canonical answer's score, then the false ones'.

    These are the choices that mc1 and confidence are about; nats.
    """
    columns = (choices.scores, choices.n_true, choices.n_choices)
    return [as_scores(cell)[[0, *range(n, k)]] for cell, n, k in zip(*columns, strict=True)]


def temperatures(development: pd.DataFrame) -> dict[str, float]:
    """``confidence.temperature`` by set, of ``choice_table`` rows; "" has the one of all sets."""
    parts = [("", development), *development.groupby("set", sort=False)]
    return {
        name: temperature(mc1_scores(own), np.zeros(len(own), dtype=int)) for name, own in parts
    }


def tempered(
    untrained: pd.DataFrame, fitted: dict[str, float]
) -> dict[tuple[str, str], np.ndarray]:
    """mc1 and confidence by set under each set's temperature, for ``Outcomes.add``.

    ``untrained``: rows of ``choice_table``. A set that none was fitted for has the one of all. What
    is chosen stays; only confidence moves.
    """
    found = {}
    for name, own in untrained.groupby("set", sort=False):
        at = fitted.get(name, fitted[""])
        found[name, "mc1"] = own.mc1.to_numpy()
        found[name, "confidence"] = choice_confidence(mc1_scores(own), temperature=at)[1]
    return found


def _squared(right: np.ndarray, sure: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return mean_of((sure - right) ** 2, weights)


def _area(right: np.ndarray, sure: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return safe_ratio(*pairs_won(-sure, right < 0.5, weights))


def _risk(right: np.ndarray, sure: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return mean_risks(-sure, right < 0.5, weights)


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
    outcomes: Outcomes, arms: Iterable[str], name: str, *, seed: int, n_resamples: int = 1000
) -> pd.DataFrame:
    """Every measure of confidence in choices on one set, a row an arm and measure.

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
            own, before, n = paired_draws(outcomes, *pair, rng=rng, n_resamples=n_resamples)
            for label, draws in ((measure, own), (f"change of {measure}", own - before)):
                if arm == UNTRAINED and label != measure:
                    continue
                moved = moved_onto(draws[0], draws[1:]) if "ECE" in measure else draws[1:]
                rows.append((name, arm, label, draws[0], *limits(moved), n))
        rows += [
            (name, arm, label, x, np.nan, np.nan, n) for label, x in _plain(outcomes, arm, name)
        ]
    return pd.DataFrame(rows, columns=["set", "arm", "measure", "value", "low", "high", "n"])


def _plain(outcomes: Outcomes, arm: str, name: str) -> list[tuple[str, float]]:
    """FLOOR and DEBIASED, the mean over seeds."""
    right, sure = (outcomes.of(arm, name, measure) for measure in CHOICES)
    rng = np.random.default_rng(0)
    floors = [calibration_floor(own, n_bins=15, n_draws=200, rng=rng) for own in sure]
    pairs = zip(sure, right, strict=True)
    errors = [debiased_calibration_error(*pair, n_bins=15) for pair in pairs]
    return [(FLOOR, float(np.mean(floors))), (DEBIASED, float(np.mean(errors)))]
