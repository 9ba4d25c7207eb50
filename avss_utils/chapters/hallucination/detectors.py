"""What else finds false answers in one set: probes by block, and scores an answer."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from avss_utils.scores.answer_features import Labels, answer_features, baseline_scores
from avss_utils.scores.answer_study import RELATIVE, SetStudy
from avss_utils.scores.probes import held_out_scores, question_folds, training_rows
from avss_utils.stats.detection import detect, fit_detector

FLAGGED, AT_RANDOM, ALL = "flagged blocks", "random blocks", "all blocks"
PROBE, SPREAD = "probe, middle block", "hidden score, middle block"
FITTED = (PROBE, FLAGGED, AT_RANDOM, ALL)


def answer_scores(study: SetStudy, flagged: Sequence[int], *, n_folds: int) -> pd.DataFrame:
    """Every score of every answer, one row per answer: set, question, is_false, and the scores.

    The baselines of ``answer_features.baseline_scores``; the hidden score and a probe at the middle
    block, where published probes do best; and a logistic regression on variance and sparsity of
    the ``flagged`` blocks, of as many at random, and of all of them. What is fitted is fitted on
    other questions than it scores.
    """
    own, tokens = Labels(study), study.tokens
    fold = question_folds(own.question, own.is_false, n_folds=n_folds, seed=study.seed)
    if tokens.states is None or tokens.spread is None:
        raise ValueError("a study of detectors keeps its states")
    table = baseline_scores(tokens).iloc[own.rows].reset_index(drop=True)
    n_blocks = tokens.states.shape[1]
    middle = n_blocks // 2
    table[SPREAD] = tokens.spread[own.rows, middle]
    states = tokens.states[own.rows, middle].astype(np.float32)
    table[PROBE] = held_out_scores(states, own.is_false, fold, own.text)
    at_random = np.random.default_rng(study.seed).choice(n_blocks, len(flagged), replace=False)
    chosen = {FLAGGED: flagged, AT_RANDOM: at_random, ALL: range(n_blocks)}
    for name, blocks in chosen.items():
        features = answer_features(tokens, list(blocks), site="residual", limit=RELATIVE)[own.rows]
        table[name] = _cross_fitted(features, own, fold, seed=study.seed)
    first = {"set": study.name, "question": own.question, "is_false": own.is_false}
    return table.assign(**first)[[*first, *table.columns]]


def _cross_fitted(features: np.ndarray, own: Labels, fold: np.ndarray, *, seed: int) -> np.ndarray:
    """P(false) of every answer by a detector of the other folds."""
    found = np.empty(len(features))
    for one in np.unique(fold):
        rest = training_rows(fold, one, own.text)
        detector = fit_detector(features[rest], own.is_false[rest], seed=seed)
        found[fold == one] = detect(detector, features[fold == one])
    return found
