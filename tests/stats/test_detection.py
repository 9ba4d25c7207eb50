"""Scores of answers and what their quality is, on cases worked by hand and planted ones."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from test_contrasts import EPS, made_tokens

from avss_utils.errors import UsageError
from avss_utils.measure.answer_tokens import AnswerTokens
from avss_utils.scores.answer_features import answer_features, baseline_scores
from avss_utils.stats.detection import (
    aurc_estimate,
    auroc_estimate,
    brier_estimate,
    detect,
    detection_table,
    fit_detector,
    risk_coverage,
)
from avss_utils.stats.resampling import limits, resample_counts

BY_HAND = np.array([1.0, 2.0, 2.0, 3.0]), np.array([False, True, False, True])


def scored(n: int, *, seed: int, gap: float = 0.8):
    """Scores of n true and n false answers, the false ones ``gap`` higher; a pair a question."""
    rng = np.random.default_rng(seed)
    is_false = np.tile([False, True], n)
    return rng.standard_normal(2 * n) + gap * is_false, is_false, np.repeat(np.arange(n), 2)


def test_features_are_log_variance_and_sparsity_of_the_answers_own_entries():
    tokens, _, x = made_tokens(0, n_pairs=60)
    found = answer_features(tokens, [3, 1], site="residual", limit="absolute")
    assert found.shape == (120, 4)
    without_zeros = 0
    for number in range(120):
        own = x[tokens.answer == number][:, [3, 1]]
        zeros = (np.abs(own) < EPS).sum((0, 2))
        without_zeros += (zeros == 0).sum()
        share = np.where(zeros > 0, zeros, 0.5) / (len(own) * own.shape[2])
        expected = np.log([*own.var(axis=(0, 2)), *share])
        np.testing.assert_allclose(found[number], expected)
    assert without_zeros > 0, "no answer tries the floor"


def test_baselines_by_hand():
    tokens = AnswerTokens(
        np.array([0, 0, 0, 1]),
        np.array([0, 1, 2, 0]),
        np.array([-1.0, -2.0, -6.0, -0.5]),
        np.array([0.3, 0.6, 0.0, 2.0]),
        {},
        {},
        {},
        {},
    )
    found = baseline_scores(tokens)
    assert found["summed surprise"].to_list() == [9.0, 0.5]
    assert found["mean surprise"].to_list() == [3.0, 0.5]
    assert found["mean entropy"].to_list() == pytest.approx([0.3, 2.0])
    assert found["first entropy"].to_list() == [0.3, 2.0]
    assert found["length"].to_list() == [3.0, 1.0]


def test_auroc_and_area_by_hand():
    score, is_false = BY_HAND
    table = detection_table({"own": score, "other": -score}, is_false, np.arange(4), seed=0)
    assert table.score.to_list() == ["own", "other"]
    # of the four pairs three are won and one is a tie
    assert table.auroc.to_list() == [3.5 / 4, 0.5 / 4]
    # accepted: true, then half a false one, one, two
    assert table.aurc.iloc[0] == pytest.approx((0 + 0.5 / 2 + 1 / 3 + 2 / 4) / 4)
    assert (table.n == 4).all()


def test_risk_and_coverage_by_hand():
    found = risk_coverage(*BY_HAND)
    assert found.coverage.to_list() == [0.25, 0.5, 0.75, 1.0]
    np.testing.assert_allclose(found.risk, [0, 0.25, 1 / 3, 0.5])


def test_the_interval_of_the_area_covers_that_of_many_answers():
    score, is_false, _ = scored(20_000, seed=0)
    whole = risk_coverage(score, is_false).risk.mean()
    found = [aurc_estimate(*scored(100, seed=i), seed=i, n_resamples=200) for i in range(1, 61)]
    covered = [e.low <= whole <= e.high for e in found]
    assert 0.85 <= np.mean(covered) < 1
    assert np.mean([e.value for e in found]) == pytest.approx(whole, abs=0.01)


@pytest.mark.parametrize("decimals", [0, 8])
def test_the_area_of_each_resample_is_that_of_its_rows(decimals):
    score, is_false, groups = scored(30, seed=1)
    score = score.round(decimals)  # with and without ties
    own = aurc_estimate(score, is_false, groups, seed=5, n_resamples=40)
    counts = resample_counts(30, 40, np.random.default_rng(5))[:, groups]
    areas = []
    for count in counts:
        rows = np.repeat(np.arange(60), count)
        areas.append(risk_coverage(score[rows], is_false[rows]).risk.mean())
    assert own.value == pytest.approx(areas[0])
    assert (own.low, own.high) == pytest.approx(limits(np.array(areas[1:])))


def test_a_blind_score_has_the_risk_of_all_answers_in_any_order():
    is_false = np.random.default_rng(0).random(50) < 0.3
    np.testing.assert_allclose(risk_coverage(np.zeros(50), is_false).risk, is_false.mean())


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_auroc_is_that_of_scikit_learn(decimals):
    score, is_false, groups = scored(60, seed=1)
    score = score.round(decimals)
    found = auroc_estimate(score, is_false, groups, seed=0, n_resamples=200)
    assert found.value == pytest.approx(roc_auc_score(is_false, score))
    assert found.low < found.value < found.high


def test_parts_are_compared_within_themselves():
    score, is_false, groups = scored(60, seed=2)
    part = groups % 2
    # a shift of one part is no evidence of anything
    found = auroc_estimate(score + 100 * part, is_false, groups, within=part, seed=0)
    parts = [roc_auc_score(is_false[part == p], score[part == p]) for p in (0, 1)]
    assert found.value == pytest.approx(np.mean(parts))


def test_questions_are_drawn_whole():
    score, is_false, _ = scored(20, seed=3)
    # the same answers ten times over are no more evidence than once
    copies, labels = np.tile(score, 10), np.tile(is_false, 10)
    question = np.tile(np.arange(20).repeat(2), 10)
    once = auroc_estimate(score, is_false, question[:40], seed=0)
    often = auroc_estimate(copies, labels, question, seed=0)
    alone = auroc_estimate(copies, labels, np.arange(400), seed=0)
    assert (often.value, often.low, often.high) == pytest.approx((once.value, once.low, once.high))
    assert alone.high - alone.low < 0.5 * (often.high - often.low)


def test_intervals_hold_the_truth_as_often_as_they_say():
    from scipy.stats import norm

    truth = norm.cdf(0.8 / np.sqrt(2))
    found = [auroc_estimate(*scored(60, seed=s), seed=0, n_resamples=300) for s in range(400)]
    assert 0.92 <= np.mean([e.low <= truth <= e.high for e in found]) <= 0.98


def test_a_detector_fitted_on_some_answers_ranks_others():
    told = dict(planted={1: 1.6})
    (tokens, *_), (others, *_) = (made_tokens(s, n_pairs=150, **told) for s in (4, 5))
    is_false = np.tile([False, True], 150)
    areas = {}
    for blocks in ([1], [3]):
        own, new = (
            answer_features(t, blocks, site="residual", limit="absolute") for t in (tokens, others)
        )
        p_false = detect(fit_detector(own, is_false, seed=0), new)
        assert p_false.shape == (300,)
        assert ((p_false >= 0) & (p_false <= 1)).all()
        areas[blocks[0]] = roc_auc_score(is_false, p_false)
    assert areas[1] > 0.85
    assert abs(areas[3] - 0.5) < 0.1


def test_what_cannot_be_ranked_is_refused():
    score, is_false, groups = scored(5, seed=6)
    with pytest.raises(ValueError, match="needs both"):
        auroc_estimate(score, np.zeros(10, bool), groups, seed=0)
    with pytest.raises(ValueError, match="not finite"):
        auroc_estimate(np.append(score[1:], np.nan), is_false, groups, seed=0)
    with pytest.raises(UsageError, match=r"the 10 answers .* take more questions"):
        fit_detector(score[:, None], np.zeros(10, bool), seed=0)
    with pytest.raises(ValueError, match="one of each"):
        auroc_estimate(score[1:], is_false, groups, seed=0)


def test_the_brier_score_by_hand_and_over_whole_questions():
    p, is_false = np.array([0.0, 1.0, 0.5, 0.8]), np.array([False, False, True, True])
    found = brier_estimate(p, is_false, np.arange(4), seed=0)
    assert found.value == pytest.approx((0 + 1 + 0.25 + 0.04) / 4)
    assert 0 <= found.low < found.value < found.high <= 1
    together = brier_estimate(
        np.repeat(p, 9), np.repeat(is_false, 9), np.repeat(list("abcd"), 9), seed=0
    )
    assert together.n == 36
    many = brier_estimate(np.repeat(p, 9), np.repeat(is_false, 9), np.arange(36), seed=0)
    assert many.high - many.low < 0.5 * (together.high - together.low)
    share = np.full(4, 0.5)
    assert brier_estimate(share, is_false, np.arange(4), seed=0).value == 0.25
