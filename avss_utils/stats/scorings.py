"""Two ways to score choices, summed and by length, and which of them a set is judged by.

Summed log-probability favours short choices, and by length long ones. Which puts the full model
above chance differs from set to set, so that it is chosen by the full model on development rows.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from avss_utils.stats.outcomes import OutcomeTable
from avss_utils.stats.resampling import bootstrap
from avss_utils.stats.retention import BASELINE, blind_guess

SUM, PER_BYTE = "sum", "per byte"
SCORINGS = {SUM: ("prediction", "correct"), PER_BYTE: ("prediction_per_byte", "correct_per_byte")}
COLUMNS = ["set", "scoring", "value", "low", "high", "n", "chosen", "above_chance"]


def scoring_table(
    answers: pd.DataFrame, *, arm: str = BASELINE, wording: str = "plain", seed: int
) -> pd.DataFrame:
    """How far above chance an arm is in either scoring, by set: the choice, and what it rests on.

    ``answers``: development rows of ``measure.judging.answer_questions`` with ``per_byte=True``.
    ``value``: accuracy corrected for chance, 0 for a blind guess (``blind_guess``) and 1 for all
    right, with its 95 % interval over questions; both scorings have the same resamples.
    ``chosen``: the higher value, of equals the sum; ``above_chance``: ``low`` is above 0. Columns:
    COLUMNS, two rows a set.
    """
    outcomes, rows = OutcomeTable(answers), []
    for name in outcomes.sets(wording):
        label = outcomes.of(arm, name, (wording, "label"))[0]
        blind = blind_guess(name, label, outcomes.chance(name, wording))
        found = {}
        for scoring, (_, column) in SCORINGS.items():
            right, rng = outcomes.of(arm, name, (wording, column))[0], np.random.default_rng(seed)
            found[scoring] = bootstrap(_corrected, right - blind, 1 - blind, rng=rng)
        best = max(found, key=lambda scoring: found[scoring].value)  # the first of equals
        for scoring, own in found.items():
            cells = own.value, own.low, own.high, own.n
            rows.append((name, scoring, *cells, scoring == best, own.low > 0))
    return pd.DataFrame(rows, columns=COLUMNS)


def chosen_scorings(table: pd.DataFrame) -> dict[str, str]:
    """The scoring that each set of a ``scoring_table`` is judged by."""
    chosen = table[table.chosen]
    return dict(zip(chosen["set"], chosen.scoring, strict=True))


def judged_by(answers: pd.DataFrame, scorings: Mapping[str, str]) -> pd.DataFrame:
    """The same rows, each set in its scoring: ``prediction`` and ``correct`` are those of it, and
    ``scoring`` names it; the columns of the other are gone.

    ``p_true`` and ``beaten`` stay those of the sum. Raises KeyError for a set without a scoring.
    """
    judged = answers.assign(scoring=[scorings[name] for name in answers["set"]])
    for column, other in zip(SCORINGS[SUM], SCORINGS[PER_BYTE], strict=True):
        judged[column] = judged[column].where(judged.scoring == SUM, judged[other])
    return judged.drop(columns=list(SCORINGS[PER_BYTE]))


def _corrected(gain: np.ndarray, room: np.ndarray, axis: int) -> np.ndarray:
    return gain.mean(axis) / room.mean(axis)
