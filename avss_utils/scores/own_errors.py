"""Which detector finds a model's own wrong answers: fitted on other questions, or on other sets.

Sets differ in how often a model is right. Answers are compared within their set only, so that no
detector is praised for telling sets apart.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from avss_utils.scores.probes import PENALTY
from avss_utils.stats.detection import MEASURES, areas, detect, fit_detector
from avss_utils.stats.resampling import N_RESAMPLES, Estimate, limits, resample_counts

QUESTIONS, SETS = "held-out questions", "held-out sets"  # what a fitted detector has not seen
PROBE = "probe at the chosen block"
PLAIN = ("summed surprise", "length")  # what a user has without looking into the model
FEWEST = 10  # right and wrong answers of a set, each, that something can be told from
MEAN = "mean over sets"


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
        found = {name: np.empty(len(sets)) for name in (*features, PROBE)}
        for name, x in features.items():
            for test, train in _splits(held):
                fitted = fit_detector(x[train], is_false[train], seed=seed)
                found[name][test] = detect(fitted, x[test])
        for test, train in _splits(held):
            found[PROBE][test] = _probe(states, is_false, train, test, rng)
        parts.append(pd.DataFrame({"scope": scope, "answer": np.arange(len(sets)), **found}))
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


@dataclass(frozen=True)
class Draws:
    """Areas of scores by (score, measure) and set: of the answers as they are, then resampled.

    ``n``: answers by set; only sets with FEWEST of each label are there.
    """

    areas: dict[tuple[str, str], dict[str, np.ndarray]]
    n: dict[str, int]


def detection_draws(table: pd.DataFrame, names: Sequence[str], *, seed: int) -> Draws:
    """Of each of ``names`` every measure of ``stats.detection.areas``, on the same resamples.

    ``table``: one row per answer with set, is_false and a column for each of ``names``, higher for
    the more suspicious answer; questions are drawn anew within sets.
    """
    found = Draws({(score, measure): {} for score in names for measure in MEASURES}, {})
    for name in told_apart(table.is_false.to_numpy(bool), table.set.to_numpy()):
        own = table[table.set == name]
        found.n[name] = len(own)
        weights = resample_counts(len(own), N_RESAMPLES, np.random.default_rng(seed))
        for score in names:
            given = own[score].to_numpy(float), own.is_false.to_numpy(bool), weights
            for measure, drawn in areas(*given).items():
                found.areas[score, measure][name] = drawn
    return found


def detection(draws: Draws) -> pd.DataFrame:
    """How well each score finds the wrong answers, by set and on average over sets.

    Columns: score, set (MEAN: the mean over sets, to each the same weight), measure (auroc; auprc:
    area under the precision-recall curve; aurc: mean share of wrong answers over all coverages,
    lower is better), value, low, high (95 % over questions), n (answers). Empty where no set tells
    anything.
    """
    rows = []
    n = draws.n | {MEAN: sum(draws.n.values())}
    for (score, measure), by_set in draws.areas.items():
        shown = by_set | {MEAN: np.mean(list(by_set.values()), axis=0)} if by_set else {}
        for name, own in shown.items():
            rows.append((score, name, measure, own[0], *limits(own[1:]), n[name]))
    return pd.DataFrame(rows, columns=["score", "set", "measure", "value", "low", "high", "n"])


def gain(draws: Draws, one: str, other: str, *, measure: str = "auroc") -> Estimate | None:
    """How much better ``one`` finds wrong answers than ``other``, on the same resamples.

    The mean over sets of the difference of areas; None where no set tells anything.
    """
    of_one, of_other = draws.areas[one, measure], draws.areas[other, measure]
    if not draws.n:
        return None
    own = np.mean([of_one[name] - of_other[name] for name in draws.n], axis=0)
    return Estimate(float(own[0]), *limits(own[1:]), sum(draws.n.values()))
