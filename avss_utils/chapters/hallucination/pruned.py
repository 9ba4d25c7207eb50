"""What a plan of removed blocks does to answers: choices, own answers, and how sure they are."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from avss_utils.data.answer_sets import Events
from avss_utils.measure.choices import score_choices
from avss_utils.measure.own_answers import ABSTAINED, FALSE, generated_answers
from avss_utils.models.blocks import remove_blocks
from avss_utils.models.load import LoadedModel
from avss_utils.stats.calibration import calibration_floor
from avss_utils.stats.outcomes import OutcomeTable
from avss_utils.stats.paired import as_estimate, calibration_error, compared, mean_of
from avss_utils.stats.resampling import N_RESAMPLES, Estimate, resample_counts
from avss_utils.stats.retention import BASELINE

N_BINS = 15
CHANCE = 0.5  # of a choice between the true and the false answer


def choice_rows(
    loaded: LoadedModel,
    sets: Sequence[Events],
    arm: tuple[str, Iterable[int]],
    *,
    batch_tokens: int,
) -> pd.DataFrame:
    """Is the true answer likelier than the false one, without the arm's blocks? One row per
    question.

    ``arm``: (name, dropped). Columns: arm, set, row_id, correct (0, 1, ties half), confidence (of
    the likelier answer, the two probabilities scaled to sum to 1; [0.5, 1]).
    """
    name, drop = arm
    model = remove_blocks(loaded.model, drop, share_weights=True)
    parts = []
    for events in sets:
        asked = [(prompt, answers[:2]) for prompt, answers in events.asked]
        prompts, answers = zip(*asked, strict=True)
        found = score_choices(model, loaded.tokenizer, prompts, answers, batch_tokens=batch_tokens)
        scores = np.array(found)
        gap = scores[:, 0] - scores[:, 1]
        own = {
            "arm": name,
            "set": events.name,
            "row_id": [question.row_id for question in events.questions],
            "correct": (1 + np.sign(gap)) / 2,
            "confidence": 1 / (1 + np.exp(-np.abs(gap))),
        }
        parts.append(pd.DataFrame(own))
    return pd.concat(parts, ignore_index=True)


def answer_rows(
    loaded: LoadedModel,
    sets: Sequence[Events],
    arm: tuple[str, Iterable[int]],
    *,
    max_new_tokens: int,
    batch_tokens: int,
) -> pd.DataFrame:
    """``generated_answers`` of the model without the arm's blocks, with a column arm."""
    name, drop = arm
    model = remove_blocks(loaded.model, drop, share_weights=True)
    options = dict(max_new_tokens=max_new_tokens, batch_tokens=batch_tokens)
    tables = [generated_answers(replace(loaded, model=model), s, **options)[0] for s in sets]
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "arm", name)
    return table


def plan_table(choices: pd.DataFrame, answered: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Tidy estimates of every arm and set against "full": arm, set, measure, value, low, high, n.

    Measures: choice accuracy, raw and corrected retention of it (chance: a half), exact match and
    its retention, hallucination rate and abstentions (shares of all questions), ECE (N_BINS equal
    bins), and how far it lies above what perfect calibration would show (excess ECE). The same
    questions of a set are drawn anew for all arms.
    """
    label = answered.label
    others = {"hallucination rate": label == FALSE, "abstentions": label == ABSTAINED}
    tables = {_of_choices: choices, _of_answers: answered.assign(**others)}
    rows = []
    for measured, table in tables.items():
        outcomes = OutcomeTable(table)
        for name in outcomes.sets():
            n = len(outcomes.questions(name))
            weights = resample_counts(n, N_RESAMPLES, np.random.default_rng(seed))
            for arm in outcomes.arms:
                for measure, e in measured(outcomes, arm, name, weights, seed).items():
                    rows.append((arm, name, measure, e.value, e.low, e.high, e.n))
    return pd.DataFrame(rows, columns=["arm", "set", "measure", "value", "low", "high", "n"])


def mean_table(plans: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Means over sets of a ``plan_table``, one row per arm and one column per measure, and the sets
    of corrected retention: those where the full model is above chance.

    Elsewhere a ratio to what it has above chance can be anything; NaN where there is no such set.
    """
    whole = plans[(plans.arm == "full") & (plans.measure == "choice accuracy")]
    above = whole[whole.low > CHANCE].set.to_list()
    kept = plans[(plans.measure != "corrected retention") | plans.set.isin(above)]
    means = kept.groupby(["arm", "measure"], sort=False).value.mean().unstack()
    return means.reindex(columns=plans.measure.unique()).rename_axis(columns=None), above


def _of_choices(
    outcomes: OutcomeTable, arm: str, name: str, weights: np.ndarray, seed: int
) -> dict[str, Estimate]:
    """Estimates of an arm's choices between the true and the false answer."""
    right, sure = (outcomes.of(arm, name, measure)[0] for measure in ("correct", "confidence"))
    whole = outcomes.of(BASELINE, name)[0]
    ours, theirs = mean_of(right, weights), mean_of(whole, weights)
    above, full = (mean_of(x - CHANCE, weights) for x in (right, whole))
    draws = {
        "choice accuracy": ours,
        "raw retention": compared(ours, theirs, "retention"),
        "corrected retention": compared(above, full, "retention"),
    }
    found = {measure: as_estimate(own, len(right)) for measure, own in draws.items()}
    error = calibration_error(N_BINS)(right, sure, weights)
    floor = calibration_floor(sure, n_bins=N_BINS, rng=np.random.default_rng(seed))
    for measure, own in (("ECE", error), ("excess ECE", error - floor)):
        found[measure] = as_estimate(own, len(right), moved=True)
    return found


def _of_answers(
    outcomes: OutcomeTable, arm: str, name: str, weights: np.ndarray, seed: int
) -> dict[str, Estimate]:
    """Estimates of an arm's own answers."""
    columns = {"exact match": "correct"} | {m: m for m in ("hallucination rate", "abstentions")}
    draws = {
        measure: mean_of(outcomes.of(arm, name, column)[0], weights)
        for measure, column in columns.items()
    }
    whole = mean_of(outcomes.of(BASELINE, name)[0], weights)
    draws["exact match retention"] = compared(draws["exact match"], whole, "retention")
    return {measure: as_estimate(own, weights.shape[1]) for measure, own in draws.items()}
