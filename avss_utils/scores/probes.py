"""Where the residual tells false answers from true ones in a straight line: probes by block."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from avss_utils.scores.answer_features import Labels
from avss_utils.scores.answer_study import SetStudy
from avss_utils.stats.block_profiles import autoregressive_p, rank_correlation
from avss_utils.stats.detection import auroc_estimate

PENALTY = 1.0  # a training answer: as strong as the features' own variance


def probe_auroc(
    states: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    *,
    n_folds: int,
    seed: int,
    texts: np.ndarray | None = None,
) -> pd.DataFrame:
    """AUROC of a linear probe for "false" at each block, on questions it was not fitted on.

    ``states``: residual of each answer's last token, (n_answers, n_blocks, width), float16
    allowed; ``labels``: True for a false answer, and ``groups``: its question, (n_answers,) each.
    Questions are dealt to ``n_folds`` folds by ``seed``, the same for every block: none is both
    fitted and judged. ``texts``, (n_answers,), name equal answers of different questions: a fold is
    not judged by a probe that has seen its answers elsewhere (``training_rows``). Scores are
    compared within folds only, since each has its own probe.

    Columns: block, auroc in [0, 1], low, high, n (answers). The 95 % interval draws questions with
    their held-out scores, the probes as fitted. It holds what it says where the states tell much,
    and is too narrow near chance, where which answers were fitted matters as much: of 300 blocks
    that told nothing (600 answers) 84 % had 0.5 in it. Judge those against shuffled labels.
    Raises ValueError for fewer questions than folds, a fold without both labels, unequal lengths or
    states that are not finite.

    The probe is ridge regression on the labels, states standardised on the training folds: Fisher's
    discriminant with its covariance shrunk half-way to the identity (Friedman 1989). The penalty is
    fixed beforehand, and strong because a block has about as many units as there are answers.
    Logistic regression with C = 0.01 had the same AUROC to 0.01 at four times the time. Probes of
    layers: Alain and Bengio 2016 (arXiv 1610.01644); for truth: Azaria and Mitchell 2023 (arXiv
    2304.13734).
    """
    labels, groups = np.asarray(labels, bool), np.asarray(groups)
    if not len(states) == len(labels) == len(groups):
        raise ValueError(f"{len(states)} states, {len(labels)} labels and {len(groups)} groups")
    fold = question_folds(groups, labels, n_folds=n_folds, seed=seed)
    rows = []
    for block in range(states.shape[1]):
        score = held_out_scores(states[:, block].astype(np.float32), labels, fold, texts)
        found = auroc_estimate(score, labels, groups, seed=seed, within=fold)
        rows.append((block, found.value, found.low, found.high, found.n))
    return pd.DataFrame(rows, columns=["block", "auroc", "low", "high", "n"])


def question_folds(
    groups: np.ndarray, labels: np.ndarray, *, n_folds: int, seed: int
) -> np.ndarray:
    """Fold of each answer: whole groups, shuffled (``GroupKFold`` shuffles from 1.6 on only).

    Raises ValueError for fewer groups than folds, or a fold without both labels.
    """
    names, number = np.unique(groups, return_inverse=True)
    if not 2 <= n_folds <= len(names):
        raise ValueError(f"{len(names)} questions make no {n_folds} folds")
    fold = np.random.default_rng(seed).permutation(len(names))[number] % n_folds
    for one in range(n_folds):
        if len(np.unique(labels[fold == one])) < 2:
            raise ValueError(f"one of {n_folds} folds lacks false or true answers: take fewer")
    return fold


def training_rows(fold: np.ndarray, held_out: int, texts: np.ndarray | None) -> np.ndarray:
    """What a model for one fold may learn from, (n_answers,) of bool: no answer of that fold.

    Where a false answer is borrowed, its text is another question's true one: whoever has seen it
    there with the other label is wrong here for that alone.
    """
    rest = fold != held_out
    return rest if texts is None else rest & ~np.isin(texts, texts[~rest])


def held_out_scores(
    x: np.ndarray, labels: np.ndarray, fold: np.ndarray, texts: np.ndarray | None
) -> np.ndarray:
    """Score of every answer by the probe of the other folds, (n_answers,); ``x``: (n, width)."""
    from sklearn.linear_model import Ridge  # a second, and few commands need it
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    score = np.empty(len(x))
    for one in np.unique(fold):
        rest = training_rows(fold, one, texts)
        probe = make_pipeline(StandardScaler(), Ridge(PENALTY * rest.sum(), solver="cholesky"))
        probe.fit(x[rest], labels[rest].astype(np.float32))
        score[fold == one] = probe.predict(x[fold == one])
    return score


def probe_agreement(
    auroc_by_block: np.ndarray, scores_by_block: Mapping[str, np.ndarray], *, seed: int
) -> pd.DataFrame:
    """Are the blocks that a score flags those where probes tell false from true? One row per score.

    ``auroc_by_block``: (n_blocks,), as of ``probe_auroc``; ``scores_by_block``: by name, the same
    shape. Columns: score, rho (Spearman over blocks), p_shift (of ``rank_correlation``, which turns
    the AUROC around over depth), p_ar (of ``autoregressive_p``: profiles as smooth as the AUROC), n
    (blocks). Raises ValueError for a profile that does not vary or is not finite.
    """
    rows = []
    for name, score in scores_by_block.items():
        found = rank_correlation(score, auroc_by_block)
        p_ar = autoregressive_p(score, auroc_by_block, rng=np.random.default_rng(seed))
        rows.append((name, found.rho, found.p_value, p_ar, found.n))
    return pd.DataFrame(rows, columns=["score", "rho", "p_shift", "p_ar", "n"])


def probe_table(study: SetStudy, *, n_folds: int) -> pd.DataFrame:
    """``probe_auroc`` of the study's true and false answers: set, block, auroc, low, high, n."""
    own, states = Labels(study), study.tokens.states
    if states is None:
        raise ValueError("probes need states: make the study with keep_states=True")
    table = probe_auroc(
        states[own.rows],
        own.is_false,
        own.question,
        n_folds=n_folds,
        seed=study.seed,
        texts=own.text,
    )
    return table.assign(set=study.name)
