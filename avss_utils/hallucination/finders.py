"""What else finds false answers in one set: probes by block, and scores an answer."""

import numpy as np
import pandas as pd

from avss_utils.data.answer_sets import PAIRED
from avss_utils.data.rows import normalised
from avss_utils.hallucination.contrasts import eavss
from avss_utils.hallucination.probes import (
    held_out_scores,
    probe_auroc,
    question_folds,
    training_rows,
)
from avss_utils.hallucination.study import ABSOLUTE, PRIMARY, RELATIVE, SetStudy
from avss_utils.scores.answer_features import answer_features, baseline_scores
from avss_utils.stats.detection import detect, fit_detector

FLAGGED, AT_RANDOM, ALL = "flagged blocks", "random blocks", "all blocks"
PROBE, SPREAD = "probe, middle block", "hidden score, middle block"


class Labels:
    """The true and the false answers of a study's pairs, questions side by side.

    ``rows``: numbers of the answers; ``is_false``, ``question`` and ``text`` (the normalised
    answer, by which borrowed ones are recognised): (n_answers,) each.
    """

    def __init__(self, study: SetStudy) -> None:
        pairs = study.evaluation.pairs(PAIRED)
        self.rows = np.stack([pairs.true, pairs.false], 1).ravel()
        n = len(pairs.true)
        self.is_false = np.tile([False, True], n)
        self.question = np.repeat(np.arange(n), 2)
        answers = [normalised(text) for _, asked in study.evaluation.asked for text in asked]
        self.text = np.array(answers)[self.rows]


def flagged_blocks(study: SetStudy, *, top: int) -> list[int]:
    """The blocks of highest EAVSS, read as a contrast, on the calibration rows."""
    which, site, _ = PRIMARY
    sums, pairs = study.sums(study.before, study.calibration, PAIRED, which, site, ABSOLUTE)
    scores = eavss("contrast", sums, *pairs.weights())[0]
    return sorted(np.argsort(-scores, kind="stable")[:top].tolist())


def flag_table(study: SetStudy, *, top: int) -> pd.DataFrame:
    """``flagged_blocks``: set, block."""
    return pd.DataFrame({"set": study.name, "block": flagged_blocks(study, top=top)})


def probe_table(study: SetStudy, *, n_folds: int) -> pd.DataFrame:
    """``probe_auroc`` of the study's true and false answers: set, block, auroc, low, high, n."""
    own = Labels(study)
    table = probe_auroc(
        study.tokens.states[own.rows],
        own.is_false,
        own.question,
        n_folds=n_folds,
        seed=study.seed,
        texts=own.text,
    )
    return table.assign(set=study.name)


def answer_scores(study: SetStudy, *, top: int, n_folds: int) -> pd.DataFrame:
    """Every score of every answer, a row an answer: set, question, is_false, and a column a score.

    The baselines of ``detection.baseline_scores``; the hidden score and a probe at the middle
    block, where published probes do best; and a logistic regression on variance and sparsity of
    ``top`` blocks: those flagged on the calibration rows, as many at random, and on all of them.
    What is fitted is fitted on other questions than it scores.
    """
    own, tokens = Labels(study), study.tokens
    fold = question_folds(own.question, own.is_false, n_folds=n_folds, seed=study.seed)
    table = baseline_scores(tokens).iloc[own.rows].reset_index(drop=True)
    n_blocks = tokens.states.shape[1]
    middle = n_blocks // 2
    table[SPREAD] = tokens.spread[own.rows, middle]
    states = tokens.states[own.rows, middle].astype(np.float32)
    table[PROBE] = held_out_scores(states, own.is_false, fold, own.text, seed=study.seed)
    at_random = np.random.default_rng(study.seed).choice(n_blocks, top, replace=False)
    chosen = {FLAGGED: flagged_blocks(study, top=top), AT_RANDOM: at_random, ALL: range(n_blocks)}
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
