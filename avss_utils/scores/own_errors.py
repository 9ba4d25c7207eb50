"""Which detector finds a model's own wrong answers: fitted on other questions, or on other sets.

Sets differ in how often a model is right. Answers are compared within their set only, so that no
detector is praised for telling sets apart.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from avss_utils.scores.probes import PENALTY
from avss_utils.stats.detection import (
    average_precisions,
    detect,
    fit_detector,
    mean_risks,
    pairs_won,
)
from avss_utils.stats.resampling import N_RESAMPLES, Estimate, limits, resample_counts, safe_ratio

QUESTIONS, SETS = "held-out questions", "held-out sets"  # what a fitted detector has not seen
PROBE = "probe at the chosen block"
PLAIN = ("summed surprise", "length")  # what a user has without looking into the model
FEWEST = 10  # right and wrong answers of a set, each, that something can be told from
MEAN = "mean over sets"
MEASURES = {  # of all resamples at once
    "auroc": lambda *given: safe_ratio(*pairs_won(*given)),
    "auprc": average_precisions,
    "aurc": mean_risks,
}


def told_apart(is_false: np.ndarray, sets: np.ndarray) -> list[str]:
    """Names of the sets with at least FEWEST answers of each label, in their order."""
    names = dict.fromkeys(sets.tolist())
    wrong = {name: is_false[sets == name] for name in names}
    return [n for n, own in wrong.items() if min(own.sum(), (~own).sum()) >= FEWEST]


def fitted_scores(
    features: Mapping[str, np.ndarray],
    states: np.ndarray,
    is_false: np.ndarray,
    sets: np.ndarray,
    *,
    n_folds: int,
    seed: int,
) -> pd.DataFrame:
    """P(false) or a probe's score of every answer, by detectors that have not seen it.

    ``features``: by the detector's name, (n_answers, n_features), for a logistic regression;
    ``states``: (n_answers, n_blocks, width), for PROBE, whose block is chosen on the answers that
    it is fitted on; ``is_false`` and ``sets``: (n_answers,). Columns: scope (QUESTIONS: ``n_folds``
    of each set's questions; SETS: each set in turn), answer (its number), and one per detector.
    """
    rng = np.random.default_rng(seed)
    dealt = np.empty(len(sets), int)
    for name in np.unique(sets):
        own = np.flatnonzero(sets == name)
        dealt[own] = rng.permutation(len(own)) % n_folds
    parts = []
    for scope, held in ((QUESTIONS, dealt), (SETS, np.unique(sets, return_inverse=True)[1])):
        table = {"scope": scope, "answer": np.arange(len(sets))}
        for name, x in features.items():
            table[name] = np.empty(len(sets))
            for test, train in _splits(held):
                fitted = fit_detector(x[train], is_false[train], seed=seed)
                table[name][test] = detect(fitted, x[test])
        table[PROBE] = np.empty(len(sets))
        for test, train in _splits(held):
            table[PROBE][test] = _probe(states, is_false, train, test, rng)
        parts.append(pd.DataFrame(table))
    return pd.concat(parts, ignore_index=True)


def _splits(held: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(judged, fitted on) for each part in turn, (n_answers,) of bool each."""
    for part in np.unique(held):
        yield held == part, held != part


def _probe(
    states: np.ndarray,
    is_false: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Scores of ``test`` by a ridge probe of ``train``, at the block that does best within it."""
    own = rng.permutation(np.flatnonzero(train))
    first, second = own[: len(own) // 2], own[len(own) // 2 :]
    areas = [
        auroc(_ridge(states[:, block], is_false, first, second), is_false[second])
        for block in range(states.shape[1])
    ]
    return _ridge(states[:, int(np.argmax(areas))], is_false, own, np.flatnonzero(test))


def _ridge(x: np.ndarray, is_false: np.ndarray, fit: np.ndarray, judge: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import Ridge  # a second, and few commands need it
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), Ridge(PENALTY * len(fit), solver="cholesky"))
    probe.fit(x[fit].astype(np.float32), is_false[fit].astype(np.float32))
    return probe.predict(x[judge].astype(np.float32))


def auroc(score: np.ndarray, is_false: np.ndarray) -> float:
    """Chance that a false answer scores above a true one, ties half; a half without both."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(is_false, score)) if 0 < is_false.sum() < len(is_false) else 0.5


def block_features(
    rows: pd.DataFrame, blocks: Sequence[int], *, scores: Sequence[str] = ("HSAV", "HSS")
) -> np.ndarray:
    """Statistics of some blocks as features, (n_answers, len(scores) * len(blocks)).

    ``rows``: as of ``Said.block_rows``, answers in the same order for each score.
    """
    columns = [f"b{block}" for block in blocks]
    return np.hstack([rows.loc[rows.score == s, columns].to_numpy(float) for s in scores])


def detection(table: pd.DataFrame, names: Sequence[str], *, seed: int) -> pd.DataFrame:
    """How well each score finds the wrong answers, by set and on average over sets.

    ``table``: one row per answer with set, is_false and a column for each of ``names``, higher for
    the more suspicious answer. Columns: score, set (MEAN: the mean over sets with FEWEST answers of
    each label, to each the same weight), measure (auroc; auprc: area under the precision-recall
    curve; aurc: mean share of wrong answers over all coverages, lower is better), value, low, high
    (95 % over questions, drawn anew within sets), n (answers). Empty where no set tells anything.
    """
    draws = detection_draws(table, names, seed=seed)
    rows = []
    for (score, measure), by_set in draws.items():
        n = {name: int((table.set == name).sum()) for name in by_set}
        shown = by_set | {MEAN: np.mean(list(by_set.values()), axis=0)} if by_set else {}
        n[MEAN] = sum(n.values())
        for name, own in shown.items():
            rows.append((score, name, measure, own[0], *limits(own[1:]), n[name]))
    return pd.DataFrame(rows, columns=["score", "set", "measure", "value", "low", "high", "n"])


def gain(
    table: pd.DataFrame, one: str, other: str, *, seed: int, measure: str = "auroc"
) -> Estimate | None:
    """How much better ``one`` finds wrong answers than ``other``, on the same resamples.

    The mean over sets of the difference of areas; None where no set tells anything.
    """
    draws = detection_draws(table, [one, other], seed=seed, measures=[measure])
    by_set = [draws[one, measure][n] - draws[other, measure][n] for n in draws[one, measure]]
    if not by_set:
        return None
    own = np.mean(by_set, axis=0)
    n = int(table.set.isin(draws[one, measure]).sum())
    return Estimate(float(own[0]), *limits(own[1:]), n)


def detection_draws(
    table: pd.DataFrame,
    names: Sequence[str],
    *,
    seed: int,
    measures: Sequence[str] = tuple(MEASURES),
) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """By (score, measure), by set: that of the answers as they are, then of each resample."""
    found: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    usable = told_apart(table.is_false.to_numpy(bool), table.set.to_numpy())
    for score in names:
        for measure in measures:
            found[score, measure] = {}
        for name in usable:
            own = table[table.set == name]
            weights = resample_counts(len(own), N_RESAMPLES, np.random.default_rng(seed))
            given = own[score].to_numpy(float), own.is_false.to_numpy(bool), weights
            for measure in measures:
                found[score, measure][name] = MEASURES[measure](*given)
    return found
