"""A model before and after training: held-out answers, and what it costs on neutral text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from avss_utils.chapters.mitigation.trial_outcomes import (
    choice_arrays,
    choice_outcomes,
    divergence_rows,
)
from avss_utils.claims.verdicts import FAILS, HOLDS, Needs
from avss_utils.data.answer_sets import PLAIN, Events
from avss_utils.data.windows import Window
from avss_utils.measure.judging import bits_per_byte
from avss_utils.measure.texts import window_likelihoods
from avss_utils.models.load import LoadedModel
from avss_utils.stats.calibration import expected_calibration_error
from avss_utils.stats.resampling import N_RESAMPLES, Estimate, limits, moved_onto, resample_counts

if TYPE_CHECKING:  # seconds to import, and who reads a record needs no model
    from transformers import PreTrainedModel

N_BINS = 10
RATE = "hallucination rate"


def before_and_after(
    before: LoadedModel,
    after: LoadedModel,
    events: Events,
    windows: Sequence[Window],
    *,
    batch_tokens: int,
    seed: int,
) -> pd.DataFrame:
    """What changed on held-out questions and on neutral text; one row per measure.

    Columns: measure, before, after, change (after less before) with its 95 % interval low and high
    over questions, or over windows for the costs, n. Measures: mc1 and mc2 (``choice_outcomes``),
    hallucination rate (a false answer is likelier than the true one), calibration error (N_BINS
    bins), bits per byte, and the divergence from the model before (nats a token).
    """
    scores = (
        choice_arrays(loaded, events, wording=PLAIN, batch_tokens=batch_tokens)[0]
        for loaded in (before, after)
    )
    one, two = (choice_outcomes(events, own).astype({"correct": float}) for own in scores)
    weights = resample_counts(len(one), N_RESAMPLES, np.random.default_rng(seed))
    rows = [
        _mean_row("mc1", one.correct, two.correct, weights),
        _mean_row("mc2", one.p_true, two.p_true, weights),
        _mean_row(RATE, 1 - one.correct, 1 - two.correct, weights),
        _error_row(one, two, weights[:301]),
    ]
    models = (before.model, after.model)
    rows += _cost_rows(models, windows, batch_tokens=batch_tokens, seed=seed)
    names = ["measure", "before", "after", "change", "low", "high", "n"]
    return pd.DataFrame(rows, columns=names)


def _mean_row(measure: str, one: pd.Series, two: pd.Series, weights: np.ndarray) -> tuple:
    change = weights @ (two - one).to_numpy() / len(one)
    return measure, one.mean(), two.mean(), change[0], *limits(change[1:]), len(one)


def _error_row(one: pd.DataFrame, two: pd.DataFrame, weights: np.ndarray) -> tuple:
    """Draws are moved to have the change as their mean: resampling itself adds to both errors."""
    draws = [np.repeat(np.arange(len(one)), counts) for counts in weights]
    errors = np.array([[_error(table.iloc[rows]) for table in (one, two)] for rows in draws])
    change = errors[:, 1] - errors[:, 0]
    spread = limits(moved_onto(change[0], change[1:]))
    return "calibration error", *errors[0], change[0], *spread, len(one)


def _error(table: pd.DataFrame) -> float:
    return expected_calibration_error(
        table.confidence.to_numpy(), table.correct.to_numpy(), n_bins=N_BINS
    )


def _cost_rows(
    models: "tuple[PreTrainedModel, PreTrainedModel]",
    windows: Sequence[Window],
    *,
    batch_tokens: int,
    seed: int,
) -> list[tuple]:
    texts = [window_likelihoods(model, windows, batch_tokens=batch_tokens) for model in models]
    kl = divergence_rows(*models, windows, batch_tokens=batch_tokens)
    weights = resample_counts(len(kl), N_RESAMPLES, np.random.default_rng(seed))
    bits = (texts[1].nll - texts[0].nll).to_numpy() / np.log(2)
    change = (weights @ bits) / (weights @ texts[0].n_bytes.to_numpy())
    each = (weights @ kl.kl.to_numpy()) / (weights @ kl.n_tokens.to_numpy())
    n = len(kl)
    return [
        ("bits per byte", *map(bits_per_byte, texts), change[0], *limits(change[1:]), n),
        ("divergence", 0.0, each[0], each[0], *limits(each[1:]), n),
    ]


def rate_verdict(table: pd.DataFrame) -> str:
    """Whether the hallucination rate fell, of a table of ``before_and_after``: shown, contradicted
    (it rose), or not shown.
    """
    row = table[table.measure == RATE].iloc[0]
    state = Needs("below", 0.0).state(Estimate(row.change, row.low, row.high, int(row.n)))
    return {HOLDS: "shown", FAILS: "contradicted (it rose)"}.get(state, "not shown")
