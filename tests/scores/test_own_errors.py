"""Detectors of a model's own errors: fitted without what they judge, compared within sets."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from avss_utils.scores.own_errors import (
    FEWEST,
    MEAN,
    PROBE,
    QUESTIONS,
    SETS,
    block_features,
    detection,
    detection_draws,
    fitted_scores,
    gain,
    told_apart,
)
from avss_utils.stats.detection import AT_ONCE, areas, risk_coverage

N_EACH = 60
NAMES = ["a", "b", "c"]


def made(seed: int = 0) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    """Random numbers, labels (True in four of ten) and sets of three times N_EACH answers."""
    rng = np.random.default_rng(seed)
    return rng, rng.random(3 * N_EACH) < 0.4, np.repeat(NAMES, N_EACH)


def fitted(seed: int = 0, *, told: float, in_states: float = 0.0) -> pd.DataFrame:
    """Fitted scores where one feature tells ``told`` and block 2's states ``in_states``."""
    rng, is_false, sets = made(seed)
    features = {"one": rng.standard_normal((len(sets), 3)), "none": rng.standard_normal((180, 2))}
    features["one"][:, 1] += told * is_false
    states = rng.standard_normal((len(sets), 4, 5))
    states[:, 2, 3] += in_states * is_false
    found = fitted_scores(features, states, is_false, sets, n_folds=5, seed=1)
    return found.assign(is_false=is_false[found.answer], set=sets[found.answer])


def area(found: pd.DataFrame, scope: str, name: str) -> float:
    own = found[found.scope == scope]
    return roc_auc_score(own.is_false, own[name])


def test_what_tells_is_found_on_held_out_questions_and_sets_and_nothing_else():
    found = fitted(told=4.0, in_states=4.0)
    for scope in (QUESTIONS, SETS):
        assert area(found, scope, "one") > 0.95
        assert area(found, scope, PROBE) > 0.9
        assert 0.3 < area(found, scope, "none") < 0.65


def test_labels_are_never_seen_where_they_are_judged():
    """As many features as answers fit any labels: what is judged with what was seen is perfect."""
    rng, is_false, sets = made()
    wide = {"wide": rng.standard_normal((len(sets), 400))}
    states = rng.standard_normal((len(sets), 2, 400))
    found = fitted_scores(wide, states, is_false, sets, n_folds=5, seed=0)
    found = found.assign(is_false=is_false[found.answer])
    for scope in (QUESTIONS, SETS):
        for name in ("wide", PROBE):
            assert 0.3 < area(found, scope, name) < 0.7


def test_every_answer_has_one_score_in_each_scope():
    found = fitted(told=1.0)
    assert (found.groupby(["scope", "answer"]).size() == 1).all()
    assert found.notna().all(axis=None)
    assert len(found) == 2 * 3 * N_EACH


def test_a_detector_of_other_sets_knows_nothing_of_what_only_its_set_shows():
    rng, is_false, sets = made()
    feature = rng.standard_normal((len(sets), 1))
    feature[sets == "a", 0] += 5 * is_false[sets == "a"]
    feature[sets != "a", 0] -= 5 * is_false[sets != "a"]
    states = rng.standard_normal((len(sets), 2, 3))
    found = fitted_scores({"one": feature}, states, is_false, sets, n_folds=5, seed=0)
    own = found[(found.scope == SETS) & (sets[found.answer] == "a")]
    assert roc_auc_score(is_false[own.answer], own.one) < 0.2


def test_sets_of_few_right_or_wrong_answers_tell_nothing():
    is_false = np.array([True] * 30 + [False] * FEWEST + [True] * 30 + [False] * (FEWEST - 1))
    sets = np.array(["b"] * (30 + FEWEST) + ["a"] * (29 + FEWEST))
    assert told_apart(is_false, sets) == ["b"]


def table() -> pd.DataFrame:
    rng, is_false, sets = made()
    good = is_false + rng.standard_normal(len(sets))
    # of itself it tells sets apart, which are right unequally often, and nothing within one
    harder = np.select([sets == "a", sets == "b"], [0.0, 1.0], 2.0)
    is_false = is_false | ((sets == "c") & (rng.random(len(sets)) < 0.5))
    return pd.DataFrame(dict(set=sets, is_false=is_false, good=good, harder=harder, same=good))


def test_areas_are_those_of_scikit_learn_by_set_and_their_mean():
    rows = table()
    found = detection(detection_draws(rows, ["good"], seed=0)).set_index(["set", "measure"])
    wanted = [roc_auc_score(own.is_false, own.good) for _, own in rows.groupby("set")]
    precise = [average_precision_score(own.is_false, own.good) for _, own in rows.groupby("set")]
    assert found.value[MEAN, "auroc"] == pytest.approx(np.mean(wanted))
    assert found.value["b", "auprc"] == pytest.approx(precise[1])
    assert found.value[MEAN, "auprc"] == pytest.approx(np.mean(precise))
    assert (found.low < found.value).all()
    assert (found.value < found.high).all()
    assert found.n[MEAN, "aurc"] == len(rows)


def test_telling_sets_apart_is_worth_nothing():
    rows = table()
    assert roc_auc_score(rows.is_false, rows.harder) > 0.6
    found = detection(detection_draws(rows, ["harder"], seed=0)).set_index(["set", "measure"])
    assert found.value[MEAN, "auroc"] == 0.5


def test_a_gain_is_the_difference_of_mean_areas_and_none_over_itself():
    rows = table()
    draws = detection_draws(rows, ["good", "harder", "same"], seed=0)
    found = detection(draws).set_index(["score", "set", "measure"])
    better = gain(draws, "good", "harder")
    assert better.value == pytest.approx(found.value["good", MEAN, "auroc"] - 0.5)
    assert better.low > 0
    nothing = gain(draws, "good", "same")
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)


def test_where_nothing_can_be_told_there_is_no_row():
    draws = detection_draws(table().assign(is_false=True), ["good", "harder"], seed=0)
    assert detection(draws).empty
    assert gain(draws, "good", "harder") is None


def test_areas_are_scikit_learns_with_ties_and_weights():
    rng = np.random.default_rng(0)
    score, is_false = rng.integers(0, 5, 80).astype(float), rng.random(80) < 0.3
    weights = np.vstack([np.ones(80, int), rng.integers(0, 3, (2 * AT_ONCE, 80))])
    found = areas(score, is_false, weights)
    for name, judge in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
        wanted = [judge(is_false, score, sample_weight=w) for w in weights]
        np.testing.assert_allclose(found[name], wanted)
    repeated = [np.repeat(np.arange(80), w) for w in weights[:3]]
    risks = [risk_coverage(score[own], is_false[own]).risk.mean() for own in repeated]
    np.testing.assert_allclose(found["aurc"][:3], risks)
    assert np.isnan(areas(score, np.zeros(80, bool), weights)["auprc"]).all()


def test_features_are_both_statistics_of_the_chosen_blocks():
    rows = pd.DataFrame({"score": ["HSAV", "HSAV", "HSS", "HSS"], "b0": [1, 2, 3, 4]})
    rows = rows.assign(b1=rows.b0 * 10)
    assert block_features(rows, [1]).tolist() == [[10, 30], [20, 40]]
    assert block_features(rows, [0, 1]).shape == (2, 4)
