"""What a plan of removed blocks does to answers: choices, own answers, and how sure they are."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from avss_utils.data.answer_sets import Events
from avss_utils.measure.choices import score_choices
from avss_utils.measure.own_answers import ABSTAINED, FALSE, RIGHT, generated_answers
from avss_utils.models.blocks import remove_blocks
from avss_utils.stats.calibration import calibration_floor
from avss_utils.stats.calibration_intervals import calibration_estimate
from avss_utils.stats.resampling import Estimate, corrected_ratio, mean, ratio_of_means

N_BINS = 15
CHANCE = 0.5  # of a choice between the true and the false answer


def choice_rows(
    loaded, sets: Sequence[Events], arm: tuple[str, Iterable[int]], *, batch_tokens: int
) -> pd.DataFrame:
    """Is the true answer likelier than the false one, without the arm's blocks? A row a question.

    ``arm``: (name, dropped). Columns: arm, set, row_id, right (0, 1, ties half), confidence (of the
    likelier answer, the two probabilities scaled to sum to 1; [0.5, 1]).
    """
    name, drop = arm
    model = remove_blocks(loaded.model, drop, share_weights=True)
    parts = []
    for events in sets:
        asked = [(prompt, answers[:2]) for prompt, answers in events.asked]
        prompts, answers = zip(*asked, strict=True)
        options = dict(batch_tokens=batch_tokens)
        scores = np.array(score_choices(model, loaded.tokenizer, prompts, answers, **options))
        gap = scores[:, 0] - scores[:, 1]
        own = {
            "arm": name,
            "set": events.name,
            "row_id": [question.row_id for question in events.questions],
            "right": (1 + np.sign(gap)) / 2,
            "confidence": 1 / (1 + np.exp(-np.abs(gap))),
        }
        parts.append(pd.DataFrame(own))
    return pd.concat(parts, ignore_index=True)


def answer_rows(
    loaded,
    sets: Sequence[Events],
    arm: tuple[str, Iterable[int]],
    *,
    max_new_tokens: int,
    batch_tokens: int,
) -> pd.DataFrame:
    """The model's own answers without the arm's blocks: ``generated_answers``, with column arm."""
    name, drop = arm
    model = remove_blocks(loaded.model, drop, share_weights=True)
    options = dict(max_new_tokens=max_new_tokens, batch_tokens=batch_tokens)
    tables = [generated_answers(replace(loaded, model=model), s, **options)[0] for s in sets]
    return pd.concat(tables, ignore_index=True).assign(arm=name)


def plan_table(choices: pd.DataFrame, answers: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Tidy estimates of every arm and set against "full": arm, set, measure, value, low, high, n.

    Measures: choice accuracy, raw and corrected retention of it (chance: a half), exact match and
    its retention, hallucination rate and abstentions (shares of all questions), ECE (N_BINS equal
    bins), and how far it lies above what perfect calibration would show (excess ECE).
    """
    rows = []
    for (name, arm), own in choices.groupby(["set", "arm"], sort=False):
        full = choices[(choices.set == name) & (choices.arm == "full")]
        measures = _of_choices(own, _in_order(full, own), np.random.default_rng(seed))
        rows += [(arm, name, measure, *_cells(e)) for measure, e in measures.items()]
    for (name, arm), own in answers.groupby(["set", "arm"], sort=False):
        full = answers[(answers.set == name) & (answers.arm == "full")]
        measures = _of_answers(own, _in_order(full, own), np.random.default_rng(seed))
        rows += [(arm, name, measure, *_cells(e)) for measure, e in measures.items()]
    return pd.DataFrame(rows, columns=["arm", "set", "measure", "value", "low", "high", "n"])


def mean_table(plans: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Means over sets of a ``plan_table``, a row an arm and a column a measure, and the sets of
    corrected retention: those where the full model is above chance.

    Elsewhere a ratio to what it has above chance can be anything; NaN where there is no such set.
    """
    whole = plans[(plans.arm == "full") & (plans.measure == "choice accuracy")]
    above = whole[whole.low > CHANCE].set.to_list()
    kept = plans[(plans.measure != "corrected retention") | plans.set.isin(above)]
    means = kept.groupby(["arm", "measure"], sort=False).value.mean().unstack()
    return means.reindex(columns=plans.measure.unique()).rename_axis(columns=None), above


def _in_order(full: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``full`` in the order of ``own``; both must hold the same questions."""
    if set(full.row_id) != set(own.row_id) or len(full) != len(own):
        raise ValueError("an arm and the full model were not asked the same questions")
    return full.set_index("row_id").loc[own.row_id].reset_index()


def _of_choices(own: pd.DataFrame, full: pd.DataFrame, rng) -> dict[str, Estimate]:
    right, whole = own.right.to_numpy(), full.right.to_numpy()
    sure = own.confidence.to_numpy()
    floor = calibration_floor(sure, n_bins=N_BINS, rng=rng)
    error = calibration_estimate(sure, right, n_bins=N_BINS, rng=rng)
    shifted = Estimate(error.value - floor, error.low - floor, error.high - floor, error.n)
    return {
        "choice accuracy": mean(right, rng=rng),
        "raw retention": ratio_of_means(right, whole, rng=rng),
        "corrected retention": corrected_ratio(right, whole, np.full(len(right), CHANCE), rng=rng),
        "ECE": error,
        "excess ECE": shifted,
    }


def _of_answers(own: pd.DataFrame, full: pd.DataFrame, rng) -> dict[str, Estimate]:
    shares = {"exact match": RIGHT, "hallucination rate": FALSE, "abstentions": ABSTAINED}
    found = {
        measure: mean((own.label == label).to_numpy(float), rng=rng)
        for measure, label in shares.items()
    }
    right, whole = ((t.label == RIGHT).to_numpy(float) for t in (own, full))
    return found | {"exact match retention": ratio_of_means(right, whole, rng=rng)}


def _cells(e: Estimate) -> tuple[float, float, float, int]:
    return e.value, e.low, e.high, e.n
