"""Scores that tell a false answer from a true one, and how well each of them does so.

Every score is higher for the more suspicious answer.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from avss_utils.errors import UsageError
from avss_utils.stats.resampling import N_RESAMPLES, Estimate, limits, resample_counts, safe_ratio

if TYPE_CHECKING:  # a second to import, and few commands need it
    from sklearn.pipeline import Pipeline


MEASURES = ("auroc", "auprc", "aurc")
AT_ONCE = 100  # draws whose counts stay in a processor's cache: twice as fast as all at once


def fit_detector(features: np.ndarray, is_false: np.ndarray, *, seed: int) -> "Pipeline":
    """Logistic regression on standardised features, (n_answers, n_features): a fitted pipeline.

    ``is_false``: (n_answers,) of bool. Fit it on other questions than those that judge it. Raises
    UsageError where all answers have one label, ValueError where a feature is not finite.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    is_false = np.asarray(is_false, bool)
    if len(np.unique(is_false)) < 2:
        raise UsageError(
            f"the {len(is_false)} answers to fit a detector on are not both true and false: "
            "take more questions (answers that share a text with those it judges do not count)"
        )
    model = LogisticRegression(max_iter=1000, random_state=seed)
    return make_pipeline(StandardScaler(), model).fit(features, is_false)


def detect(detector: "Pipeline", features: np.ndarray) -> np.ndarray:
    """P(false) of each answer, (n_answers,) in [0, 1], under the share of false answers fitted."""
    return detector.predict_proba(features)[:, 1]


def auroc_estimate(
    score: np.ndarray,
    is_false: np.ndarray,
    groups: np.ndarray,
    *,
    seed: int,
    within: np.ndarray | None = None,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """Chance that a false answer scores above a true one, ties half; 95 % interval over groups.

    All (n_answers,). Each resample draws whole ``groups`` (questions), whose answers are not
    independent; one without a label widens the interval to infinity. ``within``: compare only
    answers of the same part (fold), whose scores alone are comparable. ``n``: answers. Raises
    ValueError for scores that are not finite, unequal lengths or one label only.
    """
    score, is_false = _checked(score, is_false, groups)
    parts = np.zeros(len(score), dtype=int) if within is None else np.asarray(within)
    weights = _group_counts(groups, n_resamples, seed)
    won, compared = np.zeros((2, len(weights)))
    for part in np.unique(parts):
        own = parts == part
        more, pairs = pairs_won(score[own], is_false[own], weights[:, own])
        won, compared = won + more, compared + pairs
    areas = safe_ratio(won, compared)
    return Estimate(float(areas[0]), *limits(areas[1:]), len(score))


def areas(score: np.ndarray, is_false: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Three measures of a score by weighting, from one sorting of it: name, (n_draws,).

    auroc: the chance that a false answer scores above a true one, ties half; auprc: the area under
    the precision-recall curve, the sum over distinct scores, from the most suspicious, of precision
    times the rise of recall (scikit-learn's ``average_precision_score``), which for a blind score
    is the share of false answers; aurc: as of ``mean_risks``. Arguments as of ``pairs_won``; NaN
    for a draw without a false answer, and in auroc also without a true one.
    """
    parts = []
    for first in range(0, len(weights), AT_ONCE):
        counts = _ranked(score, is_false, weights[first : first + AT_ONCE])
        won = safe_ratio(*_pairs(*counts))
        parts.append(np.stack([won, _precisions(*counts), _risks(*counts)]))
    return dict(zip(MEASURES, np.hstack(parts), strict=True))


def pairs_won(
    score: np.ndarray, is_false: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a false and a true answer that the false one wins, ties half, and all: (n_draws,).

    Their ratio is the area under the curve. ``score``, ``is_false``: (n_answers,). scikit-learn's
    ``roc_auc_score`` takes one weighting; here all resamples at once, ``weights`` of shape
    (n_draws, n_answers), which is a hundred times as fast.
    """
    return _pairs(*_ranked(score, is_false, weights))


def _ranked(
    score: np.ndarray, is_false: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """False and true answers of each distinct score, ascending: (n_scores, n_draws) both."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf) > 0)
    drawn, false = weights.T[order], is_false[order][:, None]
    return np.add.reduceat(drawn * false, starts), np.add.reduceat(drawn * ~false, starts)


def _pairs(false: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    below = true.cumsum(0) - true / 2
    return (false * below).sum(0), false.sum(0) * true.sum(0)


def _precisions(false: np.ndarray, true: np.ndarray) -> np.ndarray:
    false, every = false[::-1], (false + true)[::-1]
    precision = false.cumsum(0) / np.maximum(every.cumsum(0), 1)
    return safe_ratio((precision * false).sum(0), false.sum(0))


def _group_counts(groups: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """How often each answer counts where whole groups are drawn, (1 + n_resamples, n_answers)."""
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    return resample_counts(len(names), n_resamples, np.random.default_rng(seed))[:, group]


def _checked(
    score: np.ndarray, is_false: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    score, is_false = np.asarray(score, float), np.asarray(is_false, bool)
    if not len(score) == len(is_false) == len(groups):
        raise ValueError(
            f"{len(score)} scores, {len(is_false)} labels and {len(groups)} groups: "
            "each answer needs one of each"
        )
    if not np.isfinite(score).all():
        raise ValueError("a score that is not finite ranks no answer")
    if is_false.all() or not is_false.any():
        raise ValueError("ranking false answers above true ones needs both")
    return score, is_false


def risk_coverage(score: np.ndarray, is_false: np.ndarray) -> pd.DataFrame:
    """Share of false answers among those accepted, from the least to the most suspicious.

    Columns: coverage (share accepted, 1/n to 1) and risk (in [0, 1]), one row per answer accepted.
    Among tied answers the order is a coin's: their risk is the expected one. Source: Geifman and
    El-Yaniv 2017 (arXiv 1705.08500).
    """
    score, is_false = np.asarray(score, float), np.asarray(is_false, bool)
    _, tie, size = np.unique(score, return_inverse=True, return_counts=True)
    share = np.bincount(tie, is_false) / size  # of false answers at each distinct score
    accepted = np.arange(1, len(score) + 1)
    risk = np.repeat(share, size).cumsum() / accepted
    return pd.DataFrame({"coverage": accepted / len(score), "risk": risk})


def detection_table(
    scores: Mapping[str, np.ndarray],
    is_false: np.ndarray,
    groups: np.ndarray,
    *,
    seed: int,
) -> pd.DataFrame:
    """How well each score finds the false answers, one row per score, in their order.

    Columns: score, auroc with its 95 % interval low and high (see ``auroc_estimate``), aurc with
    aurc_low and aurc_high (``aurc_estimate``), n (answers). The same resamples serve all scores.
    Raises ValueError as ``auroc_estimate`` does.
    """
    rows = []
    for name, score in scores.items():
        area = auroc_estimate(score, is_false, groups, seed=seed)
        risk = aurc_estimate(score, is_false, groups, seed=seed)
        cells = area.value, area.low, area.high, risk.value, risk.low, risk.high
        rows.append((name, *cells, area.n))
    names = ["auroc", "low", "high", "aurc", "aurc_low", "aurc_high", "n"]
    return pd.DataFrame(rows, columns=["score", *names])


def aurc_estimate(
    score: np.ndarray,
    is_false: np.ndarray,
    groups: np.ndarray,
    *,
    seed: int,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """Area under ``risk_coverage``, with a 95 % interval over groups (questions); all (n_answers,).

    The mean share of false answers over all coverages: that of all answers for a blind score; lower
    is better. Source: Geifman et al. 2019 (arXiv 1805.08206).
    """
    score, is_false = _checked(score, is_false, groups)
    areas = mean_risks(score, is_false, _group_counts(groups, n_resamples, seed))
    return Estimate(float(areas[0]), *limits(areas[1:]), len(score))


def brier_estimate(
    p_false: np.ndarray,
    is_false: np.ndarray,
    groups: np.ndarray,
    *,
    seed: int,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """Mean squared distance of P(false) from the label, with a 95 % interval over groups.

    All (n_answers,). In [0, 1]; lower is better, and p (1 - p) is the score of the share p of false
    answers itself. Source: Brier 1950. Raises ValueError as ``auroc_estimate`` does.
    """
    p_false, is_false = _checked(p_false, is_false, groups)
    weights = _group_counts(groups, n_resamples, seed)
    scores = safe_ratio(weights @ (p_false - is_false) ** 2, weights.sum(1))
    return Estimate(float(scores[0]), *limits(scores[1:]), len(p_false))


def mean_risks(score: np.ndarray, is_false: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of ``risk_coverage`` where each answer is there ``weights`` times, by weighting.

    Among t answers of one score, a share s of them false, after T with F false, the risk is
    (F + s k) / (T + k) for k from 1 to t: its sum has harmonic numbers.
    """
    return _risks(*_ranked(score, is_false, weights))


def _risks(false: np.ndarray, true: np.ndarray) -> np.ndarray:
    size = false + true
    so_far, false_so_far = size.cumsum(0), false.cumsum(0)
    before, false_before = so_far - size, false_so_far - false
    share = false / np.maximum(size, 1)
    harmonic = np.concatenate([[0.0], (1 / np.arange(1, so_far[-1].max() + 1)).cumsum()])
    rise = (false_before - share * before) * (harmonic[so_far] - harmonic[before])
    return (share * size + rise).sum(0) / so_far[-1]
